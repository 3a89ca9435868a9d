"""Prompt-to-prompt editing of a source image and its targets: `PromptEditPipeline`.

B batch rows (here: images), C channels, H W latent size.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from pipelines.base.output import PipelineOutput
from pipelines.base.pipeline import OutputOrTuple
from pipelines.inversion.source_run import InversionMethod
from pipelines.prompt_to_prompt.automatic_edits import Blend, WordEditOptions, choose_edits
from pipelines.prompt_to_prompt.edit_run import (
    EditRun,
    NoiseArguments,
    build_identical_generators,
    check_custom_edits,
    find_image_size,
    list_prompts,
    plan_edit_run,
)
from pipelines.prompt_to_prompt.inverted_source import (
    check_source_prompt,
    invert_picture,
    resolve_method,
)
from pipelines.prompt_to_prompt.recorded_source import RecordedSource, check_replayable_edits
from pipelines.prompt_to_prompt.recording import BUDGET
from pipelines.prompt_to_prompt.source_recording import RecordingOptions, record_source
from pipelines.run import argument_checks
from pipelines.run.call_arguments import Prompts
from pipelines.run.exclusive_access import holding_locks
from pipelines.run.run_facts import RunSettings
from pipelines.run.step_callbacks import StepEndCallback
from pipelines.text_to_image import TextToImagePipeline
from t2i.attention.attend import attend
from t2i.attention.edits.base.edit import Edit
from t2i.attention.site import StepWindow
from t2i.conditioning.run_state import Guidance
from t2i.denoiser.families import sd
from t2i.denoiser.memory_checks import translating_out_of_memory
from t2i.text.prompt import Prompt

LAYOUT_POSITIONS = 16 * 16
"""Positions of the sites whose layout prompt-to-prompt keeps, where a model has any so small."""


class PromptEditPipeline(TextToImagePipeline):
    """Pipeline that generates a source and its targets from one noise, tied by attention edits.

    >>> pipe = PromptEditPipeline.from_pretrained("embedded")
    >>> cat, dog = pipe("a cat on a blue background", "a dog on a blue background", seed=7).images
    >>> strong = pipe("a red apple", "a red apple", weights={"red": 2.0}, seed=7).images[1]
    """

    @torch.no_grad()
    def __call__(  # type: ignore[override]  # its prompts have two sides
        self,
        source: str | Prompt | RecordedSource,
        target: Prompts,
        *,
        edits: Literal["auto"] | Sequence[Edit] = "auto",
        weights: Mapping[str, float] | None = None,
        blend: Literal["auto"] | Blend | Sequence[Blend] | None = "auto",
        cross_replace: Literal["auto"] | StepWindow = "auto",
        self_replace: Literal["auto"] | StepWindow = "auto",
        seed: int | None = None,
        generator: torch.Generator | None = None,
        latents: Tensor | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        guidance_rescale: float | None = None,
        guidance: Guidance | None = None,
        negative_prompt: str | Prompt | None = None,
        eta: float | None = None,
        clip_skip: int | None = None,
        cross_attention_kwargs: Mapping[str, object] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: StepEndCallback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> OutputOrTuple:
        """Generate the source's image, then one for each target, in their order.

        All start from the same noise, and a stochastic sampler adds the same noise to all, so that
        the source is the image of TextToImagePipeline with this seed. Defaults are those of that
        pipeline; 50 steps, guidance 7.5.

        For a recorded source only the targets are computed, with its settings. They equal those
        computed beside the source up to the rounding of a smaller batch: after 50 steps of a tiny
        model the latents differ by 3e-5 of 38 in float32 and 6e-14 of 50 in float64; those of the
        embedded model not at all.

        Parameters
        ----------
        edits : "auto", see choose_edits; or your own, where the source is prompt 0 and the targets
            count from 1: they replace the next four arguments
        weights, blend, cross_replace, self_replace : see
            pipelines.prompt_to_prompt.automatic_edits.WordEditOptions
        seed : instead of a generator
        latents : noise of one image
        """
        argument_checks.check_output_type(output_type)
        argument_checks.check_bool("return_dict", return_dict)
        settings = RunSettings(
            height=height,
            width=width,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            guidance_rescale=guidance_rescale,
            guidance=guidance,
            negative_prompt=negative_prompt,
            eta=eta,
            clip_skip=clip_skip,
            cross_attention_kwargs=cross_attention_kwargs,
        )
        noise = NoiseArguments(seed, generator, latents)
        recorded = source if isinstance(source, RecordedSource) else None
        run = plan_edit_run(self, source, target, settings, noise)
        options = WordEditOptions(
            weights={} if weights is None else weights,
            blend=blend,
            cross_replace=cross_replace,
            self_replace=self_replace,
        )
        run_edits = self._resolve_edits(edits, options, run)
        if recorded is not None:
            check_replayable_edits(run_edits, recorded.facts)

        overrides = None if recorded is None else recorded.call_overrides(self)
        with (
            self.holding_attention_lock(),
            attend(self, recorded_source=recorded) as attn,
            self.overriding_calls(overrides),
        ):
            for edit in run_edits:
                attn.edit(edit)
            drawn = super().__call__(
                prompt=run.prompts if recorded is None else run.prompts[1:],
                generator=run.generators,
                latents=run.repeated_latents,
                output_type=output_type if recorded is None else "latent",
                return_dict=False,
                callback_on_step_end=callback_on_step_end,
                callback_on_step_end_tensor_inputs=callback_on_step_end_tensor_inputs,
                **run.arguments,
            )
        images = extract_returned_images(drawn)
        if recorded is not None:
            images = self.decode_with_source(recorded, images, output_type)
        if not return_dict:
            return images, None
        return PipelineOutput(images=images, nsfw_content_detected=None)

    def _resolve_edits(
        self,
        edits: Literal["auto"] | Sequence[Edit],
        options: WordEditOptions,
        run: "EditRun",
    ) -> Sequence[Edit]:
        """Return the caller's own edits, checked, or those that "auto" chooses for the prompts."""
        arguments = run.arguments
        height, width = arguments.get("height"), arguments.get("width")
        size = find_image_size(self, height, width, run.latents)
        if isinstance(edits, str) and edits == "auto":
            steps = (self.defaults | arguments)["num_inference_steps"]
            return self.choose_automatic_edits(run.prompts, options, steps, *size)
        check_custom_edits(edits, options)
        return edits

    @torch.no_grad()
    def remember(
        self,
        source: str | Prompt,
        *,
        folder: str | Path | None = None,
        budget: int = BUDGET,
        max_positions: int | None = None,
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
    ) -> RecordedSource:
        """Record a source run, so that later edits of it compute the targets alone.

        >>> source = pipe.remember("a red apple", seed=7)
        >>> apples = [pipe(source, "a red apple", weights={"red": w}).images[1] for w in (1, 2, 4)]

        Parameters
        ----------
        folder : written for load_recorded_source(folder) to read; None records in memory
        budget : most bytes to record, checked after the first step
        max_positions : of the largest site whose self-attention is recorded; None for what
            edits="auto" needs
        """
        if not isinstance(source, str | Prompt):
            list_prompts(source, "")
        noise = NoiseArguments(seed, generator, latents)
        height, width = find_image_size(self, height, width, latents)
        settings = RunSettings(
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
        )
        return record_source(
            self, source, settings, noise, RecordingOptions(folder, budget, max_positions)
        )

    @torch.no_grad()
    def invert(
        self,
        picture: Any,
        prompt: str | Prompt,
        method: str | InversionMethod = "auto",
        *,
        folder: str | Path | None = None,
        budget: int = BUDGET,
        max_positions: int | None = None,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        guidance: Guidance | None = None,
        negative_prompt: str | Prompt | None = None,
        clip_skip: int | None = None,
    ) -> RecordedSource:
        """Invert a picture of one's own: record it as a source, so that it can be edited.

        >>> source = pipe.invert(PIL.Image.open("cat.png"), "a cat on a sofa")
        >>> cat, dog = pipe(source, "a dog on a sofa").images
        >>> source.error
        InversionError(replay=24.1, autoencoder=31.6)

        Warns of a picture that the model cannot reproduce from its noise; see RecordedSource.error.

        Parameters
        ----------
        picture : Pillow image, array or tensor
        prompt : describes the picture; "" is possible, and then edits have no words to hold on to
        method : name and arguments, "edit-friendly:skip=0.25", see
            pipelines.inversion.methods.METHODS; "auto" for the one that suits the model
        seed, generator : of the noise that some methods draw
        height, width : of the result; by default the model's
        folder, budget, max_positions : as in `remember`
        """
        check_source_prompt(prompt)
        (own,) = build_identical_generators(NoiseArguments(seed, generator, None), 1)
        size = find_image_size(self, height, width)
        settings = RunSettings(
            height=size[0],
            width=size[1],
            num_inference_steps=self.steps_or_default(num_inference_steps),
            guidance_scale=self.guidance_scale_or_default(guidance_scale),
            guidance_rescale=0.0,
            guidance=guidance,
            negative_prompt=negative_prompt,
            eta=0.0,
            clip_skip=clip_skip,
            cross_attention_kwargs=None,
        )
        return invert_picture(
            self,
            picture,
            prompt,
            resolve_method(self, method),
            settings,
            own,
            RecordingOptions(folder, budget, max_positions),
        )

    @contextmanager
    def holding_attention_lock(self) -> Iterator[None]:
        """Hold the lock on attention edits of this UNet within the block, against other threads."""
        with (
            self.registering_waiter() as waiting,
            holding_locks(self.unet, purpose="attention", waiting=waiting),
        ):
            yield

    def decode_with_source(
        self, kept: RecordedSource, latents_BCHW: Tensor, output_type: str
    ) -> Any:
        """Return the images of a recorded source and of its targets, decoded together."""
        if output_type == "latent":
            return torch.cat([kept.latents.to(latents_BCHW), latents_BCHW])
        pixels_B3YX = self.decode_latents(latents_BCHW)
        every = torch.cat([kept.pixels.to(pixels_B3YX), pixels_B3YX])
        return self.image_processor.postprocess(every, output_type)

    def decode_latents(self, latents_BCHW: Tensor) -> Tensor:
        """Return latents decoded to pixels, (B, 3, Y, X)."""
        try:
            with translating_out_of_memory():
                return sd.decode_latents(self.vae, latents_BCHW)
        finally:
            self.maybe_free_model_hooks()  # type: ignore[no-untyped-call]  # diffusers lacks types

    def choose_automatic_edits(
        self,
        prompts: Sequence[str | Prompt],
        options: WordEditOptions,
        num_inference_steps: int,
        height: int | None = None,
        width: int | None = None,
    ) -> list[Edit]:
        """Return the edits that edits="auto" chooses for these prompts, the source first."""
        argument_checks.check_positive_integer("num_inference_steps", num_inference_steps)
        most = self.find_max_site_size(*find_image_size(self, height, width))
        return choose_edits(prompts, num_inference_steps, options, most)

    def find_max_site_size(self, height: int, width: int) -> int:
        """Return the largest number of positions of the sites whose layout edits="auto" keeps."""
        H, W = sd.latent_size(self.vae, height, width)
        # The layout is kept where it is coarse: large images have no site of LAYOUT_POSITIONS.
        halved = 2 ** (len(self.unet.config["block_out_channels"]) - 1)
        smallest: int = math.ceil(H / halved) * math.ceil(W / halved)
        return max(LAYOUT_POSITIONS, smallest)


def extract_returned_images(drawn: OutputOrTuple) -> Any:
    """Return the images in the tuple of a call with return_dict=False."""
    assert isinstance(drawn, tuple)
    return drawn[0]
