"""Building a model of any size, with fresh weights, from a TOML."""

import inspect
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import nn
from transformers import (
    BertConfig,
    BertModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    GPT2Config,
    GPT2Model,
    PreTrainedModel,
    T5Config,
    T5EncoderModel,
)

from t2i.denoiser.families.sd import VAE
from t2i.denoiser.loading.config_checks import MIN_PROMPT_LENGTH
from t2i.denoiser.loading.config_values import check_config_values
from t2i.denoiser.loading.meta_models import build_meta_model
from t2i.denoiser.loading.trial_pass import check_unet_and_autoencoder_run
from t2i.errors import ArgumentError, ModelError, format_library_error, suggest_choice
from t2i.safe_reading import CONFIG_KIND, read_toml
from t2i.text.bpe import build_clip_tokenizer, load_vocabulary_and_merges

ComponentSettings = dict[str, Any]
AUTOENCODERS: dict[str, type[VAE]] = {
    "AutoencoderKL": AutoencoderKL,
    "AutoencoderTiny": AutoencoderTiny,
}
TEXT_ENCODERS: dict[str, tuple[type, type[PreTrainedModel]]] = {
    "BertModel": (BertConfig, BertModel),
    "CLIPTextModel": (CLIPTextConfig, CLIPTextModel),
    "CLIPTextModelWithProjection": (CLIPTextConfig, CLIPTextModelWithProjection),
    "GPT2Model": (GPT2Config, GPT2Model),
    "T5EncoderModel": (T5Config, T5EncoderModel),
}
"""Kind of [text_encoder] -> the class of its arguments, and its own."""


class TokenizerSettings(BaseModel):
    """Tokenizer settings of a model config: vocabulary folder and maximum tokens of a prompt."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: Path
    """Folder with `vocab.json` and `merges.txt`; relative to the TOML."""
    length: int = Field(ge=MIN_PROMPT_LENGTH)


class NewModelConfig(BaseModel):
    """Config of a new model, to be built with fresh weights: a table for each component, with the
    arguments of its class.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    vae: ComponentSettings
    """`kind` names the class, AutoencoderKL or AutoencoderTiny; the rest are its arguments."""
    unet: ComponentSettings
    """Arguments of UNet2DConditionModel; channels in and out default to the autoencoder's."""
    text_encoder: ComponentSettings
    """`kind` names the class, CLIPTextModel where it is left out; the rest are its config's
    arguments. Vocabulary and positions default to the tokenizer's."""
    text_encoder_2: ComponentSettings | None = None
    """A second one makes the model an SDXL; CLIPTextModelWithProjection where no kind is given."""
    tokenizer: TokenizerSettings

    @classmethod
    def load_toml(cls, path: Path) -> "NewModelConfig":
        """Load the config of a new model from a TOML file, with the tokenizer's folder as an
        absolute path. Raises ArgumentError where the file is missing or invalid.
        """
        settings = read_toml(path, CONFIG_KIND.copy_with_noun("model config"))
        check_known_names(settings, cls.model_fields, f"table of {path.name}")
        try:
            config = cls(**settings)
        except ValidationError as error:
            raise ArgumentError(f"{path}: {error}") from error
        folder = (path.parent / config.tokenizer.folder).resolve()
        return config.model_copy(
            update={"tokenizer": config.tokenizer.model_copy(update={"folder": folder})}
        )


@dataclass(frozen=True, slots=True)
class ModelComponents:
    """The components of a latent diffusion model, under diffusers' names."""

    vae: VAE
    unet: UNet2DConditionModel
    text_encoder: PreTrainedModel
    tokenizer: CLIPTokenizer
    text_encoder_2: CLIPTextModelWithProjection | None = None
    tokenizer_2: CLIPTokenizer | None = None


def build_fresh_components(config: NewModelConfig) -> ModelComponents:
    """Build all components of a new model with fresh weights, drawn from torch's global generator,
    from its config.

    Raises ArgumentError for an argument that its class does not have, naming the nearest, or that
    the class cannot use.
    """
    vae = build_fresh_vae(config)
    tokenizer = build_clip_tokenizer(
        *load_vocabulary_and_merges(config.tokenizer.folder), config.tokenizer.length
    )
    text_encoder = build_fresh_text_encoder(config, "text_encoder", "CLIPTextModel", tokenizer)
    width = text_encoder.config.hidden_size
    added_conditions: ComponentSettings = {}
    second = None
    if config.text_encoder_2 is not None:
        kind = "CLIPTextModelWithProjection"
        second = build_fresh_text_encoder(config, "text_encoder_2", kind, tokenizer)
        width += second.config.hidden_size
        added_conditions = build_sdxl_unet_settings(config.unet, second)

    unet_settings = {
        "in_channels": vae.config["latent_channels"],
        "out_channels": vae.config["latent_channels"],
        "cross_attention_dim": width,
        **added_conditions,
    } | config.unet
    unet = build_component(UNet2DConditionModel, unet_settings, "unet")
    check_components_run(
        {"unet": unet, "vae": vae, **({"text_encoder_2": second} if second else {})}
    )
    return ModelComponents(vae, unet, text_encoder, tokenizer, second, second and tokenizer)


def check_components_run(parts: Mapping[str, Any]) -> None:
    """Raise ArgumentError unless a new model's components run, in a trial pass on the meta device,
    and fit one another.
    """
    with torch.random.fork_rng(devices=[]):  # The weights of these are drawn from it.
        models = {
            part: build_meta_model(type(made).__name__, dict(made.config))
            if part in ("unet", "vae")
            else made
            for part, made in parts.items()
        }
    try:
        check_unet_and_autoencoder_run(
            models, {part: f"The model config's [{part}]" for part in parts}
        )
    except ModelError as error:
        raise ArgumentError(str(error)) from error


def build_fresh_text_encoder(
    config: NewModelConfig, table: str, default: str, tokenizer: CLIPTokenizer
) -> Any:
    """Build a text encoder with fresh weights, and embeddings of unit variance, from one table of a
    new model's config.

    default : class where the table names none
    """
    settings = dict(getattr(config, table))
    kind = settings.pop("kind", default)
    if kind not in TEXT_ENCODERS:
        raise ArgumentError(
            f"Unknown text encoder {kind!r} in [{table}]. "
            f"{suggest_choice(str(kind), TEXT_ENCODERS)}"
        )
    config_class, model_class = TEXT_ENCODERS[kind]
    of_tokenizer = {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "max_position_embeddings": config.tokenizer.length,
        "n_positions": config.tokenizer.length,
    }
    known = _arguments(config_class)
    settings = {name: of_tokenizer[name] for name in of_tokenizer if name in known} | settings
    arguments: ComponentSettings = {"config": build_component(config_class, settings, table)}
    if model_class is BertModel:
        arguments["add_pooling_layer"] = False  # Nothing here reads it.
    model = build_component(model_class, arguments, table)
    # NOTE a footgun: CLIP starts its token embeddings at 0.02, where what the layers add drowns
    # them: after 1,400 steps every word had the same embedding. Unit variance keeps words apart.
    nn.init.normal_(model.get_input_embeddings().get_parameter("weight"))
    return model


def build_sdxl_unet_settings(unet: ComponentSettings, second: PreTrainedModel) -> ComponentSettings:
    """Return the UNet arguments by which a new UNet takes SDXL's inputs: the pooled prompt
    embedding and six image sizes.
    """
    width = unet.get("addition_time_embed_dim", 32)
    return {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": width,
        "projection_class_embeddings_input_dim": 6 * width + second.config.projection_dim,
    }


def build_fresh_vae(config: NewModelConfig) -> VAE:
    """Build the VAE of a new model with fresh weights from its config. Raises ArgumentError for an
    unknown class.
    """
    settings = dict(config.vae)
    kind = settings.pop("kind", "AutoencoderKL")
    if kind not in AUTOENCODERS:
        raise ArgumentError(
            f"Unknown autoencoder {kind!r} in [vae]. {suggest_choice(str(kind), AUTOENCODERS)}"
        )
    made: VAE = build_component(AUTOENCODERS[kind], settings, "vae")
    return made


def build_component(kind: type, settings: ComponentSettings, table: str) -> Any:
    """Build one component of a new model, such as its UNet, from its table of the config. Raises
    ArgumentError that names the table if its class rejects the arguments.
    """
    check_known_names(settings, _arguments(kind), f"key of [{table}]")
    try:
        check_config_values(kind, settings)
    except ModelError as error:
        raise ArgumentError(f"The model config's [{table}] {error}") from error
    try:
        return kind(**settings)
    except Exception as error:  # Constructors of the libraries fail in any way.
        raise ArgumentError(
            f"The model config's [{table}] makes no {kind.__name__}: {format_library_error(error)}"
        ) from error


def check_known_names(given: ComponentSettings, known: Collection[str], what: str) -> None:
    """Raise ArgumentError for the first key or table of a config that is not among the known names;
    the message suggests the nearest.
    """
    for name in given:
        if name not in known:
            raise ArgumentError(f"Unknown {what}: {name!r}. {suggest_choice(name, known)}")


def _arguments(cls: type) -> set[str]:
    names = {field.name for field in fields(cls)} if is_dataclass(cls) else set()
    return (names | set(inspect.signature(cls).parameters)) - {"self", "kwargs"}
