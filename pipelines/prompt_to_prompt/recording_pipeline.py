"""Recording of sources for prompt-to-prompt edits: generated ones, and inverted pictures.

C channels, H W latent size.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipelines.images.photo import prepare_photo
from pipelines.inversion.inversion_run import InversionMethod
from pipelines.prompt_to_prompt.automatic_edits import classify_prompt_change
from pipelines.prompt_to_prompt.edit_run import (
    NoiseArguments,
    build_identical_generators,
    find_image_size,
    join_source_and_target_prompts,
)
from pipelines.prompt_to_prompt.inverted_source import (
    check_single_source_prompt,
    invert_and_record_photo,
    resolve_inversion_method,
)
from pipelines.prompt_to_prompt.recorded_source import RecordedSource
from pipelines.prompt_to_prompt.recording import DEFAULT_BUDGET_BYTES
from pipelines.prompt_to_prompt.source_recording import RecordingOptions, record_source
from pipelines.run.call_arguments import Prompts
from pipelines.run.controlled_run import check_control_networks_fit_pipeline
from pipelines.run.exclusive_access import holding_locks
from pipelines.run.run_provenance import SourceRunSettings
from pipelines.text_to_image import TextToImagePipeline
from t2i.attention.edits.base.edit import Edit
from t2i.attention.edits.local_blend import MAX_POSITIONS
from t2i.attention.site import Sites
from t2i.conditioning.run_state import Guidance
from t2i.controls.control import Control
from t2i.denoiser.caches.cache import Cache
from t2i.denoiser.families import sd
from t2i.denoiser.memory_checks import translating_out_of_memory
from t2i.text.prompt import Prompt

MAX_LAYOUT_SITE_POSITIONS = 16 * 16
"""Positions of the sites whose layout prompt-to-prompt keeps, where a model has any so small."""


class RecordingPipeline(TextToImagePipeline):
    """Base of `PromptEditPipeline`: text to image, and the recording of sources for later edits."""

    @torch.no_grad()
    def remember(
        self,
        source: str | Prompt,
        *,
        folder: str | Path | None = None,
        budget: int = DEFAULT_BUDGET_BYTES,
        max_positions: int | None = None,
        for_edits: Sequence[Edit] = (),
        seed: int | None = None,
        generator: torch.Generator | None = None,
        latents: Tensor | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        guidance_rescale: float = 0.0,
        guidance: Guidance | None = None,
        negative_prompt: str | Prompt | None = None,
        eta: float = 0.0,
        clip_skip: int | None = None,
        cross_attention_kwargs: Mapping[str, object] | None = None,
        controls: Sequence[Control] = (),
        cache: Sequence[Cache] | None = None,
    ) -> RecordedSource:
        """Record a source run, so that later edits of it compute the targets alone.

        >>> source = pipe.remember("a red apple", seed=7)
        >>> apples = [pipe(source, "a red apple", weights={"red": w}).images[1] for w in (1, 2, 4)]

        Parameters
        ----------
        folder : written for load_recorded_source(folder) to read; None records in memory
        budget : most bytes to record, checked after the first step
        max_positions : of the largest site whose self-attention is recorded; None for what
            edits="auto" needs, 0 for the sites and steps that `for_edits` read alone
        for_edits : edits that are to read the source later: ShareKeysValues, InjectQueriesKeys and
            StyleAligned need more of it than others, which is recorded at their sites and steps
        controls, cache : of the run and of all edits of it
        """
        if not isinstance(source, str | Prompt):
            join_source_and_target_prompts(source, "")
        check_control_networks_fit_pipeline(self, controls)
        noise = NoiseArguments(seed, generator, latents)
        height, width = find_image_size(self, height, width, latents)
        settings = SourceRunSettings(
            height=height,
            width=width,
            num_inference_steps=self.steps_or_default(num_inference_steps),
            guidance_scale=self.guidance_scale_or_default(guidance_scale),
            guidance_rescale=guidance_rescale,
            guidance=guidance,
            negative_prompt=negative_prompt,
            eta=eta,
            clip_skip=clip_skip,
            cross_attention_kwargs=cross_attention_kwargs,
            cache=cache,
            controls=controls,
        )
        return record_source(
            self,
            source,
            settings,
            noise,
            RecordingOptions(folder, budget, max_positions, for_edits),
        )

    @torch.no_grad()
    def invert(
        self,
        picture: Any,
        prompt: str | Prompt,
        method: str | InversionMethod = "auto",
        *,
        folder: str | Path | None = None,
        budget: int = DEFAULT_BUDGET_BYTES,
        max_positions: int | None = None,
        for_edits: Sequence[Edit] = (),
        seed: int | None = None,
        generator: torch.Generator | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        guidance: Guidance | None = None,
        negative_prompt: str | Prompt | None = None,
        clip_skip: int | None = None,
        notes: Mapping[str, object] | None = None,
        fit: str = "crop",
        mask: Any = None,
        targets: Prompts = (),
        controls: Sequence[Control] = (),
    ) -> RecordedSource:
        """Invert a picture of one's own: record it as a source, so that it can be edited.

        >>> source = pipe.invert("cat.jpg", "a cat on a sofa")
        >>> cat, dog = pipe(source, "a dog on a sofa").images
        >>> source.paste_edit(dog).save("dog.png")  # at the photo's own size
        >>> source.error
        InversionPSNR(replay=24.1, autoencoder=31.6)

        Warns of a picture that the model cannot reproduce from its noise; see RecordedSource.error.

        Parameters
        ----------
        picture : path, Pillow image, array or tensor of any size, see
            pipelines.images.photo.prepare_photo
        prompt : describes the picture; "" is possible, and then edits have no words to hold on to
        method : name and arguments, "edit-friendly:skip=0.25", see
            pipelines.inversion.methods.INVERSION_METHODS; "auto" for the one that suits the
            model and the targets
        seed, generator : of the noise that some methods draw
        height, width : of the result; by default the model's
        folder, budget, max_positions, for_edits : as in `remember`
        notes : JSON data to keep with the source, in `facts["notes"]`
        fit : "crop", "pad" or "stretch" to that size
        mask : as the picture, white where edits may change it; elsewhere they have its own pixels
        targets : prompts that it will be edited to, where they are known: method "auto" depends on
            the kinds of change, where no guidance or negative prompt is given
        controls : of the inversion and of all edits of it
        """
        check_single_source_prompt(prompt)
        check_control_networks_fit_pipeline(self, controls)
        (own,) = build_identical_generators(NoiseArguments(seed, generator, None), 1)
        size = find_image_size(self, height, width)
        sd.latent_size(self.vae, *size)
        steps = self.steps_or_default(num_inference_steps)
        own_guidance = guidance is not None or negative_prompt not in (None, "")
        changes = (
            []
            if own_guidance
            else [
                classify_prompt_change(prompt, target, steps)
                for target in (
                    join_source_and_target_prompts(prompt, targets)[1:] if targets else ()
                )
            ]
        )
        method = resolve_inversion_method(self, method, changes)
        settings = SourceRunSettings(
            height=size[0],
            width=size[1],
            num_inference_steps=steps,
            guidance_scale=self.guidance_scale_or_default(guidance_scale),
            guidance_rescale=0.0,
            guidance=guidance,
            negative_prompt=negative_prompt,
            eta=0.0,
            clip_skip=clip_skip,
            cross_attention_kwargs=None,
            controls=controls,
        )
        return invert_and_record_photo(
            self,
            prepare_photo(picture, *size, fit, mask),
            prompt,
            method,
            settings,
            own,
            RecordingOptions(folder, budget, max_positions, for_edits),
            notes or {},
        )

    @contextmanager
    def holding_attention_lock(self) -> Iterator[None]:
        """Hold the lock on attention edits of this UNet within the block, against other threads."""
        with (
            self.registering_interruptible_wait() as waiting,
            holding_locks(self.unet, purpose="attention", waiting=waiting),
        ):
            yield

    def decode_latents(self, latents_BCHW: Tensor) -> Tensor:
        """Return latents decoded to pixels, (B, 3, Y, X)."""
        try:
            with translating_out_of_memory():
                return sd.decode_latents_to_pixels(self.vae, latents_BCHW)
        finally:
            self.maybe_free_model_hooks()  # type: ignore[no-untyped-call]  # diffusers lacks types

    def find_max_kept_layout_positions(self, height: int, width: int) -> int:
        """Return the largest number of positions of a self-attention site at which edits="auto"
        keeps the source's layout.
        """
        H, W = sd.latent_size(self.vae, height, width)
        # The layout is kept where it is coarse: large images have no site so small.
        halved = 2 ** (len(self.unet.config["block_out_channels"]) - 1)
        smallest: int = math.ceil(H / halved) * math.ceil(W / halved)
        return max(MAX_LAYOUT_SITE_POSITIONS, smallest)

    def find_blend_sites(self, height: int, width: int) -> Sites | None:
        """Return the attention sites from which the blend of edits="auto" takes its mask; None for
        LocalBlend's own choice.
        """
        H, W = sd.latent_size(self.vae, height, width)
        kinds = self.unet.config["down_block_types"]
        halved = 2 ** max((i for i, kind in enumerate(kinds) if "CrossAttn" in kind), default=0)
        smallest: int = math.ceil(H / halved) * math.ceil(W / halved)
        if smallest <= MAX_POSITIONS:
            return None
        return Sites(kind="cross", place=("down", "up"), max_positions=smallest)
