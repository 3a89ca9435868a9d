"""Trial runs of model parts on zeros or meta tensors, to report an unusable config by its file.

C channels, H W latent size.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from torch import nn

from t2i.denoiser.loading.config_checks import check_config_safety
from t2i.denoiser.loading.config_values import check_config_values
from t2i.denoiser.loading.weight_checks import read_json_object
from t2i.errors import ModelError, T2IError, format_library_error

TRIAL_STEPS = 8
PASSED_MODEL_CONFIGS: set[str] = set()
"""Configs, as JSON, of the models that passed `check_unet_and_autoencoder_run` in this process."""
MAX_PASSED_MODELS = 64


@contextmanager
def translating_library_errors(problem: str, remedy: str) -> Iterator[None]:
    """Turn any exception of a library within the block into a ModelError that states the problem
    and the remedy.
    """
    try:
        yield
    except T2IError:
        raise
    except Exception as error:  # Libraries fail in any way over what they did not write.
        raise ModelError(f"{problem} ({format_library_error(error)}): {remedy}") from error


def translating_load_errors(place: Path) -> AbstractContextManager[None]:
    """Turn any exception within the block, in which a checked model is loaded, into a ModelError
    that names the model.
    """
    return translating_library_errors(
        f"{place} cannot be loaded, though its parts are whole",
        "check the options that were given, and the configs of its parts.",
    )


def check_scheduler_runs(path: Path, class_name: str) -> None:
    """Raise ModelError unless a scheduler of this class can be built from a config file and runs a
    few steps.
    """
    config = read_json_object(path)
    check_config_safety(path, config)
    kind = getattr(diffusers, class_name)
    try:
        check_config_values(kind, config)
    except ModelError as error:
        raise ModelError(f"{path} {error}") from error
    with translating_library_errors(
        f"{path} describes no {class_name} that takes {TRIAL_STEPS} steps",
        "correct what it says of the noise, or copy the file from the model again.",
    ):
        try:
            stepping = kind.from_config(config)
        except ImportError:
            return  # The package to install is named where it is built to draw with.
        if class_name != "UnCLIPScheduler":  # needs the next timestep, which only the prior passes
            run_scheduler_on_zeros(stepping)


def run_scheduler_on_zeros(stepping: Any) -> None:
    """Run a few steps of a scheduler on latents of zeros as a trial. Raises ValueError if they give
    NaN or infinity.
    """
    stepping.set_timesteps(TRIAL_STEPS)
    if hasattr(stepping, "set_begin_index"):
        stepping.set_begin_index(0)
    latents_BCHW = torch.zeros(1, 4, 2, 2)
    for timestep in stepping.timesteps:
        if hasattr(stepping, "scale_model_input"):
            latents_BCHW = stepping.scale_model_input(latents_BCHW, timestep)
        latents_BCHW = stepping.step(latents_BCHW, timestep, latents_BCHW, return_dict=False)[0]
    if not latents_BCHW.isfinite().all():
        raise ValueError("zeros became NaN or infinite")


def load_and_check_tokenizer(place: Path, class_name: str) -> Any:
    """Load a folder's tokenizer, try it on a text, and return it. Raises ModelError if either
    fails.
    """
    with translating_library_errors(
        f"{place} has no {class_name} that reads a text",
        "copy the folder from the model again.",
    ):
        tokenizer = getattr(transformers, class_name).from_pretrained(place, local_files_only=True)
        for text in ("a red cat", ""):
            tokenizer(text, truncation=True, max_length=tokenizer.model_max_length)
    return tokenizer


def check_tokens_have_embeddings(place: Path, tokenizer: Any, text_encoder: Any) -> None:
    """Raise ModelError if the tokenizer has tokens without an embedding in the text encoder."""
    known = text_encoder.get_input_embeddings().weight.shape[0]
    most = max(tokenizer.get_vocab().values(), default=0) + 1
    if most > known:
        raise ModelError(
            f"{place} has tokens up to number {most - 1}, but the text encoder has embeddings for "
            f"{known}: take both from the same model."
        )


def check_unet_and_autoencoder_run(
    models: Mapping[str, nn.Module], names: Mapping[str, object]
) -> None:
    """Raise ModelError unless UNet and autoencoder run on meta tensors and fit each other.

    models : part -> its skeleton; what the caller brings along is not there
    names : part -> where it is described
    """
    unet: Any = models.get("unet")
    vae: Any = models.get("vae") or models.get("movq")
    described = json.dumps(
        [[type(part).__name__, dict(part.config)] for part in (unet, vae) if part is not None]
        + [find_pooled_width_of_second_encoder(models)],
        sort_keys=True,
        default=repr,
    )
    if described in PASSED_MODEL_CONFIGS:
        return
    latents_BCHW: torch.Tensor | None = None
    with torch.device("meta"), torch.no_grad():
        if unet is not None:
            with translating_trial_pass_errors(names["unet"]):
                latents_BCHW = run_unet_on_zeros(unet, models, min_latent_side(unet))
        if vae is not None:
            part = "vae" if "vae" in models else "movq"
            with translating_trial_pass_errors(names[part]):
                check_autoencoder_decodes(names, vae, part, latents_BCHW)
    if len(PASSED_MODEL_CONFIGS) >= MAX_PASSED_MODELS:
        PASSED_MODEL_CONFIGS.clear()
    PASSED_MODEL_CONFIGS.add(described)


def find_pooled_width_of_second_encoder(models: Mapping[str, nn.Module]) -> int | None:
    """Return the width of the second text encoder's pooled embedding, or None without one."""
    config: Any = getattr(models.get("text_encoder_2"), "config", None)
    return None if config is None else int(config.projection_dim)


def translating_trial_pass_errors(name: object) -> AbstractContextManager[None]:
    """Turn any exception within the block, a trial pass of the named model part, into a
    ModelError.
    """
    return translating_library_errors(
        f"{name} describes a part that cannot run",
        "its sizes do not fit one another, or the parts beside it.",
    )


def min_latent_side(unet: Any) -> int:
    """Return the height (and width) of the smallest square latents that the UNet can downsample."""
    return int(2 ** (len(unet.config["block_out_channels"]) - 1))


def run_unet_on_zeros(
    unet: Any, models: Mapping[str, nn.Module], side: int, *, learned: bool = False
) -> torch.Tensor:
    """Run a UNet once on zeros and return the prediction (1, C, side, side).

    learned : let the text require a gradient, as with learned words or a trained text encoder
    """
    config = unet.config
    latents_BCHW = torch.zeros(1, config["in_channels"], side, side)
    width = config["cross_attention_dim"]
    if config.get("encoder_hid_dim") and config.get("encoder_hid_dim_type") == "text_proj":
        width = config["encoder_hid_dim"]
    widths = [width] if isinstance(width, int) else [*width]
    options: dict[str, Any] = {}
    if config.get("time_cond_proj_dim"):
        options["timestep_cond"] = torch.zeros(1, config["time_cond_proj_dim"])
    if config.get("addition_embed_type") == "text_time":
        input_width = config["projection_class_embeddings_input_dim"]
        sizes = 6 * config["addition_time_embed_dim"]
        pooled = find_pooled_width_of_second_encoder(models)
        pooled_size = input_width - sizes if pooled is None else pooled
        numbers = (input_width - pooled_size) // config["addition_time_embed_dim"]
        options["added_cond_kwargs"] = {
            "text_embeds": torch.zeros(1, pooled_size),
            "time_ids": torch.zeros(1, numbers),
        }
    elif config.get("addition_embed_type") == "image":
        options["added_cond_kwargs"] = {"image_embeds": torch.zeros(1, config["encoder_hid_dim"])}
    prediction_BCHW: torch.Tensor = unet(
        latents_BCHW,
        torch.zeros(()),
        torch.zeros(1, 3, max(widths), requires_grad=learned),
        **options,
        return_dict=False,
    )[0]
    return prediction_BCHW


def check_autoencoder_decodes(
    names: Mapping[str, object], vae: Any, part: str, latents_BCHW: torch.Tensor | None
) -> None:
    """Raise ModelError unless the autoencoder decodes the UNet's latents to RGB images."""
    channels = vae.config["latent_channels"]
    if latents_BCHW is None:
        latents_BCHW = torch.zeros(1, channels, 2, 2)
    predicted = latents_BCHW.shape[1]
    if predicted not in (channels, 2 * channels):
        raise ModelError(
            f"{names['unet']} has out_channels = {predicted}, and {names[part]} latents of "
            f"{channels} channels (latent_channels): take both from the same model."
        )
    options = {"force_not_quantize": True} if part == "movq" else {}
    latents_BCHW = latents_BCHW[:, :channels]
    pixels = vae.decode(latents_BCHW, return_dict=False, **options)[0]
    factor = 2 ** (len(vae.config["block_out_channels"]) - 1)
    expected = (1, 3, latents_BCHW.shape[2] * factor, latents_BCHW.shape[3] * factor)
    if tuple(pixels.shape) != expected:
        raise ModelError(
            f"{names[part]} describes an autoencoder that decodes latents "
            f"{tuple(latents_BCHW.shape)} to {tuple(pixels.shape)}, expected {expected}: three "
            f"colours, and {factor} pixels to a latent."
        )
    if part == "vae":
        vae.encode(torch.zeros(expected))
