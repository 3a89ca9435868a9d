"""Folders of the other kinds of models at tiny size, written by diffusers' own pipelines."""

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    EulerDiscreteScheduler,
    KandinskyV22Pipeline,
    KandinskyV22PriorPipeline,
    PriorTransformer,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
    UnCLIPScheduler,
    VQModel,
)
from transformers import (
    CLIPImageProcessorPil,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from tests.shared_loads import share_loads
from tests.tiny import TEXT_WIDTH, tiny_text_encoder, tiny_tokenizer, tiny_unet, tiny_vae

SECOND_WIDTH, POOLED_WIDTH = 48, 24


def second_text_encoder() -> CLIPTextModelWithProjection:
    tokenizer = tiny_tokenizer()
    torch.manual_seed(3)
    return CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=SECOND_WIDTH,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=tokenizer.model_max_length,
            projection_dim=POOLED_WIDTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            hidden_act="gelu",
        )
    ).eval()


def xl_components(refiner: bool = False) -> dict[str, Any]:
    tokenizer = tiny_tokenizer()
    numbers = 5 if refiner else 6
    return {
        "vae": tiny_vae(),
        "text_encoder": None if refiner else tiny_text_encoder(tokenizer),
        "tokenizer": None if refiner else tokenizer,
        "text_encoder_2": second_text_encoder(),
        "tokenizer_2": tokenizer,
        "unet": tiny_unet(
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2),
            cross_attention_dim=SECOND_WIDTH + (0 if refiner else TEXT_WIDTH),
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=8 * numbers + POOLED_WIDTH,
        ),
        "scheduler": EulerDiscreteScheduler(beta_schedule="scaled_linear", steps_offset=1),
    }


def xl_folder(path: Path, refiner: bool = False) -> Path:
    kind = StableDiffusionXLImg2ImgPipeline if refiner else StableDiffusionXLPipeline
    kind(**xl_components(refiner)).save_pretrained(path)
    return share_loads(path)


def kandinsky_components(**unet: Any) -> dict[str, Any]:
    """A decoder; pictures are 16 x 16, two pixels to a latent."""
    torch.manual_seed(4)
    movq = VQModel(
        block_out_channels=(32, 32),  # what its spatial norm divides into 32 groups
        down_block_types=("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
        up_block_types=("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
        latent_channels=4,
        num_vq_embeddings=12,
        norm_num_groups=4,
        norm_type="spatial",
        vq_embed_dim=4,
    ).eval()
    settings: dict[str, Any] = {
        "out_channels": 8,
        "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        "up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
        "addition_embed_type": "image",
        "encoder_hid_dim_type": "image_proj",
        "encoder_hid_dim": TEXT_WIDTH,
        "resnet_time_scale_shift": "scale_shift",
        "class_embed_type": None,
    }
    return {"unet": tiny_unet(**settings | unet), "scheduler": DDIMScheduler(), "movq": movq}


def prior_components(**prior: Any) -> dict[str, Any]:
    tokenizer = tiny_tokenizer()
    torch.manual_seed(6)
    text_encoder = CLIPTextModelWithProjection(
        CLIPTextConfig(
            **tiny_text_encoder(tokenizer).config.to_dict() | {"projection_dim": TEXT_WIDTH}
        )
    )
    image_encoder = CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=8,
            patch_size=4,
            projection_dim=TEXT_WIDTH,
        )
    )
    settings: dict[str, Any] = {
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "num_layers": 2,
        "embedding_dim": TEXT_WIDTH,
        "num_embeddings": tokenizer.model_max_length,
    }
    made = PriorTransformer(**settings | prior).eval()
    torch.nn.init.normal_(made.clip_mean)
    torch.nn.init.ones_(made.clip_std)
    torch.nn.init.normal_(made.positional_embedding)
    return {
        "prior": made,
        "text_encoder": text_encoder.eval(),
        "tokenizer": tokenizer,
        "scheduler": UnCLIPScheduler(
            variance_type="fixed_small_log", prediction_type="sample", clip_sample_range=10.0
        ),
        "image_encoder": image_encoder.eval(),
        "image_processor": CLIPImageProcessorPil(crop_size=8, size=8),
    }


def kandinsky_folder(path: Path) -> Path:
    KandinskyV22Pipeline(**kandinsky_components()).save_pretrained(path)
    return path


def prior_folder(path: Path) -> Path:
    KandinskyV22PriorPipeline(**prior_components()).save_pretrained(path)
    return path
