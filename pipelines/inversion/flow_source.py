"""Edits of one's own picture by flow models in diffusers' pipelines: `invert_with`.

C channels, H W latent size.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pipelines.images.input_images import preprocess_images, to_opaque_rgb
from pipelines.inversion.edit_friendly import FlowEdit
from pipelines.inversion.flow_pipelines import FlowPipelineAdapter, get_flow_pipeline_adapter
from pipelines.inversion.inversion_run import InversionMethod
from pipelines.inversion.methods import format_method, parse_method
from pipelines.inversion.noise_levels import NoiseLevels
from pipelines.inversion.path import SourcePath
from pipelines.inversion.path_scheduler import SourceAndTargetsScheduler
from t2i.attention.attend import attend
from t2i.attention.edits.base.edit import Edit
from t2i.denoiser.families import sd
from t2i.errors import ArgumentError

RESERVED_CALL_ARGUMENTS = (
    "prompt",
    "latents",
    "height",
    "width",
    "num_inference_steps",
    "sigmas",
    "timesteps",
    "generator",
    "num_images_per_prompt",
    "prompt_embeds",
)
"""Arguments of a pipeline's call that the picture, its path and the prompts determine."""


@torch.no_grad()
def invert_with(
    pipe: Any,
    picture: Any,
    prompt: str,
    method: str | InversionMethod = "auto",
    *,
    num_inference_steps: int | None = None,
    height: int | None = None,
    width: int | None = None,
    seed: int | None = None,
) -> "FlowSource":
    """Prepare a picture for edits by FlowEdit in diffusers' Stable Diffusion 3 or Flux pipeline:
    encode it and noise its latents, without a pass of the model.

    >>> flux = FluxPipeline.from_pretrained("black-forest-labs/FLUX.1-dev")
    >>> source = invert_with(flux, PIL.Image.open("cat.png"), "a cat on a sofa", seed=0)
    >>> cat, dog = source.edit("a dog on a sofa").images

    FlowEdit needs no inversion: the picture is encoded, and no pass of the model is made here.

    Parameters
    ----------
    picture : Pillow image, array or tensor
    prompt : describes the picture
    method : "difference" with its arguments, "difference:skip=0.2"; "auto" for the share of the run
        that FlowEdit skips with this model
    num_inference_steps : of the whole run, of which the method skips a share
    height, width : of the result; by default the model's
    seed : of the noise of the path

    Raises ArgumentError for other pipelines, methods and schedulers.
    """
    adapter = get_flow_pipeline_adapter(pipe)
    if not isinstance(prompt, str):
        raise ArgumentError(
            f"Got {prompt!r:.80} as the prompt of the picture, expected a text that describes it."
        )
    chosen = resolve_flow_edit_method(adapter, method)
    default = pipe.default_sample_size * pipe.vae_scale_factor
    pixels_13YX = preprocess_images(
        pipe.image_processor,
        "picture",
        to_opaque_rgb(picture),
        height=default if height is None else height,
        width=default if width is None else width,
    )
    clean_1CHW = encode_flow_pixels_to_mean_latents(pipe, pixels_13YX)
    steps = adapter.num_inference_steps if num_inference_steps is None else num_inference_steps
    levels = adapter.build_pipeline_noise_levels(steps, clean_1CHW)
    generator = torch.Generator("cpu")
    generator.manual_seed(int(torch.randint(2**62, ())) if seed is None else seed)
    path = chosen.compute_source_latents_path(
        InversionRunWithoutPasses(pipe, levels, adapter.pack_latents(clean_1CHW), generator)
    )
    height, width = pixels_13YX.shape[-2:]
    return FlowSource(adapter, prompt, path, (height, width))


@dataclass(frozen=True)
class FlowSource:
    """Picture prepared for edits by a flow model: its prompt and its noised latents of each step,
    beside which the edits are drawn.

    prompt : of the picture
    path : its latents with new noise at each step, as the pipeline steps them
    size : height and width of the images
    """

    adapter: FlowPipelineAdapter
    prompt: str
    path: SourcePath
    size: tuple[int, int]

    def edit(
        self,
        target: str | Sequence[str],
        *,
        edits: Sequence[Edit] = (),
        guidance_scale: float | None = None,
        source_guidance_scale: float | None = None,
        **arguments: Any,
    ) -> Any:
        """Return the pipeline's output with the picture's image first, then one for each target.

        Picture and targets are drawn in one batch: x* + d, where x* is the picture with new noise
        and d' = d + (t' - t) (v(x* + d, target) - v(x*, prompt)), FlowEdit's equation.

        Parameters
        ----------
        edits : attention edits of the run, where the picture's prompt is number 0
        guidance_scale, source_guidance_scale : of the targets and of the picture; those of
            FlowEdit by default, and that of the picture at most that of the targets
        arguments : further arguments of the pipeline's call
        """
        for name in RESERVED_CALL_ARGUMENTS:
            if name in arguments:
                raise ArgumentError(
                    f"Got {name} for an edit: the picture or its path determines it. Give it to "
                    "invert_with(), or leave it out."
                )
        adapter, pipe = self.adapter, self.adapter.pipe
        prompts = [self.prompt, *list_target_prompts(target)]
        scale, source_scale = adapter.choose_guidance_scales(guidance_scale, source_guidance_scale)
        start = self.path.latents[0]
        scheduler = SourceAndTargetsScheduler(pipe.scheduler, self.path.steps, self.path.latents)
        with ExitStack() as stack:
            stack.enter_context(using_scheduler(pipe, scheduler))
            stack.enter_context(adapter.applying_source_guidance_scale(scale, source_scale))
            if edits:
                attn = stack.enter_context(attend(pipe, prompts=prompts))
                for edit in edits:
                    attn.edit(edit)
                arguments.setdefault("callback_on_step_end", attn.on_step_end)
            return pipe(
                prompts,
                height=self.size[0],
                width=self.size[1],
                num_inference_steps=len(self.path.steps),
                guidance_scale=scale,
                latents=start.repeat(len(prompts), *[1] * (start.ndim - 1)),
                **arguments,
            )


def list_target_prompts(target: object) -> list[str]:
    """Return the target prompts of an edit, one or several, as a list; ArgumentError for other
    types.
    """
    prompts = [target] if isinstance(target, str) else target
    if isinstance(prompts, list | tuple) and prompts:
        texts = [one for one in prompts if isinstance(one, str)]
        if len(texts) == len(prompts):
            return texts
    raise ArgumentError(f"Got {target!r:.80} as target, expected a prompt or a list of prompts.")


@contextmanager
def using_scheduler(pipe: Any, scheduler: object) -> Iterator[None]:
    """Context manager that gives a pipeline another scheduler within the block."""
    parts = vars(pipe)  # setting the attribute would change the pipeline's config
    own = parts["scheduler"]
    parts["scheduler"] = scheduler
    try:
        yield
    finally:
        parts["scheduler"] = own


def resolve_flow_edit_method(
    adapter: FlowPipelineAdapter, method: str | InversionMethod
) -> FlowEdit:
    """Return the FlowEdit method that a name or method object stands for, with published settings
    for "auto"; ArgumentError for any other inversion method.
    """
    if isinstance(method, str):
        if method.strip().lower() == "auto":
            return FlowEdit(skip=adapter.skip)
        method = parse_method(method)
    if not isinstance(method, FlowEdit):
        raise ArgumentError(
            f"Got the method {format_method(method)!r} for a {type(adapter.pipe).__name__}: flow "
            "models of diffusers take difference alone, FlowEdit."
        )
    return method


def encode_flow_pixels_to_mean_latents(pipe: Any, pixels_13YX: Tensor) -> Tensor:
    """Return the scaled latents (1, C, H, W) of a picture: the mean of what the VAE encodes."""
    if len(pixels_13YX) != 1 or pixels_13YX.shape[1] != 3:
        raise ArgumentError(
            f"Got pictures of shape {tuple(pixels_13YX.shape)}, expected one in colour."
        )
    vae, device = pipe.vae, pipe._execution_device
    latents_1CHW = vae.encode(pixels_13YX.to(device, vae.dtype)).latent_dist.mode()
    return sd.scale_latents(vae, latents_1CHW).to(device, pipe.transformer.dtype)


@dataclass(frozen=True)
class InversionRunWithoutPasses:
    """Run of an inversion method that only adds noise to the picture's latents, and makes no
    denoiser pass; see `InversionRunProtocol`.
    """

    pipe: Any
    levels: NoiseLevels
    clean_1CHW: Tensor
    generator: torch.Generator

    @property
    def pipeline_scheduler(self) -> Any:
        """Scheduler of the flow pipeline."""
        return self.pipe.scheduler

    def sample_latents(self, *_: Any, **__: Any) -> Tensor:
        """Raise AssertionError: the inversion method makes no denoiser pass."""
        raise AssertionError("difference makes no pass")
