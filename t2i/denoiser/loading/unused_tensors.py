"""Known tensors in model files that no model reads, such as buffers of training and schedules.

Unknown tensors are never dropped.
"""

from diffusers.loaders.single_file_utils import SD_2_TEXT_ENCODER_KEYS_TO_IGNORE

POSITION_IDS = "embeddings.position_ids"
"""Ending of a buffer that old text encoders saved and that is computed now."""
TEXT_EXTRAS = {"text_projection.weight", "text_projection", "logit_scale", "attn_mask"}
"""Tensors of the CLIP a text encoder was part of; a class with a projection uses its own."""
VISION_PREFIXES = ("visual.", "visual_projection.", "vision_model.")
"""The half of that CLIP that reads pictures."""

AUTOENCODER_EXTRAS = ("first_stage_model.loss.", "first_stage_model.model_ema.")
"""Prefixes of an autoencoder's training loss and EMA weights."""
TRAINING_PREFIXES = (
    "model_ema.",
    "optimizer",
    "lr_schedulers",
    "callbacks",
    "loops",
    "loss.",
    "loss_fn.",
)
"""Averaged weights, which the original code draws with when asked to, and what training keeps."""
SCHEDULE_BUFFERS = {
    "alphas_cumprod",
    "alphas_cumprod_prev",
    "betas",
    "denoiser.log_sigmas",
    "denoiser.sigmas",
    "log_one_minus_alphas_cumprod",
    "logvar",
    "lvlb_weights",
    "posterior_log_variance_clipped",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
    "posterior_variance",
    "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod",
    "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod",
}
"""Buffers of the original code that follow from its noise schedule."""
MARKER_TENSORS = {
    "epoch",
    "global_step",
    "pytorch-lightning_version",
    "scale_factor",
    "v_pred",
    "ztsnr",
}


def is_unused_text_tensor(name: str) -> bool:
    """Return True for a tensor in text encoders' weight files that no model reads, given its name
    without the part's prefix.
    """
    bare = name.removeprefix("text_model.")
    return name.endswith(POSITION_IDS) or bare in TEXT_EXTRAS or bare.startswith(VISION_PREFIXES)


def is_unused_tensor(name: str) -> bool:
    """Return True for a tensor in checkpoints that no model reads, such as an optimizer's state,
    given its full name.
    """
    return (
        name in SCHEDULE_BUFFERS
        or name in MARKER_TENSORS
        or name in SD_2_TEXT_ENCODER_KEYS_TO_IGNORE  # a last layer that nobody listens to
        or name.removeprefix("cond_stage_model.") in TEXT_EXTRAS
        or name.startswith(AUTOENCODER_EXTRAS)
        or name.startswith(TRAINING_PREFIXES)
    )
