"""Prompt-to-prompt: a picture, and the same picture of other words: `PromptEditPipeline`.

B batch rows (here: pictures), C channels, H W latent size.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from pipelines.base.output import Drawn
from pipelines.base.pipeline import Output
from pipelines.prompt_to_prompt.automatic_edits import Blend, Wishes, choose_edits
from pipelines.prompt_to_prompt.recorded_source import (
    RecordedSource,
    check_edits,
    check_no_noise,
    finish,
    restored,
)
from pipelines.prompt_to_prompt.recording import BUDGET, Recording, Remember, written
from pipelines.run import arguments
from pipelines.run.call import Prompts
from pipelines.run.exclusive_access import alone_with
from pipelines.run.run_facts import facts_of, recalled
from pipelines.run.step_callbacks import StepEndCallback
from pipelines.text_to_image import TextToImagePipeline
from t2i.attention.attend import attend
from t2i.attention.edits.base.edit import Edit
from t2i.attention.site import Window
from t2i.conditioning.run_state import Guidance
from t2i.denoiser.families import sd
from t2i.denoiser.memory_checks import memory_to_draw
from t2i.errors import ArgumentError
from t2i.text.prompt import Prompt

FEW = 16 * 16
"""Positions of the sites whose layout prompt-to-prompt keeps, where a model has any so small."""


class PromptEditPipeline(TextToImagePipeline):
    """Draws a source and its targets from one noise, tied to one another by edits of attention.

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
        cross_replace: Literal["auto"] | Window = "auto",
        self_replace: Literal["auto"] | Window = "auto",
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
    ) -> Output:
        """The source's picture first, then one for each target, in their order.

        All begin from the same noise, and a sampler that adds noise adds the same to all, so that
        the source is the picture that TextToImagePipeline draws of it with this seed. What is left
        out is as there; 50 steps, guidance 7.5.

        Of a source that was remembered only the targets are computed, with the settings that it
        was remembered with. They equal those with the source beside them but for the rounding of a
        smaller batch: after 50 steps of a tiny model the latents differ by 3e-5 of 38 in float32
        and 6e-14 of 50 in float64; those of the embedded model by nothing.

        Parameters
        ----------
        edits : "auto", see choose_edits; or your own, where the source is prompt 0 and the targets
            count from 1: they take the place of the four arguments that follow
        weights, blend, cross_replace, self_replace : see
            pipelines.prompt_to_prompt.automatic_edits.Wishes
        seed : in the place of a generator
        latents : noise of one picture
        """
        kept = source if isinstance(source, RecordedSource) else None
        given: dict[str, Any] = {
            "height": height,
            "width": width,
            "num_inference_steps": num_inference_steps,
            "guidance_scale": guidance_scale,
            "guidance_rescale": guidance_rescale,
            "guidance": guidance,
            "negative_prompt": negative_prompt,
            "eta": eta,
            "clip_skip": clip_skip,
            "cross_attention_kwargs": cross_attention_kwargs,
        }
        arguments.check_output_type(output_type)
        arguments.check_flag("return_dict", return_dict)

        # what is asked for
        if kept is None:
            assert not isinstance(source, RecordedSource)
            prompts = sides(source, target)
            told = {name: one for name, one in given.items() if one is not None}
            generators = alike(seed, generator, len(prompts))
        else:
            prompts = sides(kept.prompt, target)
            told = recalled(self, kept.facts, given | {"seed": seed})
            check_no_noise(generator, latents)
            generators = restored(kept, len(prompts) - 1)
            latents = kept.noise
        size = size_of(self, told.get("height"), told.get("width"), latents)
        wishes = Wishes(
            weights={} if weights is None else weights,
            blend=blend,
            cross_replace=cross_replace,
            self_replace=self_replace,
        )
        if isinstance(edits, str) and edits == "auto":
            steps = (self.defaults | told)["num_inference_steps"]
            edits = self.edits_for(prompts, wishes, steps, *size)
        else:
            check_own(edits, wishes)
        if kept is not None:
            check_edits(edits, kept.facts)
            prompts = prompts[1:]

        # all at once, or the targets alone
        with self.alone_with_attention(), attend(self, recorded_source=kept) as attn:
            for edit in edits:
                attn.edit(edit)
            drawn = super().__call__(
                prompt=prompts,
                generator=generators,
                latents=None if latents is None else for_each(latents, len(prompts)),
                output_type=output_type if kept is None else "latent",
                return_dict=False,
                callback_on_step_end=callback_on_step_end,
                callback_on_step_end_tensor_inputs=callback_on_step_end_tensor_inputs,
                **told,
            )
        images = first_of(drawn)
        if kept is not None:
            images = self.beside(kept, images, output_type)
        return Drawn(images=images, nsfw_content_detected=None) if return_dict else (images, None)

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
        """Draw a source once, so that each later edit of it computes the targets alone.

        >>> kept = pipe.remember("a red apple", seed=7)
        >>> apples = [pipe(kept, "a red apple", weights={"red": w}).images[1] for w in (1, 2, 4)]

        Parameters
        ----------
        folder : where to keep it, for load_remembered(folder) to find; else in memory
        budget : bytes of what is kept, known after the first step
        max_positions : of the sites whose layout is kept; as edits="auto" needs it when left out
        """
        if not isinstance(source, str | Prompt):
            sides(source, "")
        (own,) = alike(seed, generator, 1)
        size = size_of(self, height, width, latents)
        most = self.layout_positions(*size) if max_positions is None else max_positions
        settings: dict[str, Any] = {
            "height": size[0],
            "width": size[1],
            "num_inference_steps": num_inference_steps,
            "guidance_scale": guidance_scale,
            "guidance_rescale": guidance_rescale,
            "guidance": guidance,
            "negative_prompt": negative_prompt,
            "eta": eta,
            "clip_skip": clip_skip,
            "cross_attention_kwargs": cross_attention_kwargs,
        }
        settings |= {name: one for name, one in self.defaults.items() if settings[name] is None}
        facts = facts_of(self, settings | {"seed": seed})
        facts |= {"max_positions": most, "generator": str(own.device)}
        state = own.get_state()
        place = None if folder is None else Path(folder)
        with ExitStack() as stack:
            steps = written(place, stack)
            stack.enter_context(self.alone_with_attention())
            with attend(self) as attn:
                attn.edit(Remember(kept=steps, recording=Recording(most), budget=budget))
                drawn = super().__call__(
                    prompt=source,
                    generator=[own],
                    latents=None if latents is None else for_each(latents, 1),
                    output_type="latent",
                    return_dict=False,
                    **settings,
                )
            latents_1CHW = first_of(drawn)
            pixels = self.decoded(latents_1CHW)
            kept = RecordedSource(source, facts, steps, state, latents, latents_1CHW, pixels)
            finish(kept)
        steps.folder = place
        return kept

    @contextmanager
    def alone_with_attention(self) -> Iterator[None]:
        """Within the block no other thread edits prompts with this UNet; `_interrupt` ends the
        wait."""
        with self.waiting() as waiting, alone_with(self.unet, purpose="attention", waiting=waiting):
            yield

    def beside(self, kept: RecordedSource, latents_BCHW: Tensor, output_type: str) -> Any:
        """The pictures of a remembered source and of its targets."""
        if output_type == "latent":
            return torch.cat([kept.latents.to(latents_BCHW), latents_BCHW])
        pixels_B3YX = self.decoded(latents_BCHW)
        every = torch.cat([kept.pixels.to(pixels_B3YX), pixels_B3YX])
        return self.image_processor.postprocess(every, output_type)

    def decoded(self, latents_BCHW: Tensor) -> Tensor:
        """(B, 3, Y, X)."""
        try:
            with memory_to_draw():
                return sd.decode(self.vae, latents_BCHW)
        finally:
            self.maybe_free_model_hooks()  # type: ignore[no-untyped-call]  # diffusers lacks types

    def edits_for(
        self,
        prompts: Sequence[str | Prompt],
        wishes: Wishes,
        num_inference_steps: int,
        height: int | None = None,
        width: int | None = None,
    ) -> list[Edit]:
        """What edits="auto" means for these prompts, the source first."""
        arguments.check_count("num_inference_steps", num_inference_steps)
        most = self.layout_positions(*size_of(self, height, width))
        return choose_edits(prompts, num_inference_steps, wishes, most)

    def layout_positions(self, height: int, width: int) -> int:
        """Most positions of the sites whose layout edits="auto" keeps, for this size of picture."""
        H, W = sd.latent_size(self.vae, height, width)
        # The layout is kept where it is coarse: large pictures have no site of FEW positions.
        halved = 2 ** (len(self.unet.config["block_out_channels"]) - 1)
        smallest: int = math.ceil(H / halved) * math.ceil(W / halved)
        return max(FEW, smallest)


def sides(source: str | Prompt, target: Prompts) -> list[str | Prompt]:
    """The prompts of the call: the source, then the targets."""
    if not isinstance(source, str | Prompt):
        raise ArgumentError(
            f"Got source of type {type(source).__name__}: {source!r:.80}. Expected one prompt; "
            "the targets may be several."
        )
    return [source, *arguments.list_of_prompts("target", target)]


def check_own(edits: object, wishes: Wishes) -> None:
    """Raise ArgumentError unless these are somebody's own edits, and all that is wished for."""
    if not isinstance(edits, list | tuple) or not all(isinstance(edit, Edit) for edit in edits):
        raise ArgumentError(
            f'Got edits={edits!r:.80}, expected "auto", or a list of edits, such as '
            "[Replace(target=1), SelfReplace(target=1)]."
        )
    if wishes != Wishes():
        raise ArgumentError(
            "Got edits of your own, and one of weights, blend, cross_replace and self_replace, "
            'which are for edits="auto": say it with Reweight, LocalBlend or steps= among your '
            "edits."
        )


def size_of(
    pipe: Any, height: int | None, width: int | None, latents: Tensor | None = None
) -> tuple[int, int]:
    """Height and width of the pictures, in pixels."""
    default = sd.default_size(pipe.unet, pipe.vae)
    if isinstance(latents, Tensor) and latents.ndim == 4:
        factor = sd.pixels_per_latent(pipe.vae)
        default = (latents.shape[2] * factor, latents.shape[3] * factor)
    return (default[0] if height is None else height), (default[1] if width is None else width)


def alike(seed: int | None, generator: torch.Generator | None, count: int) -> list[torch.Generator]:
    """The source's generator, and one in the same state for each target."""
    if seed is not None and generator is not None:
        raise ArgumentError("Got both seed and generator: give one of them.")
    whole = isinstance(seed, int) and not isinstance(seed, bool) and -(2**63) <= seed < 2**64
    if seed is not None and not whole:
        raise ArgumentError(f"Got seed={seed!r:.80}, expected a whole number below 2**64.")
    if generator is None:
        generator = torch.Generator("cpu")
        generator.manual_seed(int(torch.randint(2**62, ())) if seed is None else seed)
    if not isinstance(generator, torch.Generator):
        raise ArgumentError(
            f"Got generator of type {type(generator).__name__}, expected one torch.Generator: "
            "source and targets begin from the same noise."
        )
    others = [torch.Generator(generator.device) for _ in range(count - 1)]
    for other in others:
        other.set_state(generator.get_state())
    return [generator, *others]


def for_each(latents_BCHW: Tensor, count: int) -> Tensor:
    """The same starting noise for each prompt."""
    if not isinstance(latents_BCHW, Tensor) or latents_BCHW.ndim != 4 or len(latents_BCHW) != 1:
        got = getattr(latents_BCHW, "shape", type(latents_BCHW).__name__)
        raise ArgumentError(
            f"Got latents {got}, expected the noise of one picture, (1, channels, height, width): "
            "source and targets begin from the same."
        )
    return latents_BCHW.repeat(count, 1, 1, 1)


def first_of(drawn: Output) -> Any:
    """The pictures of a call with return_dict=False."""
    assert isinstance(drawn, tuple)
    return drawn[0]
