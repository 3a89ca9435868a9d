"""Values of a starter config, by the family of its base model and by its method."""

from pathlib import Path
from typing import Literal

from t2i.denoiser.loading.model_location import EMBEDDED_MODELS
from t2i.safe_reading import MODEL_CONFIG_KIND, read_json

ModelFamily = Literal["embedded", "sd", "sdxl"]
TemplateValue = int | float | bool | str | list[str]

MODEL_FAMILIES: tuple[ModelFamily, ...] = ("embedded", "sd", "sdxl")
FAMILY_NAMES: dict[ModelFamily, str] = {
    "embedded": "the embedded model",
    "sd": "Stable Diffusion 1.5",
    "sdxl": "XL",
}
TEMPLATE_PIECES_BY_METHOD: dict[str, tuple[str, ...]] = {
    "full": ("part full", "data", "run"),
    "cross-attention": ("part cross-attention", "data", "run"),
    "lora": ("part lora", "part lora text", "data", "run"),
    "dora": ("part lora", "part lora text", "data", "run"),
    "dreambooth": ("part full", "data", "prior", "run"),
    "dreambooth-lora": ("part lora", "part lora text", "data", "prior", "run"),
    "textual-inversion": ("part words", "data", "run"),
    "pivotal": ("part words", "part lora", "data", "run"),
    "controlnet": ("data", "run control"),
    "t2i-adapter": ("data", "run control"),
}
"""Names of the pieces of each method's file, after its introduction and the target."""
CONTROL_METHODS = ("controlnet", "t2i-adapter")
"""Methods that train a control, which reads hints and learns no subject."""

ATTENTION_MODULES = ["to_q", "to_k", "to_v", "to_out.0"]
ATTENTION_AND_CONVOLUTION_MODULES = [
    *ATTENTION_MODULES,
    "proj_in",
    "proj_out",
    "ff.net.*",
    "conv1",
    "conv2",
    "conv_shortcut",
]

# Each for the embedded model, Stable Diffusion 1 and 2, and XL.
VALUES_OF_ALL_METHODS: dict[str, tuple[TemplateValue, TemplateValue, TemplateValue]] = {
    "base": (
        "embedded",
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
        "stabilityai/stable-diffusion-xl-base-1.0",
    ),
    "checkpointing": (False, False, True),
    "size": (128, 512, 1024),
    "batch_size": (4, 2, 1),
    "precision": ("no", "bf16", "bf16"),
    "checkpoint_every": (100, 500, 500),
    "warmup": (10, 100, 100),
    "ema_decay": (0.95, 0.99, 0.99),
    "sheet_every": (100, 250, 250),
    "sample_steps": (20, 30, 30),
    "guidance": (3.0, 7.0, 6.0),
    "full_rate": (2e-4, 1e-5, 4e-6),
    "text_full_rate": (1e-4, 1e-6, 1e-6),
    "cross_rate": (1e-3, 2e-5, 1e-5),
    "modules": (ATTENTION_AND_CONVOLUTION_MODULES, ATTENTION_MODULES, ATTENTION_MODULES),
    "rank": (16, 16, 16),
    "lora_rate": (2e-3, 1e-4, 1e-4),
    "text_rank": (8, 8, 8),
    "text_rate": (1e-3, 5e-5, 5e-5),
    "vectors": (8, 2, 2),
    "word_rate": (2e-2, 5e-3, 5e-3),
    "control_rate": (3e-4, 1e-5, 1e-5),
    "prior_count": (24, 100, 100),
    "prior_steps": (10, 30, 30),
    "prior_batch": (8, 4, 1),
}
VALUES_BY_METHOD: dict[str, dict[str, tuple[TemplateValue, TemplateValue, TemplateValue]]] = {
    "full": {"batch_size": (4, 4, 4), "checkpointing": (False, True, True)},
    "cross-attention": {"batch_size": (4, 4, 2)},
    "dora": {"rank": (8, 8, 8)},
    "controlnet": {"batch_size": (16, 4, 2), "checkpointing": (False, True, True)},
    "t2i-adapter": {"batch_size": (16, 4, 2), "control_rate": (1e-3, 1e-4, 1e-4)},
    "dreambooth": {"full_rate": (2e-4, 5e-6, 2e-6), "checkpointing": (False, True, True)},
}
EMBEDDED_MODEL_STEPS = 200
"""Optimizer steps for the embedded model: a minute or two on two cores."""
MAX_EMBEDDED_MODEL_CHANNELS = 192
"""UNets with fewer first channels are like the embedded model; others have 320."""
VISITS, FEWEST, MOST = 100, 400, 4000
"""Visits of each picture, and bounds of optimizer steps, for larger models."""
CONTROL_STEPS: dict[ModelFamily, int] = {"embedded": 2000, "sd": 15_000, "sdxl": 15_000}
"""Optimizer steps of a control, which learns to read any hint, however few pictures there are."""


def choose_method_dependent_values(method: str, family: ModelFamily) -> dict[str, TemplateValue]:
    """Return the values of a starter config that depend on training method and model family
    alone.
    """
    place = MODEL_FAMILIES.index(family)
    return {
        key: row[place]
        for key, row in (VALUES_OF_ALL_METHODS | VALUES_BY_METHOD.get(method, {})).items()
    }


def choose_num_steps(
    family: ModelFamily, pictures: int, batch_size: int, method: str = "lora"
) -> int:
    """Choose the number of optimizer steps for a number of pictures; at least one epoch."""
    epoch = -(-pictures // batch_size)
    if method in CONTROL_METHODS:
        return max(epoch, CONTROL_STEPS[family])
    if family == "embedded":
        return max(epoch, EMBEDDED_MODEL_STEPS)
    wanted = min(max(pictures * VISITS // batch_size, FEWEST), max(MOST, epoch))
    return -(-wanted // 50) * 50


def detect_model_family(base: str) -> ModelFamily:
    """Return the family of a base model, from its config if it is a folder, else by name."""
    if base in EMBEDDED_MODELS:
        return "embedded"
    config = Path(base) / "unet" / "config.json"
    if config.is_file():
        unet = read_json(config, MODEL_CONFIG_KIND, lenient=True)
        if unet.get("addition_embed_type") == "text_time":
            return "sdxl"
        return (
            "embedded"
            if unet.get("block_out_channels", [MAX_EMBEDDED_MODEL_CHANNELS])[0]
            < MAX_EMBEDDED_MODEL_CHANNELS
            else "sd"
        )
    return "sdxl" if "xl" in Path(base).name.lower() else "sd"


def detect_image_size(base: str, family: ModelFamily) -> int:
    """Return the side in pixels of the images that a base model generates."""
    folder = Path(base)
    configs = folder / "unet" / "config.json", folder / "vae" / "config.json"
    if base not in EMBEDDED_MODELS and all(path.is_file() for path in configs):
        unet, vae = (read_json(path, MODEL_CONFIG_KIND, lenient=True) for path in configs)
        blocks = vae.get("block_out_channels") or vae.get("encoder_block_out_channels") or ()
        if isinstance(side := unet.get("sample_size"), int) and len(blocks) > 1:
            return int(side * 2 ** (len(blocks) - 1))
    return int(str(VALUES_OF_ALL_METHODS["size"][MODEL_FAMILIES.index(family)]))
