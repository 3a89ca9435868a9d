"""LoRAs and learned words: reading and writing their files, and putting them on a model."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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

MODULE_BY_NAME = {
    "HadamardUpdate": "t2i.adapters.lora_layers",
    "KohyaMetadata": "t2i.adapters.lora_files.kohya_header",
    "KroneckerUpdate": "t2i.adapters.lora_layers",
    "LearnedWord": "t2i.adapters.textual_inversion",
    "Lora": "t2i.adapters.lora_layers",
    "LoraApproximation": "t2i.adapters.lora_arithmetic",
    "LowRankUpdate": "t2i.adapters.lora_layers",
    "MODEL_PARTS": "t2i.adapters.lora_layers",
    "PartSummary": "t2i.adapters.lora_summary",
    "add_lora": "t2i.adapters.peft_layers",
    "extract_lora": "t2i.adapters.lora_arithmetic",
    "merge_into_weights": "t2i.adapters.lora_arithmetic",
    "read_all_learned_words": "t2i.adapters.textual_inversion",
    "read_learned_word": "t2i.adapters.textual_inversion",
    "read_lora": "t2i.adapters.lora_files.reader",
    "read_lora_from_models": "t2i.adapters.peft_reading",
    "remove_lora": "t2i.adapters.peft_layers",
    "resize_lora": "t2i.adapters.lora_arithmetic",
    "summarize_lora": "t2i.adapters.lora_summary",
    "write_diffusers_lora": "t2i.adapters.lora_files.writer",
    "write_kohya_lora": "t2i.adapters.lora_files.writer",
    "write_learned_word": "t2i.adapters.textual_inversion",
    "write_learned_word_kohya": "t2i.adapters.textual_inversion",
    "write_peft_folders": "t2i.adapters.lora_files.writer",
}
"""Name -> the module that it waits in, which is imported when it is used."""


def __getattr__(name: str) -> object:
    if name in MODULE_BY_NAME:
        return getattr(importlib.import_module(MODULE_BY_NAME[name]), name)
    raise AttributeError(f"module 't2i.adapters' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
