"""Loading of pipeline folders with checks before any weight is read, and saving without pickles."""

import os
import warnings
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from torch import nn

from pipelines.base.auto_registration import AutoRegistrationMixin
from pipelines.base.saving import (
    activating_each_encoders_own_lora,
    check_saveable_and_list_lora_encoders,
    check_saved_lora_is_valid,
    check_saved_loras_fully_loaded,
    rename_dora_keys_in_lora_file,
    save_base_weights,
)
from t2i.atomic_files import write_atomically
from t2i.attention.probes.presence import (
    parse_presence_fit,
    read_presence_fit_text,
    store_presence_fit,
)
from t2i.denoiser.finite_checks import check_weights_finite
from t2i.denoiser.loading.model_folder import read_and_check_folder
from t2i.denoiser.loading.model_location import MODEL_NOTES_FILE, PRESENCE_FILE, locate_model
from t2i.denoiser.loading.model_parts import (
    KANDINSKY,
    KANDINSKY_PRIOR,
    MODEL_KINDS,
    SDXL,
    STABLE_DIFFUSION,
)
from t2i.denoiser.loading.single_file import load_single_file
from t2i.denoiser.loading.trial_pass import (
    check_tokens_have_embeddings,
    load_and_check_tokenizer,
    translating_load_errors,
)
from t2i.denoiser.presets import parse_presets
from t2i.denoiser.sampling_defaults import parse_sampling_defaults
from t2i.errors import ModelError
from t2i.safe_reading import MODEL_CONFIG_KIND, read_text

LOADING_CALL_BY_KIND = {
    STABLE_DIFFUSION: "TextToImagePipeline.from_pretrained(...) of pipelines.text_to_image",
    SDXL: "TextToImagePipeline.from_pretrained(...) of pipelines.text_to_image",
    KANDINSKY: "UnclipPipeline.from_pretrained(...) of pipelines.unclip.unclip",
    KANDINSKY_PRIOR: "UnclipPipeline.from_pretrained(decoder, prior=...) of "
    "pipelines.unclip.unclip",
}
"""Kind of model -> the call that loads it."""


class CheckedPipeline(AutoRegistrationMixin, DiffusionPipeline):
    """DiffusionPipeline that checks a model's files before it loads them; each subclass names the
    kinds of model that it accepts.
    """

    kinds: ClassVar[tuple[str, ...]]
    """Kinds of model that it loads: keys of t2i.denoiser.loading.model_parts.MODEL_KINDS."""
    notes: str | None = None
    """Text of the folder's t2i.json: sampling defaults, which pipelines of the same UNet share."""

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any
    ) -> Self:
        """Load a pipeline from a folder, a single .safetensors file or a hub id, after checking its
        files.

        Weights become float32 unless `dtype` is given. Takes the options of
        DiffusionPipeline.from_pretrained; for a single file those of load_single_file.
        """
        variant = kwargs.get("variant")
        place = locate_model(pretrained_model_name_or_path, variant)
        # By default transformers takes the file's precision and diffusers float32.
        dtype = kwargs.pop("dtype", kwargs.pop("torch_dtype", None)) or torch.float32
        if place.is_file():
            if STABLE_DIFFUSION not in cls.kinds:
                raise ModelError(
                    f"{place} is a single file, and {cls.__name__} reads none: give a folder as "
                    "diffusers saves it."
                )
            kwargs.pop("variant", None)
            parts = load_single_file(place, dtype=dtype, **kwargs)
            if "text_encoder" not in parts:  # SDXL's refiner, trained with empty prompts
                parts |= dict.fromkeys(MODEL_KINDS[SDXL].together)
                parts["force_zeros_for_empty_prompt"] = False
            return cls(**parts)
        contents = read_and_check_folder(place, variant=variant, given=kwargs.keys())
        if contents.model_kind not in cls.kinds:
            raise ModelError(
                f"{place} is a {contents.model_kind}, and {cls.__name__} cannot use it: load it "
                f"with {LOADING_CALL_BY_KIND[contents.model_kind]}."
            )
        for part in contents.parts:
            check_saved_lora_is_valid(place / part)
        optional = {*cls._optional_components, *MODEL_KINDS[contents.model_kind].together}
        absent = optional - {*contents.parts} - kwargs.keys()
        kwargs |= dict.fromkeys(absent)
        for part, class_name in contents.parts.items():
            if "tokenizer" in part:
                kwargs[part] = load_and_check_tokenizer(place / part, class_name)
        with translating_load_errors(place):
            pipe: Self = super().from_pretrained(
                str(place), dtype=dtype, use_safetensors=True, **kwargs
            )
        for part in contents.parts:
            if isinstance(model := getattr(pipe, part, None), nn.Module):
                check_weights_finite(str(place / part), model)
            encoder = part.replace("tokenizer", "text_encoder")
            if "tokenizer" in part and pipe.components.get(encoder) is not None:
                check_tokens_have_embeddings(place / part, kwargs[part], pipe.components[encoder])
        check_saved_loras_fully_loaded(
            place, {part: pipe.components.get(part) for part in contents.parts}
        )
        pipe.notes = read_notes_beside_model(place) or pipe.notes
        if "unet" not in kwargs:
            store_notes_and_fit_on_unet(pipe.components.get("unet"), pipe.notes, place)
        return pipe

    def save_pretrained(  # type: ignore[override]  # the rest is in kwargs
        self,
        save_directory: str | os.PathLike[str],
        safe_serialization: bool = True,
        **kwargs: Any,
    ) -> None:
        """Save the pipeline as a folder that diffusers reads, always as safetensors.

        Raises ModelError, writing nothing, where an attached adapter would be lost or misread: a
        LoRA on the UNet, an IP-Adapter. A LoRA on a text encoder is saved with it.
        """
        with_lora = check_saveable_and_list_lora_encoders(self.components, Path(save_directory))
        if not safe_serialization:
            warnings.warn("Pickled weights are not written: saving as safetensors.", stacklevel=2)
        for name in with_lora:
            options = {key: kwargs[key] for key in ("variant", "max_shard_size") if key in kwargs}
            save_base_weights(getattr(self, name), Path(save_directory) / name, **options)
        with activating_each_encoders_own_lora(getattr(self, name) for name in with_lora):
            super().save_pretrained(save_directory, **kwargs)
        for name in with_lora:
            rename_dora_keys_in_lora_file(Path(save_directory) / name)
        fit = read_presence_fit_text(self.components.get("unet"))
        for name, text in ((MODEL_NOTES_FILE, self.notes), (PRESENCE_FILE, fit)):
            if text is not None:
                write_text_atomically(Path(save_directory) / name, text)


def write_text_atomically(path: Path, text: str) -> None:
    """Write a text as UTF-8, completely or not at all."""
    write_atomically(path, lambda part: part.write_text(text, "utf-8"))


def read_notes_beside_model(folder: Path) -> str | None:
    """Return the text of a model folder's t2i.json, or None; raise ModelError if it is invalid."""
    path = folder / MODEL_NOTES_FILE
    if not path.is_file():
        return None
    text = read_text(path, MODEL_CONFIG_KIND)
    parse_sampling_defaults(text, path)
    parse_presets(text, path)
    return text


def store_notes_and_fit_on_unet(unet: Any, notes: str | None, folder: Path) -> None:
    """Store the text of a model's t2i.json, and the presence fit of its folder, on its UNet, so
    that other pipelines with this UNet find them. Raises ModelError for an invalid presence fit.
    """
    if notes is not None:
        unet.t2i_notes = notes
    path = folder / PRESENCE_FILE
    if path.is_file():
        fit = read_text(path, MODEL_CONFIG_KIND)
        parse_presence_fit(fit, path)
        store_presence_fit(unet, fit)


def read_t2i_json_from_unet(unet: Any) -> str | None:
    """Return the text of the model's t2i.json (sampling defaults) that
    `store_notes_and_fit_on_unet` stored on a UNet, or None.
    """
    notes: str | None = getattr(unet, "t2i_notes", None)
    return notes
