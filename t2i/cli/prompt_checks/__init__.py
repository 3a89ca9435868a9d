"""Checks of what prompts say: words that the model does not know, and prompts that are files."""
