"""What a fine-tune leaves: files that other programs read, and a folder for what was retrained.

lora.safetensors, lora-kohya.safetensors    adapters, for diffusers and for the UIs
peft/                                       adapters as peft's own folders
<word>.safetensors, <word>-kohya.safetensors    new words
model_index.json, unet/, ...                the whole model, where its own weights were trained
t2i.json                                    how it was made, and how to draw with it
"""

import json
import re
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from t2i.adapters import (
    Embedding,
    Facts,
    Lora,
    from_model,
    take_off,
    write_diffusers,
    write_embedding,
    write_embedding_kohya,
    write_kohya,
    write_peft,
)
from t2i.adapters.lora_writer import Family
from t2i.atomic_folders import whole_folder
from t2i.denoiser.build import Components
from t2i.denoiser.families.sdxl import is_told_sizes
from t2i.denoiser.loading.address import NOTES
from train.export import PRECISIONS, ExportConfig, Notes, write_model
from train.targets.learned_words import Table, Word, WordsPart
from train.targets.trained_parts import FullPart

if TYPE_CHECKING:
    from train.targets.finetune import FineTune

WIDTH_SD2 = 1024
"""Of what the UNet of Stable Diffusion 2 reads."""
LORA, LORA_KOHYA, PEFT = "lora.safetensors", "lora-kohya.safetensors", "peft"


def write_results(target: "FineTune", folder: Path, config: ExportConfig, notes: Notes) -> None:
    """Write all files of the module's docstring that there is something for, or none."""
    precision = PRECISIONS[config.precision]
    adapters, parts = target.adapters(), target.config.parts
    with whole_folder(folder) as new:
        if any(isinstance(part, FullPart) for part in parts):
            write_model(plain(target), target.scheduler(), new, config)
        if adapters:
            write_lora(new, lora_of(target, adapters, precision), target)
        for embedding in embeddings(target, precision):
            name = re.sub(r"[^\w.-]", "", str(embedding.token)) or "word"
            write_embedding(new / f"{name}.safetensors", embedding)
            write_embedding_kohya(new / f"{name}-kohya.safetensors", embedding)
        defaults = {**notes["defaults"]}
        defaults.pop("sampler", None)  # the base model's own stays
        told = notes | {
            "defaults": defaults,
            "base": called(target.config.base),
            "words": target.words(),
        }
        (new / NOTES).write_text(json.dumps(told, indent=1) + "\n", "utf-8")


def lora_of(target: "FineTune", adapters: Sequence[str], precision: torch.dtype) -> Lora:
    """The trained adapters, their tensors on the CPU."""
    states = {
        name: {
            key: tensor.detach().to("cpu", precision)
            for key, tensor in model.state_dict().items()
            if not adapters_of(key).isdisjoint(adapters)
        }
        for name, model in target.models().items()
    }
    return from_model(target.models(), adapters, states)


def adapters_of(key: str) -> set[str]:
    return {*key.split(".")}


def write_lora(folder: Path, lora: Lora, target: "FineTune") -> None:
    per_block = target.unet.config["layers_per_block"]
    one_text: Family = "sd2" if target.unet.config["cross_attention_dim"] == WIDTH_SD2 else "sd1"
    facts = Facts(
        family="sdxl" if is_told_sizes(target.unet) else one_text,
        layers_per_block=per_block if isinstance(per_block, int) else 2,
    )
    write_kohya(folder / LORA_KOHYA, lora, facts)
    if lora.kinds == {"lora"}:
        write_diffusers(folder / LORA, lora)
    if "lokr" not in lora.kinds and len(lora.kinds) == 1:
        write_peft(folder / PEFT, lora)


def embeddings(target: "FineTune", precision: torch.dtype) -> list[Embedding]:
    """The new words with their vectors, one after the other."""
    encoders = {"text_encoder": target.text_encoder, "text_encoder_2": target.text_encoder_2}
    tables = {
        name: table
        for name, encoder in encoders.items()
        if encoder and isinstance(table := encoder.get_input_embeddings(), Table)
    }
    found, first = [], 0
    for word in words_of(target):
        rows = slice(first, first + word.vectors)
        vectors = {n: t.vectors.detach()[rows].to(precision).cpu() for n, t in tables.items()}
        found.append(Embedding(vectors, word.word))
        first = rows.stop
    return found


def words_of(target: "FineTune") -> list[Word]:
    parts = [part for part in target.config.parts if isinstance(part, WordsPart)]
    return [word for part in parts for word in part.words]


def plain(target: "FineTune") -> Components:
    """Copies of the parts without adapters and new words, which have files of their own."""
    first, second = target.tokenizers
    parts = replace(deepcopy(target.components), tokenizer=first, tokenizer_2=second)
    take_off([parts.unet, parts.text_encoder, parts.text_encoder_2])
    for encoder in (parts.text_encoder, parts.text_encoder_2):
        if encoder is not None and isinstance(table := encoder.get_input_embeddings(), Table):
            encoder.set_input_embeddings(table.known)
    return parts


def called(base: str) -> str:
    """The base model's name; of a path the last part alone, as paths mean something here only."""
    return Path(base).name if Path(base).exists() else base
