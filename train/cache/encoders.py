"""The parts of a base model that turn pictures and captions into what a denoiser reads."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import nn

from pipelines.text_to_image import TextToImagePipeline
from t2i.denoiser.build import Components
from t2i.denoiser.families.sd import pixels_per_latent
from t2i.errors import ModelError
from train.cache.caption_encoding import encoder_of
from train.cache.text_cache import Texts
from train.cache.weightless import fill, hollow, is_hollow, weights_digest, words_digest
from train.data.buckets import Shape

OF = {"latents": ("vae",), "texts": ("text_encoder", "text_encoder_2")}
"""What makes what is cached."""
WORDS = ("tokenizer", "tokenizer_2")
NUMBER = 4
"""Bytes of one in float32."""
VERSION = "1"
"""Of how the cached things are made; another one makes them anew."""


class Encoders:
    """Loaded without the denoiser. What is no longer needed lets its weights go, and gets them
    back from the base, checked to be the same, where something is drawn or exported.
    """

    def __init__(self, base: str, stored: torch.dtype = torch.float32) -> None:
        """stored : what weights are held in once they are taken up again"""
        self.base, self.stored = base, stored
        self.given = parts_of(base, {})
        """Of the pipeline, by their names; what was let go is there without its weights."""
        self.facts: dict[str, str] = {}
        """What is cached, "latents" or "texts" -> digest of what made it."""
        self.texts: Texts | None = None
        self._digests: dict[str, str] = {}
        self._away: set[str] = set()

    @property
    def models(self) -> dict[str, nn.Module]:
        return {name: part for name, part in self.given.items() if isinstance(part, nn.Module)}

    def components(self) -> Components:
        """All that reads captions; of the denoiser nothing is loaded yet."""
        parts: Any = {field.name: self.given.get(field.name) for field in fields(Components)}
        return Components(**parts)

    @property
    def bytes_of_a_text(self) -> int:
        """Embeddings of one window."""
        encoders = [self.given[name] for name in OF["texts"] if name in self.given]
        width = sum(int(encoder.config.hidden_size) for encoder in encoders)
        return encoder_of(self.components()).window * width * NUMBER

    def bytes_of_latents(self, shape: Shape) -> int:
        """Moments of a picture of that height and width."""
        vae = self.given["vae"]
        numbers = int(vae.config["latent_channels"]) * (1 + isinstance(vae, AutoencoderKL))
        return numbers * NUMBER * shape.height * shape.width // pixels_per_latent(vae) ** 2

    def digest(self, kind: str) -> str:
        """Of all that makes the "latents" or the "texts"."""
        parts = [self._digest(name) for name in OF[kind] if name in self.models]
        if kind == "texts":
            parts += [words_digest(self.given[name]) for name in WORDS if name in self.given]
        return hashlib.sha256(" ".join([VERSION, *parts]).encode()).hexdigest()

    def let_go(self, kinds: Iterable[str] = ()) -> None:
        """Free the weights of what makes the "latents" or the "texts", and those freed before."""
        for kind in kinds:
            self._away |= {name for name in OF[kind] if name in self.models}
        for name in self._away:
            self._digest(name)
            hollow(self.models[name])

    def take_up(self, device: torch.device) -> None:
        """Give those that were let go their weights back, for drawing.

        Raises ModelError where the base has become another one.
        """
        away = {name: model for name, model in self.models.items() if is_hollow(model)}
        if not away:
            return
        here = {name: part for name, part in self.given.items() if name not in away}
        found = parts_of(self.base, here)
        for name, model in away.items():
            if weights_digest(found[name]) != self._digests[name]:
                raise ModelError(
                    f"The {name} of {self.base} is another one than when the run began: put the "
                    "old one back; the same command goes on from the newest checkpoint."
                )
            fill(model, found[name])
            model.to(device).requires_grad_(False).eval()
            config: Any = model.config
            if not (name == "vae" and config.get("force_upcast", False)):
                for weight in model.parameters():
                    weight.data = weight.data.to(self.stored)

    def _digest(self, name: str) -> str:
        if name not in self._digests:
            self._digests[name] = weights_digest(self.models[name])
        return self._digests[name]


def parts_of(base: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Everything but the denoiser, in float32 on the CPU."""
    pipe = TextToImagePipeline.from_pretrained(base, **{**given, "unet": None})
    return {name: part for name, part in pipe.components.items() if part is not None}
