"""Real model classes at tiny size, seeded: an SD1-type pipeline that runs in milliseconds."""

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    DDIMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

from tests.shared_loads import share_loads

WORDS = ("red", "apple", "cat", "dog", "left", "of", "to", "the", "blue", "picture")
WINDOW = 16
TEXT_WIDTH = 32


def tiny_tokenizer(model_max_length: int = WINDOW) -> CLIPTokenizer:
    """One token per word of WORDS, one per letter of any other word."""
    letters = "abcdefghijklmnopqrstuvwxyz,."
    tokens = [*letters, *(f"{letter}</w>" for letter in letters)]
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        parts = [*word[:-1], f"{word[-1]}</w>"]
        while len(parts) > 1:
            pair = (parts[0], parts[1])
            parts[:2] = ["".join(pair)]
            if pair not in merges:
                merges.append(pair)
                tokens.append(parts[0])
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocab = {token: index for index, token in enumerate(tokens)}
    tokenizer = CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=model_max_length)
    # NOTE a footgun: other ways to build a CLIPTokenizer are accepted and map each word to one id.
    assert tokenizer.tokenize(" ".join(WORDS)) == [f"{word}</w>" for word in WORDS]
    return tokenizer


def tiny_text_encoder(tokenizer: CLIPTokenizer, **config: Any) -> CLIPTextModel:
    torch.manual_seed(0)
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            **config,
        )
    ).eval()


def picture(size: int = 32) -> Image.Image:
    """A square picture of noise."""
    pixels = torch.rand(3, size, size, generator=torch.Generator().manual_seed(4))
    return Image.fromarray((pixels * 255).byte().permute(1, 2, 0).numpy())


def tiny_unet(**config: Any) -> UNet2DConditionModel:
    torch.manual_seed(1)
    settings: dict[str, Any] = {
        "sample_size": 8,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": (16, 32),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": TEXT_WIDTH,
        "attention_head_dim": 4,
        "norm_num_groups": 4,
    }
    return UNet2DConditionModel(**(settings | config)).eval()


def tiny_vae(**config: Any) -> AutoencoderKL:
    """Four pixels to a latent."""
    torch.manual_seed(2)
    settings: dict[str, Any] = {
        "block_out_channels": (8, 8, 16),
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
        "latent_channels": 4,
        "norm_num_groups": 4,
        "sample_size": 32,
    }
    return AutoencoderKL(**(settings | config)).eval()


def tiny_small_vae(latent_channels: int = 4) -> AutoencoderTiny:
    """An AutoencoderTiny; four pixels to a latent, as with tiny_vae."""
    torch.manual_seed(2)
    return AutoencoderTiny(
        encoder_block_out_channels=(8, 8, 8),
        decoder_block_out_channels=(8, 8, 8),
        num_encoder_blocks=(1, 1, 1),
        num_decoder_blocks=(1, 1, 1),
        latent_channels=latent_channels,
    ).eval()


def tiny_scheduler(**config: Any) -> DDIMScheduler:
    """Stable Diffusion 1's noise schedule."""
    settings: dict[str, Any] = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
    }
    return DDIMScheduler(**(settings | config))


def tiny_sd_components(window: int = WINDOW) -> dict[str, Any]:
    """The parts of a TextToImagePipeline; pictures are 32 x 32, a prompt 16 tokens."""
    tokenizer = tiny_tokenizer(window)
    return {
        "vae": tiny_vae(),
        "text_encoder": tiny_text_encoder(tokenizer),
        "tokenizer": tokenizer,
        "unet": tiny_unet(),
        "scheduler": tiny_scheduler(),
    }


def diffusers_pipeline(components: dict[str, Any]) -> StableDiffusionPipeline:
    """What ours is held against, around the very same parts."""
    pipe = StableDiffusionPipeline(
        **components, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def tiny_sd_folder(path: Path) -> Path:
    """Write the parts as people's Stable Diffusion folders are: by diffusers' own pipeline."""
    diffusers_pipeline(tiny_sd_components()).save_pretrained(path)
    return share_loads(path)


def tiny_sdxl_components(window: int = WINDOW, **unet: Any) -> dict[str, Any]:
    """The parts of an SDXL pipeline; pictures are 32 x 32, a prompt 16 tokens."""
    tokenizer = tiny_tokenizer(window)
    torch.manual_seed(5)
    text_encoder_2 = CLIPTextModelWithProjection(
        CLIPTextConfig(**tiny_text_encoder(tokenizer).config.to_dict() | {"projection_dim": 24})
    ).eval()
    of_sdxl: dict[str, Any] = {
        "cross_attention_dim": 2 * TEXT_WIDTH,
        "transformer_layers_per_block": 2,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 6 * 8 + 24,
    }
    return {
        **tiny_sd_components(window),
        "text_encoder_2": text_encoder_2,
        "tokenizer_2": tiny_tokenizer(window),
        "unet": tiny_unet(**of_sdxl | unet),
    }
