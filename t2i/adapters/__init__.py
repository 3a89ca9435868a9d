"""LoRAs and learned words: reading and writing their files, and putting them on a model."""

from t2i.adapters.lora_arithmetic import (
    LoraApproximation,
    extract_lora,
    merge_into_weights,
    resize_lora,
)
from t2i.adapters.lora_files.kohya_header import KohyaMetadata
from t2i.adapters.lora_files.reader import read_lora
from t2i.adapters.lora_files.writer import (
    write_diffusers_lora,
    write_kohya_lora,
    write_peft_folders,
)
from t2i.adapters.lora_layers import (
    MODEL_PARTS,
    HadamardUpdate,
    KroneckerUpdate,
    Lora,
    LowRankUpdate,
)
from t2i.adapters.lora_summary import PartSummary, summarize_lora
from t2i.adapters.peft_layers import add_lora, remove_lora
from t2i.adapters.peft_reading import read_lora_from_models
from t2i.adapters.textual_inversion import (
    LearnedWord,
    read_all_learned_words,
    read_learned_word,
    write_learned_word,
    write_learned_word_kohya,
)

__all__ = [
    "MODEL_PARTS",
    "HadamardUpdate",
    "KohyaMetadata",
    "KroneckerUpdate",
    "LearnedWord",
    "Lora",
    "LoraApproximation",
    "LowRankUpdate",
    "PartSummary",
    "add_lora",
    "extract_lora",
    "merge_into_weights",
    "read_all_learned_words",
    "read_learned_word",
    "read_lora",
    "read_lora_from_models",
    "remove_lora",
    "resize_lora",
    "summarize_lora",
    "write_diffusers_lora",
    "write_kohya_lora",
    "write_learned_word",
    "write_learned_word_kohya",
    "write_peft_folders",
]
