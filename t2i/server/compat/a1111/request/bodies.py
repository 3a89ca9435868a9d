"""Bodies of A1111's POST routes. Clients send all fields with A1111's defaults, and null for many.

Fields that t2i cannot honour are listed in `neutral_values`: they are accepted at the value that
changes nothing.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

Number = float | None
Flag = bool | None
Text = str | None


class GenerationBody(BaseModel):
    """Fields that the request bodies of A1111's txt2img and img2img share. None leaves a value to
    the model.
    """

    model_config = ConfigDict(extra="allow", protected_namespaces=(), allow_inf_nan=False)

    prompt: Text = Field(default="", description="Prompt in A1111's grammar, with <lora:NAME:0.8>.")
    negative_prompt: Text = ""
    seed: int | None = Field(default=-1, description="Seed of the first picture; -1 draws one.")
    sampler_name: Text = Field(default=None, description="A name that /sdapi/v1/samplers lists.")
    sampler_index: Text = Field(default=None, description="Older name of sampler_name.")
    scheduler: Text = Field(default=None, description="A name that /sdapi/v1/schedulers lists.")
    steps: int | None = None
    cfg_scale: Number = None
    width: int | None = None
    height: int | None = None
    batch_size: int | None = 1
    n_iter: int | None = Field(default=1, description="Number of batches.")
    denoising_strength: Number = None
    override_settings: dict[str, Any] | None = Field(
        default=None, description="Options of /sdapi/v1/options, for this request."
    )
    override_settings_restore_afterwards: Flag = True
    force_task_id: str | None = Field(
        default=None, max_length=200, description="Your name for the job, for /internal/progress."
    )
    send_images: Flag = True

    # Accepted at their neutral values.
    styles: list[str] | None = None
    subseed: int | None = -1
    subseed_strength: Number = 0
    seed_resize_from_h: int | None = -1
    seed_resize_from_w: int | None = -1
    restore_faces: Flag = None
    tiling: Flag = None
    do_not_save_samples: Flag = False
    do_not_save_grid: Flag = False
    save_images: Flag = False
    eta: Number = None
    s_churn: Number = None
    s_tmax: Number = None
    s_tmin: Number = None
    s_noise: Number = None
    s_min_uncond: Number = None
    refiner_checkpoint: Text = None
    refiner_switch_at: Number = None
    disable_extra_networks: Flag = False
    firstpass_image: Text = None
    comments: dict[str, Any] | None = None
    infotext: Text = None
    script_name: Text = None
    script_args: list[Any] | None = None
    alwayson_scripts: dict[str, Any] | None = None


class Txt2ImgBody(GenerationBody):
    """Body of POST /sdapi/v1/txt2img."""

    enable_hr: Flag = Field(default=False, description="Enlarge the picture and draw it anew.")
    hr_scale: Number = 2
    hr_upscaler: Text = Field(default=None, description="Lanczos is the only one.")
    hr_second_pass_steps: int | None = 0
    hr_resize_x: int | None = 0
    hr_resize_y: int | None = 0
    hr_checkpoint_name: Text = None
    hr_sampler_name: Text = None
    hr_scheduler: Text = None
    hr_prompt: Text = ""
    hr_negative_prompt: Text = ""
    firstphase_width: int | None = 0
    firstphase_height: int | None = 0


class Img2ImgBody(GenerationBody):
    """Body of POST /sdapi/v1/img2img. Pictures are base64, with or without "data:image/png;..."."""

    init_images: list[str] | None = Field(default=None, description="One picture to change.")
    mask: Text = Field(default=None, description="White where the picture is drawn anew.")
    resize_mode: int | None = Field(default=0, description="0 stretches, 1 crops.")
    mask_blur: Number = None
    mask_blur_x: Number = None
    mask_blur_y: Number = None
    inpainting_fill: int | None = Field(
        default=0, description="The masked part starts from: 0 colours around it, 1 the picture."
    )
    inpaint_full_res: Flag = Field(
        default=True, description="Draw the part around the mask alone, at the full size."
    )
    inpaint_full_res_padding: int | None = 0
    inpainting_mask_invert: int | None = 0
    include_init_images: Flag = False

    # Accepted at their neutral values.
    image_cfg_scale: Number = None
    initial_noise_multiplier: Number = None
    latent_mask: Text = None
    mask_round: Flag = True


class PictureBody(BaseModel):
    """Body of POST /sdapi/v1/png-info: a picture as base64."""

    image: str
