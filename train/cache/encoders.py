"""The autoencoder and text encoders of a base model, for filling the cache."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import nn

from pipelines.text_to_image import TextToImagePipeline
from t2i.denoiser.build import ModelComponents
from t2i.denoiser.families.sd import pixels_per_latent
from t2i.errors import ModelError
from train.cache.caption_encoding import build_caption_encoder
from train.cache.freed_weights import has_freed_weights, remove_weights, restore_freed_weights
from train.cache.model_digests import compute_config_and_weights_digest, compute_tokenizer_digest
from train.data.buckets import Shape

if TYPE_CHECKING:
    from train.cache.text_cache import CachedTextEmbeddings

MODELS_BY_KIND = {"latents": ("vae",), "texts": ("text_encoder", "text_encoder_2")}
"""Kind of cached data -> the models that make it."""
TOKENIZER_NAMES = ("tokenizer", "tokenizer_2")
BYTES_PER_FLOAT = 4
"""Bytes of a number in float32."""
CACHE_VERSION = "1"
"""Version of how cached data is made; after a change it is made anew."""


class CacheEncoders:
    """Autoencoder and text encoders of a base model, loaded without its denoiser.

    `release_weights` frees the weights of models whose output is cached; `reload_weights` reads
    them from the base model again, checked to be the same, for generating and exporting.

    given : components of the pipeline by name; released models are there without their weights
    facts : kind of cached data, "latents" or "texts" -> digest of what made it
    """

    def __init__(self, base: str, stored: torch.dtype = torch.float32) -> None:
        """stored : dtype of the weights after `reload_weights`"""
        self.base, self.stored = base, stored
        self.given = _load_without_unet(base, {})
        self.facts: dict[str, str] = {}
        self.texts: CachedTextEmbeddings | None = None
        self._digests: dict[str, str] = {}
        self._released: set[str] = set()

    @property
    def models_by_name(self) -> dict[str, nn.Module]:
        """Loaded autoencoder and text encoders by their names in the pipeline."""
        return {name: part for name, part in self.given.items() if isinstance(part, nn.Module)}

    def build_components_without_denoiser(self) -> ModelComponents:
        """Return the loaded models and tokenizers as `Components` without a denoiser."""
        parts: Any = {field.name: self.given.get(field.name) for field in fields(ModelComponents)}
        return ModelComponents(**parts)

    @property
    def bytes_per_text_window(self) -> int:
        """Bytes that the embeddings of one text window take in the cache."""
        encoders = [self.given[name] for name in MODELS_BY_KIND["texts"] if name in self.given]
        width = sum(int(encoder.config.hidden_size) for encoder in encoders)
        return (
            build_caption_encoder(self.build_components_without_denoiser()).window_size
            * width
            * BYTES_PER_FLOAT
        )

    def count_latents_bytes(self, shape: Shape) -> int:
        """Count the bytes that the latents of a picture of this height and width take in the
        cache.
        """
        vae = self.given["vae"]
        numbers = int(vae.config["latent_channels"]) * (1 + isinstance(vae, AutoencoderKL))
        return numbers * BYTES_PER_FLOAT * shape.height * shape.width // pixels_per_latent(vae) ** 2

    def compute_digest(self, kind: str) -> str:
        """Return the SHA-256 of the models and tokenizers that make the cached "latents" or
        "texts".
        """
        parts = [self._digest(name) for name in MODELS_BY_KIND[kind] if name in self.models_by_name]
        if kind == "texts":
            parts += [
                compute_tokenizer_digest(self.given[name])
                for name in TOKENIZER_NAMES
                if name in self.given
            ]
        return hashlib.sha256(" ".join([CACHE_VERSION, *parts]).encode()).hexdigest()

    def release_weights(self, kinds: Iterable[str] = ()) -> None:
        """Free the memory of the models whose output ("latents", "texts") is cached, and of all
        models that were released before.
        """
        for kind in kinds:
            self._released |= {name for name in MODELS_BY_KIND[kind] if name in self.models_by_name}
        for name in self._released:
            self._digest(name)
            remove_weights(self.models_by_name[name])

    def reload_weights(self, device: torch.device) -> None:
        """Load the weights of released models from the base model again, for generating and
        exporting.

        Raises ModelError where the base has changed since.
        """
        released = {
            name: model for name, model in self.models_by_name.items() if has_freed_weights(model)
        }
        if not released:
            return
        here = {name: part for name, part in self.given.items() if name not in released}
        found = _load_without_unet(self.base, here)
        for name, model in released.items():
            if compute_config_and_weights_digest(found[name]) != self._digests[name]:
                raise ModelError(
                    f"The {name} of {self.base} has changed since the run began: restore the old "
                    "one; the same command goes on from the newest checkpoint."
                )
            restore_freed_weights(model, found[name])
            model.to(device).requires_grad_(False).eval()
            config: Any = model.config
            if not (name == "vae" and config.get("force_upcast", False)):
                for weight in model.parameters():
                    weight.data = weight.data.to(self.stored)

    def _digest(self, name: str) -> str:
        if name not in self._digests:
            self._digests[name] = compute_config_and_weights_digest(self.models_by_name[name])
        return self._digests[name]


def _load_without_unet(base: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Load all components but the denoiser, in float32 on the CPU."""
    pipe = TextToImagePipeline.from_pretrained(base, **{**given, "unet": None})
    return {name: part for name, part in pipe.components.items() if part is not None}
