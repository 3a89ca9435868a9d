"""Tensors that model files carry beside a model's own, and that no model reads.

Each is something known: of training, of a schedule, of an earlier version of a library. What is not
known here is never dropped: it might be what makes the model what it is.
"""

from diffusers.loaders.single_file_utils import SD_2_TEXT_ENCODER_KEYS_TO_IGNORE

POSITIONS = "embeddings.position_ids"
"""Ends what was once saved with text encoders, and is now computed."""
TEXT_EXTRAS = {"text_projection.weight", "text_projection", "logit_scale", "attn_mask"}
"""Of the CLIP that a text encoder was taken from; a class with a projection has that as its own."""
LOOKING = ("visual.", "visual_projection.", "vision_model.")
"""The half of that CLIP that reads pictures."""

WITHIN = ("first_stage_model.loss.", "first_stage_model.model_ema.")
"""In the place of an autoencoder: what it was trained with, and its averaged weights."""
BESIDE = ("model_ema.", "optimizer", "lr_schedulers", "callbacks", "loops", "loss.", "loss_fn.")
"""Averaged weights, which the original code draws with when asked to, and what training keeps."""
SCHEDULE = {
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
MARKS = {"epoch", "global_step", "pytorch-lightning_version", "scale_factor", "v_pred", "ztsnr"}


def is_text_extra(name: str) -> bool:
    """Of a text encoder, by the name under its own prefix."""
    bare = name.removeprefix("text_model.")
    return name.endswith(POSITIONS) or bare in TEXT_EXTRAS or bare.startswith(LOOKING)


def is_leftover(name: str) -> bool:
    """Of a checkpoint in the original layout, by its whole name; see `is_text_extra` too."""
    return (
        name in SCHEDULE
        or name in MARKS
        or name in SD_2_TEXT_ENCODER_KEYS_TO_IGNORE  # a last layer that nobody listens to
        or name.removeprefix("cond_stage_model.") in TEXT_EXTRAS
        or name.startswith(WITHIN)
        or name.startswith(BESIDE)
    )
