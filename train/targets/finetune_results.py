"""Files of a finished fine-tune: adapters and new words for other programs, retrained models.

lora.safetensors, lora-kohya.safetensors    adapters, for diffusers and for the UIs
peft/                                       adapters as peft's own folders
<word>.safetensors, <word>-kohya.safetensors    new words
model_index.json, unet/, ...                the whole model, where its own weights were trained
t2i.json                                    how it was made, and how to draw with it
"""

import json
import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import nn
from transformers import CLIPTokenizer

from t2i.adapters import (
    KohyaMetadata,
    LearnedWord,
    Lora,
    read_lora_from_models,
    remove_lora,
    write_diffusers_lora,
    write_kohya_lora,
    write_learned_word,
    write_learned_word_kohya,
    write_peft_folders,
)
from t2i.atomic_folders import atomic_folder
from t2i.denoiser.build import ModelComponents
from t2i.denoiser.families.sdxl import takes_size_conditioning
from t2i.denoiser.loading.model_location import MODEL_NOTES_FILE
from t2i.denoiser.schedulers import Scheduler
from train.export import DTYPE_BY_PRECISION, ExportConfig, ModelNotes, convert_and_write_model
from train.targets.parts.learned_words import ExtendedEmbedding, NewWordConfig

if TYPE_CHECKING:
    from t2i.adapters.lora_files.kohya_header import ModelFamily

SD2_TEXT_WIDTH = 1024
"""Width of the text embeddings that the UNet of Stable Diffusion 2 reads."""
LORA, LORA_KOHYA, PEFT = "lora.safetensors", "lora-kohya.safetensors", "peft"


@dataclass(frozen=True, slots=True)
class FineTunedModel:
    """Fine-tuned model with everything that its result files are written from.

    original_tokenizers : those of both text encoders, without the new words
    models : the trainable models by their names in a pipeline
    adapters : peft's names of the trained adapters
    has_full_parts : weights of the model itself were trained
    base : the model that it was trained from, as the config names it
    """

    components: ModelComponents
    original_tokenizers: tuple[CLIPTokenizer, CLIPTokenizer | None]
    scheduler: Scheduler
    models: Mapping[str, nn.Module]
    adapters: Sequence[str]
    words: Sequence[NewWordConfig]
    has_full_parts: bool
    base: str


def write_fine_tune_files(
    trained: FineTunedModel, folder: Path, config: ExportConfig, notes: ModelNotes
) -> None:
    """Write the result files of a fine-tune into `folder`: adapters, new words, and the whole
    model if its own weights were trained.

    The folder is complete or not there at all.
    """
    precision = DTYPE_BY_PRECISION[config.precision]
    with atomic_folder(folder) as new:
        if trained.has_full_parts:
            convert_and_write_model(copy_without_adapters(trained), trained.scheduler, new, config)
        if trained.adapters:
            write_lora_in_each_format(
                new, collect_trained_adapters_as_lora(trained, precision), trained.components.unet
            )
        for embedding in collect_learned_words(trained, precision):
            name = re.sub(r"[^\w.-]", "", str(embedding.token)) or "word"
            write_learned_word(new / f"{name}.safetensors", embedding)
            write_learned_word_kohya(new / f"{name}-kohya.safetensors", embedding)
        defaults = {**notes["defaults"]}
        defaults.pop("sampler", None)  # the base model's own stays
        facts = notes | {
            "defaults": defaults,
            "base": format_base_name(trained.base),
            "words": [word.word for word in trained.words],
        }
        (new / MODEL_NOTES_FILE).write_text(json.dumps(facts, indent=1) + "\n", "utf-8")


def collect_trained_adapters_as_lora(trained: FineTunedModel, precision: torch.dtype) -> Lora:
    """Return the trained adapters as one LoRA, their tensors on the CPU."""
    states = {
        name: {
            key: tensor.detach().to("cpu", precision)
            for key, tensor in model.state_dict().items()
            if not {*key.split(".")}.isdisjoint(trained.adapters)
        }
        for name, model in trained.models.items()
    }
    return read_lora_from_models(trained.models, trained.adapters, states)


def write_lora_in_each_format(folder: Path, lora: Lora, unet: UNet2DConditionModel) -> None:
    """Write the LoRA in each format that can hold its kind: diffusers, kohya, peft."""
    per_block = unet.config["layers_per_block"]
    one_text: ModelFamily = "sd2" if unet.config["cross_attention_dim"] == SD2_TEXT_WIDTH else "sd1"
    facts = KohyaMetadata(
        family="sdxl" if takes_size_conditioning(unet) else one_text,
        layers_per_block=per_block if isinstance(per_block, int) else 2,
    )
    write_kohya_lora(folder / LORA_KOHYA, lora, facts)
    if lora.kinds == {"lora"}:
        write_diffusers_lora(folder / LORA, lora)
    if "lokr" not in lora.kinds and len(lora.kinds) == 1:
        write_peft_folders(folder / PEFT, lora)


def collect_learned_words(trained: FineTunedModel, precision: torch.dtype) -> list[LearnedWord]:
    """Return the embeddings of each new word, in every text encoder that has them."""
    components = trained.components
    encoders = {
        "text_encoder": components.text_encoder,
        "text_encoder_2": components.text_encoder_2,
    }
    tables = {
        name: table
        for name, encoder in encoders.items()
        if encoder and isinstance(table := encoder.get_input_embeddings(), ExtendedEmbedding)
    }
    found, first = [], 0
    for word in trained.words:
        rows = slice(first, first + word.vectors)
        vectors = {n: t.vectors.detach()[rows].to(precision).cpu() for n, t in tables.items()}
        found.append(LearnedWord(vectors, word.word))
        first = rows.stop
    return found


def copy_without_adapters(trained: FineTunedModel) -> ModelComponents:
    """Return copies of the model's components without the adapters and new words, which have
    files of their own.
    """
    first, second = trained.original_tokenizers
    parts = replace(deepcopy(trained.components), tokenizer=first, tokenizer_2=second)
    remove_lora([parts.unet, parts.text_encoder, parts.text_encoder_2])
    for encoder in (parts.text_encoder, parts.text_encoder_2):
        if encoder is not None and isinstance(
            table := encoder.get_input_embeddings(), ExtendedEmbedding
        ):
            encoder.set_input_embeddings(table.known)
    return parts


def format_base_name(base: str) -> str:
    """Return the base model's name for t2i.json; of a local path only its last part."""
    return Path(base).name if Path(base).exists() else base
