"""LoRA and learned words: files that other programs write and read, and the layers in a model.

These names and their signatures are what training and the commands use.
"""

from t2i.adapters.lora_arithmetic import Fit, extract, merge, resize
from t2i.adapters.lora_layers import PARTS, Hadamard, Kronecker, Lora, Low
from t2i.adapters.lora_reader import read
from t2i.adapters.lora_summary import PartFacts, facts_of
from t2i.adapters.lora_writer import Facts, write_diffusers, write_kohya, write_peft
from t2i.adapters.peft_layers import from_model, put_on, take_off
from t2i.adapters.textual_inversion import (
    Embedding,
    read_embedding,
    read_embeddings,
    write_embedding,
    write_embedding_kohya,
)

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
