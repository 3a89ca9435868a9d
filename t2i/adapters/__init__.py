"""LoRA and learned words: files that other programs write and read, and the layers in a model.

These names and their signatures are what training and the commands use.
"""

from t2i.adapters.embedding import (
    Embedding,
    read_embedding,
    read_embeddings,
    write_embedding,
    write_embedding_kohya,
)
from t2i.adapters.facts import PartFacts, facts_of
from t2i.adapters.injected import from_model, put_on, take_off
from t2i.adapters.layers import PARTS, Hadamard, Kronecker, Lora, Low
from t2i.adapters.maths import Fit, extract, merge, resize
from t2i.adapters.reading import read
from t2i.adapters.writing import Facts, write_diffusers, write_kohya, write_peft

__all__ = [
    "PARTS",
    "Embedding",
    "Facts",
    "Fit",
    "Hadamard",
    "Kronecker",
    "Lora",
    "Low",
    "PartFacts",
    "extract",
    "facts_of",
    "from_model",
    "merge",
    "put_on",
    "read",
    "read_embedding",
    "read_embeddings",
    "resize",
    "take_off",
    "write_diffusers",
    "write_embedding",
    "write_embedding_kohya",
    "write_kohya",
    "write_peft",
]
