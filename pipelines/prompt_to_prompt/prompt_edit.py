"""Prompt-to-prompt editing of a source image and its targets: `PromptEditPipeline`.

B batch rows (here: images), C channels, H W latent size.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from pipelines.base.output import PipelineOutput
from pipelines.base.pipeline import OutputOrTuple
from pipelines.prompt_to_prompt.automatic_edits import BlendWords, WordEditOptions, choose_edits
from pipelines.prompt_to_prompt.edit_run import (
    EditCallArguments,
    NoiseArguments,
    build_edit_run_inputs,
    check_custom_edits,
    find_image_size,
)
from pipelines.prompt_to_prompt.recorded_source import RecordedSource
from pipelines.prompt_to_prompt.recording import DEFAULT_BUDGET_BYTES
from pipelines.prompt_to_prompt.recording_pipeline import RecordingPipeline
from pipelines.prompt_to_prompt.replayable_edits import check_replayable_edits
from pipelines.prompt_to_prompt.source_recording import RecordingOptions
from pipelines.prompt_to_prompt.target_recording import (
    check_recordable_edit,
    record_target_from_latents,
)
from pipelines.run import argument_checks
from pipelines.run.call_arguments import Prompts
from pipelines.run.run_provenance import SourceRunSettings
from pipelines.run.step_callbacks import StepEndCallback
from t2i.attention.attend import attend
from t2i.attention.edits.base.edit import Edit
from t2i.attention.edits.local_blend import LocalBlend
from t2i.attention.site import StepWindow
from t2i.conditioning.run_state import Guidance
from t2i.controls.control import Control
from t2i.denoiser.caches.cache import Cache
from t2i.errors import ArgumentError
from t2i.text.prompt import Prompt


class PromptEditPipeline(RecordingPipeline):
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
        blend: Literal["auto"] | BlendWords | Sequence[BlendWords] | None = "auto",
        cross_replace: Literal["auto"] | StepWindow = "auto",
        self_replace: Literal["auto"] | StepWindow = "auto",
        alignment: Mapping[str, str | None] | None = None,
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
        controls: Sequence[Control] = (),
        cache: Sequence[Cache] | None = None,
        ip_adapter_image: Any = None,
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
            count from 1: they replace the next five arguments
        weights, blend, cross_replace, self_replace, alignment : see
            pipelines.prompt_to_prompt.automatic_edits.WordEditOptions
        seed : instead of a generator
        latents : noise of one image
        controls : steer source and targets alike; for a recorded source those of its recording,
            needed only if it was loaded from a folder
        cache : of source and targets alike; a recorded source has that of its recording
        ip_adapter_image : image prompts of source and targets alike; a recorded source has none
        """
        argument_checks.check_output_type(output_type)
        argument_checks.check_bool("return_dict", return_dict)
        settings = SourceRunSettings(
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
            cache=cache,
            controls=controls,
        )
        noise = NoiseArguments(seed, generator, latents)
        recorded = source if isinstance(source, RecordedSource) else None
        if recorded is not None and ip_adapter_image is not None:
            raise ArgumentError(
                "Got ip_adapter_image with a recorded source, whose run had no image prompt: give "
                "the source as a prompt, or leave it out."
            )
        run = build_edit_run_inputs(self, source, target, settings, noise)
        options = WordEditOptions(
            weights={} if weights is None else weights,
            blend=blend,
            cross_replace=cross_replace,
            self_replace=self_replace,
            alignment={} if alignment is None else alignment,
        )
        run_edits = self._resolve_edits(edits, options, run)
        if recorded is not None:
            check_replayable_edits(run_edits, recorded)

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
                ip_adapter_image=ip_adapter_image,
                output_type=output_type if recorded is None else "latent",
                return_dict=False,
                callback_on_step_end=callback_on_step_end,
                callback_on_step_end_tensor_inputs=callback_on_step_end_tensor_inputs,
                **run.arguments,
            )
        images = extract_images_from_tuple(drawn)
        if recorded is not None:
            images = self.decode_source_and_targets(recorded, images, output_type)
        if not return_dict:
            return images, None
        return PipelineOutput(images=images, nsfw_content_detected=None)

    @torch.no_grad()
    def remember_target(
        self,
        source: RecordedSource,
        target: str | Prompt,
        *,
        edits: Literal["auto"] | Sequence[Edit] = "auto",
        weights: Mapping[str, float] | None = None,
        blend: Literal["auto"] | BlendWords | Sequence[BlendWords] | None = "auto",
        cross_replace: Literal["auto"] | StepWindow = "auto",
        self_replace: Literal["auto"] | StepWindow = "auto",
        alignment: Mapping[str, str | None] | None = None,
        folder: str | Path | None = None,
        budget: int = DEFAULT_BUDGET_BYTES,
        max_positions: int | None = None,
        for_edits: Sequence[Edit] = (),
        notes: Mapping[str, object] | None = None,
    ) -> RecordedSource:
        """Edit a recorded source, and record the target as the next source: edit upon edit, without
        inverting anything again.

        >>> source = pipe.invert(photo, "a cat on a sofa")
        >>> dog = pipe.remember_target(source, "a dog on a sofa")
        >>> dog.image.save("dog.png")
        >>> hat = pipe(dog, "a dog with a hat on a sofa").images[1]

        It costs the target's run twice. The image of `pipe(dog, "a dog on a sofa")` is that of the
        first edit, exactly: what the edits changed is in the residuals of the new source, which
        later targets take over.

        Parameters
        ----------
        source : one that was recorded with controls and loaded from a folder needs them first, see
            pipelines.prompt_to_prompt.recorded_controls.add_controls_to_source
        edits, weights, blend, cross_replace, self_replace, alignment : of this edit, as in a call
        folder, budget, max_positions, for_edits : of the recording, as in `remember`
        notes : JSON data to keep with the target; None for those of the source
        """
        options = RecordingOptions(folder, budget, max_positions, for_edits)
        check_recordable_edit(source, target, options)
        latents: list[Tensor] = []

        def keep(
            _pipe: object, _step: int, _timestep: Tensor, tensors: dict[str, Any]
        ) -> dict[str, Any]:
            latents.append(tensors["latents"].clone())
            return {}

        self(
            source,
            target,
            edits=edits,
            weights=weights,
            blend=blend,
            cross_replace=cross_replace,
            self_replace=self_replace,
            alignment=alignment,
            output_type="latent",
            callback_on_step_end=keep,
        )
        return record_target_from_latents(self, source, target, latents, options, notes)

    def _resolve_edits(
        self,
        edits: Literal["auto"] | Sequence[Edit],
        options: WordEditOptions,
        run: "EditCallArguments",
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

    def decode_source_and_targets(
        self, kept: RecordedSource, latents_BCHW: Tensor, output_type: str
    ) -> Any:
        """Return the images of a recorded source and of its targets, decoded together; see
        RecordedSource.restore_unchanged_pixels.
        """
        if output_type == "latent":
            return torch.cat([kept.latents.to(latents_BCHW), latents_BCHW])
        pixels_B3YX = kept.restore_unchanged_pixels(self.decode_latents(latents_BCHW), latents_BCHW)
        every = torch.cat([kept.pixels.to(pixels_B3YX), pixels_B3YX])
        return self.image_processor.postprocess(every, output_type)

    def choose_automatic_edits(
        self,
        prompts: Sequence[str | Prompt],
        options: WordEditOptions,
        num_inference_steps: int,
        height: int | None = None,
        width: int | None = None,
    ) -> list[Edit]:
        """Return the edits that edits="auto" chooses for these prompts, the source first."""
        argument_checks.check_count("num_inference_steps", num_inference_steps)
        size = find_image_size(self, height, width)
        most, blended = self.find_max_kept_layout_positions(*size), self.find_blend_sites(*size)
        edits = choose_edits(prompts, num_inference_steps, options, most)
        return [
            replace(edit, sites=blended) if isinstance(edit, LocalBlend) else edit for edit in edits
        ]


def extract_images_from_tuple(drawn: OutputOrTuple) -> Any:
    """Return the images in the tuple of a call with return_dict=False."""
    assert isinstance(drawn, tuple)
    return drawn[0]
