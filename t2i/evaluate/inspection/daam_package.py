"""Heat maps of the package `daam`, where it is installed and supports the model."""

from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from pipelines.text_to_image import TextToImagePipeline
from t2i.evaluate.inspection.known_picture_scheduler import build_known_picture_scheduler
from t2i.evaluate.inspection.map_scores import resize_map
from t2i.scenes.scenes import Scene

DAAM_LABEL = "the daam package"
INSTALL_COMMAND = "pip install --no-deps daam && pip install matplotlib scipy spacy"
"""What it asks for itself are diffusers and transformers of 2023, in place of those here."""
DAAM_FACTORS = range(1, 129)
"""How many times smaller than its maps a site may be, along a side: all, as the package's own
choice leaves out sites that are not a power of two below them, as of a 128-pixel model."""


class DaamError(Exception):
    """Raised with the reason why the package `daam` gives no heat maps."""


def compute_daam_heat_maps(
    pipe: TextToImagePipeline, scene: Scene, levels: Sequence[float], generator: torch.Generator
) -> list[Tensor]:
    """Compute each object's heat map (H, W) with the package `daam`, from the same noised latents.

    Raises DaamError where it is not installed or does not run on the model; any exception it
    raises counts as a result.
    """
    if find_spec("daam") is None:
        raise DaamError(f"not installed: {INSTALL_COMMAND}")
    if pipe.text_encoder_2 is not None or pipe.text_encoder is None:
        raise DaamError("left out: it is held against ours on models like Stable Diffusion 1 alone")
    try:
        from daam import trace  # type: ignore[import-not-found]

        scheduler = build_known_picture_scheduler(pipe, scene.pixels, levels, generator)
        theirs: Any = StableDiffusionPipeline(
            vae=pipe.vae,
            text_encoder=pipe.text_encoder,
            tokenizer=pipe.tokenizer,
            unet=pipe.unet,
            scheduler=scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        theirs.set_progress_bar_config(disable=True)
        # Its own convention keeps the conditional half of guidance, so that there has to be one.
        with torch.no_grad(), trace(theirs) as traced:
            set_text_length(traced.module, pipe.tokenizer.model_max_length)
            theirs(
                scene.caption,
                latents=scheduler.noised[0],
                num_inference_steps=len(levels),
                guidance_scale=2.0,
            )
            heat = traced.compute_global_heat_map(factors=DAAM_FACTORS)
            found = [heat.compute_word_heat_map(placed.word).value for placed in scene.objects]
    except DaamError:
        raise
    except Exception as error:
        raise DaamError(f"does not run: {type(error).__name__}: {error}") from error
    size = scene.pixels.shape[:2]
    return [resize_map(map_HW.float().cpu(), size, "bicubic") for map_HW in found]


def set_text_length(hooks: Iterable[Any], tokens: int) -> None:
    """Let the package's hooks read texts of so many tokens: they keep the attention of texts of 77
    alone, whatever the model's have.

    hooks : of its `trace`, in which those of attention have a `context_size`
    Raises DaamError where there are none, as in another version of the package.
    """
    own = [hook for hook in hooks if hasattr(hook, "context_size")]
    if not own:
        raise DaamError("does not run: its hooks have no context_size, the length of a text")
    for hook in own:
        hook.context_size = tokens
