"""Image embeddings of prompts, predicted by unCLIP's prior in the common sampling loop.

B batch rows (here: images), R rows of a pass, W tokens of a window, D width of an embedding.
"""

import os
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from diffusers.pipelines.kandinsky2_2.pipeline_kandinsky2_2_prior import KandinskyV22PriorPipeline
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor, nn

from pipelines.base.saving import check_saved_lora_is_valid, check_saved_loras_fully_loaded
from pipelines.loop import GeneratorOrList, sample_latents
from pipelines.run.step_callbacks import ProgressCallback
from t2i.conditioning.conditioning import Branch, Conditioning
from t2i.conditioning.guidance import choose_guidance
from t2i.conditioning.run_state import RunState
from t2i.denoiser.families import unclip
from t2i.denoiser.finite_checks import check_weights_finite
from t2i.denoiser.loading.model_folder import read_and_check_folder
from t2i.denoiser.loading.model_location import locate_model
from t2i.denoiser.loading.model_parts import KANDINSKY_PRIOR
from t2i.denoiser.loading.trial_pass import (
    check_tokens_have_embeddings,
    load_and_check_tokenizer,
    translating_load_errors,
)
from t2i.denoiser.schedulers import scale_initial_noise
from t2i.denoiser.timesteps import set_timesteps
from t2i.errors import ArgumentError, ModelError
from t2i.text.encoders.clip import Clip


def sample_image_embeddings(
    pipe: Any,
    prompts: Sequence[str],
    negative_prompts: Sequence[str] | None,
    *,
    num_images_per_prompt: int,
    num_inference_steps: int,
    guidance_scale: float,
    generator: GeneratorOrList | None,
    device: torch.device,
) -> dict[Branch, Tensor]:
    """Return image embeddings (B, D) sampled for the prompts, "cond", and negative prompts,
    "uncond".

    Without negative prompts "uncond" is the embedding of a black image; with them it is sampled,
    guided away from the negative prompt itself, as KandinskyV22PriorPipeline does.
    """
    scheduler = pipe.prior_scheduler
    check_prior_steps_in_range(num_inference_steps, scheduler.config["num_train_timesteps"])
    guidance = choose_guidance(guidance_scale)

    # encode the prompts
    cond_texts = [*prompts, *(negative_prompts or ())]
    uncond_texts = [""] * len(cond_texts)
    if negative_prompts:
        uncond_texts = [*negative_prompts, *negative_prompts]
    texts: dict[Branch, Sequence[str]] = {"uncond": uncond_texts, "cond": cond_texts}
    encoded = [
        encode_prior_texts(pipe, texts[branch], num_images_per_prompt, device)
        for branch in guidance.possible_branches
    ]
    text_RWD, sentence_RD, mask_RW = (torch.cat(rows) for rows in zip(*encoded, strict=True))
    conditioning = Conditioning(
        text_RWD, guidance.possible_branches, {unclip.SENTENCE_EMBEDDING_KEY: sentence_RD}, mask_RW
    )

    # sample embeddings from noise
    if isinstance(generator, list) and negative_prompts:
        generator = generator * 2
    noise_BD = randn_tensor(
        (len(cond_texts) * num_images_per_prompt, pipe.prior_prior.config["embedding_dim"]),
        generator=generator,
        device=device,
        dtype=text_RWD.dtype,
    )
    set_timesteps(scheduler, num_inference_steps, device)
    run = RunState(
        scale_initial_noise(scheduler, noise_BD), conditioning, guidance, scheduler.timesteps
    )
    prior_scheduler: Any = unclip.UnCLIPStepper(scheduler)
    with pipe.progress_bar(total=num_inference_steps) as bar:
        embeds_BD = sample_latents(
            run,
            partial(unclip.predict_clean_image_embedding, pipe.prior_prior),
            prior_scheduler,
            generator=generator,
            step_callbacks=[ProgressCallback(bar, num_inference_steps, order=1)],
        )
    embeds_BD = pipe.prior_prior.post_process_latents(embeds_BD)
    if negative_prompts:
        cond_BD, uncond_BD = embeds_BD.chunk(2)
        return {"cond": cond_BD, "uncond": uncond_BD}
    black_1D = compute_black_image_embedding(pipe.prior_image_encoder, device)
    return {"cond": embeds_BD, "uncond": black_1D.expand_as(embeds_BD)}


def encode_prior_texts(
    pipe: Any, texts: Sequence[str], num_images_per_prompt: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Return token embeddings, pooled embedding and token mask of texts, a row per image.

    A prior reads a single window; words that do not fit are dropped with a warning that names them.
    """
    encoder = Clip(pipe.prior_tokenizer, pipe.prior_text_encoder)
    tokens = encoder.tokenize(texts, length=encoder.window_size)
    mask_RW = tokens.mask_RW.to(device)
    text_RWD, sentence_RD = encoder.run_model(tokens.ids_RW.to(device), mask_RW, None)
    assert sentence_RD is not None
    text_RWD, sentence_RD, mask_RW = (
        tensor.repeat_interleave(num_images_per_prompt, dim=0)
        for tensor in (text_RWD, sentence_RD, mask_RW.bool())
    )
    return text_RWD, sentence_RD, mask_RW


def compute_black_image_embedding(image_encoder: Any, device: torch.device) -> Tensor:
    """Return the embedding (1, D) of a black image."""
    size = image_encoder.config.image_size
    pixels_13YX = torch.zeros(1, 3, size, size, device=device, dtype=image_encoder.dtype)
    embeds_1D: Tensor = image_encoder(pixels_13YX).image_embeds
    return embeds_1D


def check_prior_steps_in_range(steps: int, most: int) -> None:
    """Raise ArgumentError unless the prior can take this many steps."""
    if not isinstance(steps, int) or not 2 <= steps <= most:
        raise ArgumentError(
            f"Got prior_num_inference_steps={steps!r}, expected a whole number from 2 to {most}."
        )


def load_prior_components(
    name_or_path: str | os.PathLike[str], variant: str | None = None, **options: Any
) -> dict[str, Any]:
    """Load a Kandinsky 2.2 prior after checking its files, and return its parts by the names they
    have in KandinskyV22CombinedPipeline.
    """
    place = locate_model(name_or_path, variant)
    if (
        place.is_file()
        or (contents := read_and_check_folder(place, variant)).model_kind != KANDINSKY_PRIOR
    ):
        kind = "a single file" if place.is_file() else f"a {contents.model_kind}"
        raise ModelError(
            f"Got prior={os.fspath(name_or_path)!r}, which is {kind}; expected the folder or the "
            "hub id of a KandinskyV22PriorPipeline."
        )
    for part in contents.parts:
        check_saved_lora_is_valid(place / part)
    absent = {} if "image_processor" in contents.parts else {"image_processor": None}
    with translating_load_errors(place):
        prior = KandinskyV22PriorPipeline.from_pretrained(
            str(place),
            variant=variant,
            dtype=options.get("dtype", options.get("torch_dtype")) or torch.float32,
            use_safetensors=True,
            tokenizer=load_and_check_tokenizer(place / "tokenizer", contents.parts["tokenizer"]),
            **absent,
        )
    check_tokens_have_embeddings(place / "tokenizer", prior.tokenizer, prior.text_encoder)
    for name, part in prior.components.items():
        if isinstance(part, nn.Module):
            check_weights_finite(str(place / name), part)
    check_saved_loras_fully_loaded(place, prior.components)
    return {f"prior_{name}": part for name, part in prior.components.items()}
