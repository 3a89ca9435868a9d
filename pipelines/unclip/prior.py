"""From prompts to embeddings of the pictures they speak of: unCLIP's prior, over the one loop.

B batch rows (here: pictures), R rows of a pass, W tokens of a window, D width of an embedding.
"""

import os
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from diffusers.pipelines.kandinsky2_2.pipeline_kandinsky2_2_prior import KandinskyV22PriorPipeline
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor, nn

from pipelines.base.saving import check_adapter, check_opened
from pipelines.loop import Generators, sample
from pipelines.run.step_callbacks import Progress
from t2i.conditioning.conditioning import Branch, Conditioning
from t2i.conditioning.guidance import choose_guidance
from t2i.conditioning.run_state import RunState
from t2i.denoiser.families import unclip
from t2i.denoiser.finite_checks import check_weights_finite
from t2i.denoiser.loading.address import resolve
from t2i.denoiser.loading.model_folder import check_folder
from t2i.denoiser.loading.model_parts import KANDINSKY_PRIOR
from t2i.denoiser.loading.trial_pass import check_vocabulary, load_tokenizer, loading
from t2i.denoiser.schedulers import first_latents
from t2i.denoiser.timesteps import set_timesteps
from t2i.errors import ArgumentError, ModelError
from t2i.text.encoders.clip import Clip


def imagined(
    pipe: Any,
    prompts: Sequence[str],
    negative_prompts: Sequence[str] | None,
    *,
    pictures: int,
    num_inference_steps: int,
    guidance_scale: float,
    generator: Generators | None,
    device: torch.device,
) -> dict[Branch, Tensor]:
    """Embeddings (B, D) of what is to be drawn, "cond", and of what is not, "uncond"; `pictures`
    rows for each prompt.

    Without negative prompts "uncond" is a black picture; with them it is imagined too, guided away
    from nothing but itself, as KandinskyV22PriorPipeline does.
    """
    scheduler = pipe.prior_scheduler
    check_steps(num_inference_steps, scheduler.config["num_train_timesteps"])
    guidance = choose_guidance(guidance_scale)

    # what the prior is told
    lines = [*prompts, *(negative_prompts or ())]
    silence = [*negative_prompts, *negative_prompts] if negative_prompts else [""] * len(lines)
    said: dict[Branch, Sequence[str]] = {"uncond": silence, "cond": lines}
    rows = [read(pipe, said[branch], pictures, device) for branch in guidance.needs]
    text_RWD, sentence_RD, mask_RW = (torch.cat(parts) for parts in zip(*rows, strict=True))
    told = Conditioning(text_RWD, guidance.needs, {unclip.SENTENCE: sentence_RD}, mask_RW)

    # step by step, from noise to embeddings
    if isinstance(generator, list) and negative_prompts:
        generator = generator * 2
    noise_BD = randn_tensor(
        (len(lines) * pictures, pipe.prior_prior.config["embedding_dim"]),
        generator=generator,
        device=device,
        dtype=text_RWD.dtype,
    )
    set_timesteps(scheduler, num_inference_steps, device)
    run = RunState(first_latents(scheduler, noise_BD), told, guidance, scheduler.timesteps)
    stepping: Any = unclip.KnowsNext(scheduler)
    with pipe.progress_bar(total=num_inference_steps) as bar:
        embeds_BD = sample(
            run,
            partial(unclip.imagine, pipe.prior_prior),
            stepping,
            generator=generator,
            step_callbacks=[Progress(bar, num_inference_steps, order=1)],
        )
    embeds_BD = pipe.prior_prior.post_process_latents(embeds_BD)
    if negative_prompts:
        cond_BD, uncond_BD = embeds_BD.chunk(2)
        return {"cond": cond_BD, "uncond": uncond_BD}
    black_1D = of_a_black_picture(pipe.prior_image_encoder, device)
    return {"cond": embeds_BD, "uncond": black_1D.expand_as(embeds_BD)}


def read(
    pipe: Any, lines: Sequence[str], pictures: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Each token, the whole sentence, and which tokens are words: one row per picture.

    A prior reads a single window; words that do not fit are dropped with a warning that names them.
    """
    encoder = Clip(pipe.prior_tokenizer, pipe.prior_text_encoder)
    tokens = encoder.tokenize(lines, length=encoder.window)
    mask_RW = tokens.mask_RW.to(device)
    text_RWD, sentence_RD = encoder.read(tokens.ids_RW.to(device), mask_RW, None)
    assert sentence_RD is not None
    text_RWD, sentence_RD, mask_RW = (
        tensor.repeat_interleave(pictures, dim=0)
        for tensor in (text_RWD, sentence_RD, mask_RW.bool())
    )
    return text_RWD, sentence_RD, mask_RW


def of_a_black_picture(image_encoder: Any, device: torch.device) -> Tensor:
    """The embedding (1, D) that stands for no picture."""
    size = image_encoder.config.image_size
    pixels_13YX = torch.zeros(1, 3, size, size, device=device, dtype=image_encoder.dtype)
    embeds_1D: Tensor = image_encoder(pixels_13YX).image_embeds
    return embeds_1D


def check_steps(steps: int, most: int) -> None:
    if not isinstance(steps, int) or not 2 <= steps <= most:
        raise ArgumentError(
            f"Got prior_num_inference_steps={steps!r}, expected a whole number from 2 to {most}."
        )


def parts_of_prior(
    name_or_path: str | os.PathLike[str], variant: str | None = None, **options: Any
) -> dict[str, Any]:
    """The parts of a prior's folder, checked first, under the names they have beside a decoder."""
    place = resolve(name_or_path, variant)
    if place.is_file() or (contents := check_folder(place, variant)).kind != KANDINSKY_PRIOR:
        kind = "a single file" if place.is_file() else f"a {contents.kind}"
        raise ModelError(
            f"Got prior={os.fspath(name_or_path)!r}, which is {kind}; expected the folder or the "
            "hub id of a KandinskyV22PriorPipeline."
        )
    for part in contents.parts:
        check_adapter(place / part)
    absent = {} if "image_processor" in contents.parts else {"image_processor": None}
    with loading(place):
        prior = KandinskyV22PriorPipeline.from_pretrained(
            str(place),
            variant=variant,
            dtype=options.get("dtype", options.get("torch_dtype")) or torch.float32,
            use_safetensors=True,
            tokenizer=load_tokenizer(place / "tokenizer", contents.parts["tokenizer"]),
            **absent,
        )
    check_vocabulary(place / "tokenizer", prior.tokenizer, prior.text_encoder)
    for name, part in prior.components.items():
        if isinstance(part, nn.Module):
            check_weights_finite(str(place / name), part)
    check_opened(place, prior.components)
    return {f"prior_{name}": part for name, part in prior.components.items()}
