"""The vocabulary of CLIP, which every Stable Diffusion reads and no single-file checkpoint has."""

from pathlib import Path

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError
from transformers import CLIPTokenizer

from t2i.errors import ModelError
from t2i.text.bpe import END, build_clip_tokenizer, load_vocabulary_and_merges

CLIP_REPOSITORY = "openai/clip-vit-large-patch14"
"""Hub repository with the vocabulary of every Stable Diffusion."""
CLIP_WINDOW_SIZE = 77
"""Tokens that CLIP reads at once."""


def download_clip_tokenizer(pad: str = END) -> CLIPTokenizer:
    """Return CLIP's tokenizer, from the hub or its cache on this machine.

    pad : token that it fills a prompt up with
    Raises ModelError where neither has it.
    """
    # Not CLIPTokenizer.from_pretrained: where it finds nothing it makes a tokenizer without words.
    try:
        files = [
            Path(hf_hub_download(CLIP_REPOSITORY, name)) for name in ("vocab.json", "merges.txt")
        ]
    except (OSError, HfHubHTTPError) as error:
        raise ModelError(
            f"A single file carries no vocabulary, and {CLIP_REPOSITORY} cannot be had from the "
            "hub: give config=, the folder of a Stable Diffusion of the same kind, or bring the "
            "tokenizers along, tokenizer=CLIPTokenizer.from_pretrained(...)."
        ) from error
    tokenizer = build_clip_tokenizer(*load_vocabulary_and_merges(files[0].parent), CLIP_WINDOW_SIZE)
    tokenizer.pad_token = pad
    return tokenizer
