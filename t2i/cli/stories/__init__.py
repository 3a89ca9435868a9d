"""What pictures say about their making: how files carry it, and how each tool writes it."""
