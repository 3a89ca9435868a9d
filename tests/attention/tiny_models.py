"""Pipelines of diffusion transformers and of image-conditioned denoisers, real classes at tiny
size, seeded."""

import torch
from diffusers import (
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    PixArtAlphaPipeline,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    UnCLIPScheduler,
    UNet2DModel,
)
from diffusers.pipelines.deprecated.unclip import UnCLIPPipeline
from diffusers.pipelines.deprecated.unclip.text_proj import UnCLIPTextProjModel
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from tests.denoiser.tiny_models import prior_components
from tests.text.tiny_models import t5
from tests.tiny import TEXT_WIDTH, tiny_text_encoder, tiny_tokenizer, tiny_unet, tiny_vae


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe


def pixart():
    """Pictures of four pixels to a latent, two latents to a place."""
    tokenizer, text_encoder = t5()
    torch.manual_seed(1)
    transformer = PixArtTransformer2DModel(
        sample_size=8,
        num_layers=2,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=3,
        caption_channels=TEXT_WIDTH,
        in_channels=4,
        cross_attention_dim=24,
        out_channels=8,
    ).eval()
    return quiet(
        PixArtAlphaPipeline(tokenizer, text_encoder, tiny_vae(), transformer, DDIMScheduler())
    )


def projected_clip(tokenizer, seed):
    torch.manual_seed(seed)
    config = tiny_text_encoder(tokenizer).config.to_dict() | {"projection_dim": TEXT_WIDTH}
    return CLIPTextModelWithProjection(CLIPTextConfig(**config)).eval()


def sd3():
    """Told 16 tokens of CLIP, then those of T5."""
    tokenizer = tiny_tokenizer()
    tokenizer_3, text_encoder_3 = t5()
    torch.manual_seed(1)
    transformer = SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=4,
        num_layers=3,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_projection_dim=32,
        joint_attention_dim=TEXT_WIDTH,
        pooled_projection_dim=2 * TEXT_WIDTH,
        out_channels=4,
        qk_norm="rms_norm",
    ).eval()
    return quiet(
        StableDiffusion3Pipeline(
            transformer=transformer,
            scheduler=FlowMatchEulerDiscreteScheduler(),
            vae=tiny_vae(shift_factor=0.06),
            text_encoder=projected_clip(tokenizer, 3),
            tokenizer=tokenizer,
            text_encoder_2=projected_clip(tokenizer, 4),
            tokenizer_2=tokenizer,
            text_encoder_3=text_encoder_3,
            tokenizer_3=tokenizer_3,
        )
    )


def flux():
    """Two blocks of two streams, two of a single one."""
    tokenizer = tiny_tokenizer()
    tokenizer_2, text_encoder_2 = t5()
    torch.manual_seed(1)
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=TEXT_WIDTH,
        pooled_projection_dim=TEXT_WIDTH,
        axes_dims_rope=(4, 4, 8),
    ).eval()
    return quiet(
        FluxPipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(),
            vae=tiny_vae(shift_factor=0.06),
            text_encoder=tiny_text_encoder(tokenizer),
            tokenizer=tokenizer,
            text_encoder_2=text_encoder_2,
            tokenizer_2=tokenizer_2,
            transformer=transformer,
        )
    )


EXTRA_TOKENS = 2


def unclip():
    """A decoder that is told of a picture in EXTRA_TOKENS places, and then the text."""
    parts = prior_components()
    of_pixels = {"sample_size": 16, "layers_per_block": 1, "block_out_channels": (16, 32)}
    of_pixels |= {"norm_num_groups": 4, "in_channels": 6, "out_channels": 3}
    super_res = UNet2DModel(
        **of_pixels,
        down_block_types=("ResnetDownsampleBlock2D",) * 2,
        up_block_types=("ResnetUpsampleBlock2D",) * 2,
    ).eval()
    decoder = tiny_unet(
        in_channels=3,
        out_channels=6,
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        cross_attention_dim=24,
        resnet_time_scale_shift="scale_shift",
        class_embed_type="identity",
    )
    torch.manual_seed(8)
    text_proj = UnCLIPTextProjModel(
        clip_extra_context_tokens=EXTRA_TOKENS,
        clip_embeddings_dim=TEXT_WIDTH,
        time_embed_dim=4 * 16,
        cross_attention_dim=24,
    ).eval()
    learned = UnCLIPScheduler(variance_type="learned_range", prediction_type="epsilon")
    return quiet(
        UnCLIPPipeline(
            prior=parts["prior"],
            decoder=decoder,
            text_encoder=parts["text_encoder"],
            tokenizer=parts["tokenizer"],
            text_proj=text_proj,
            super_res_first=super_res,
            super_res_last=super_res,
            prior_scheduler=parts["scheduler"],
            decoder_scheduler=learned,
            super_res_scheduler=UnCLIPScheduler(
                variance_type="fixed_small_log", prediction_type="epsilon"
            ),
        )
    )
