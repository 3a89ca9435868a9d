"""Text-to-image diffusion whose subject is conditioning.

>>> import t2i
>>> pipe = t2i.load("embedded")
>>> pipe("a red apple to the left of a cat").images[0].save("apple.png")

Importing this package reads no model and imports no torch: that waits until a name needs it.
"""

import importlib
from typing import TYPE_CHECKING

from t2i.errors import (
    ArgumentError,
    AttentionError,
    DataError,
    ModelError,
    OutputError,
    T2IError,
    TrainingError,
)

if TYPE_CHECKING:
    import pipelines.auto_pipelines  # noqa: F401 - diffusers' AutoPipelines know what is loaded
    from pipelines.image_to_image import ImageToImagePipeline
    from pipelines.inpaint import InpaintPipeline
    from pipelines.prompt_to_prompt.prompt_edit import PromptEditPipeline
    from pipelines.text_to_image import TextToImagePipeline
    from t2i.attention.attend import attend
    from t2i.text.prompt import Prompt

__all__ = [
    "ArgumentError",
    "AttentionError",
    "DataError",
    "ImageToImagePipeline",
    "InpaintPipeline",
    "ModelError",
    "OutputError",
    "Prompt",
    "PromptEditPipeline",
    "T2IError",
    "TextToImagePipeline",
    "TrainingError",
    "__version__",
    "attend",
    "load",
]

__version__ = "0.1.0"

MODULE_BY_NAME = {
    "ImageToImagePipeline": "pipelines.image_to_image",
    "InpaintPipeline": "pipelines.inpaint",
    "Prompt": "t2i.text.prompt",
    "PromptEditPipeline": "pipelines.prompt_to_prompt.prompt_edit",
    "TextToImagePipeline": "pipelines.text_to_image",
    "attend": "t2i.attention.attend",
}
"""Names that cost an import of their own, and the modules they wait in."""


def load(model: str = "embedded") -> "TextToImagePipeline":
    """Load a model by its name or place, checked before anything is read into memory.

    Calls take the steps and the guidance, and the pipeline the sampler, that the model's notes
    (t2i.json) say; what they leave open is as in diffusers.

    >>> import t2i
    >>> pipe = t2i.load("embedded")
    >>> picture = pipe("a blue car", num_inference_steps=20).images[0]

    Parameters
    ----------
    model : "embedded", the model that comes with t2i; a folder as diffusers saves it; a single
        .safetensors checkpoint; or an id of the hub, "owner/name"
    """
    import pipelines.auto_pipelines  # noqa: F401 - diffusers' AutoPipelines know what is loaded
    from pipelines.text_to_image import TextToImagePipeline
    from t2i.denoiser.sampling_defaults import parse_sampling_defaults
    from t2i.denoiser.schedulers import build_scheduler
    from t2i.library_messages import hiding_loading_bars

    with hiding_loading_bars():
        pipe = TextToImagePipeline.from_pretrained(model)
    sampler = parse_sampling_defaults(pipe.notes).sampler
    if sampler is not None and sampler != type(pipe.scheduler).__name__:
        pipe.scheduler = build_scheduler(sampler, pipe.scheduler.config)
    return pipe


def __getattr__(name: str) -> object:
    if name in MODULE_BY_NAME:
        if name.endswith("Pipeline"):
            importlib.import_module("pipelines.auto_pipelines")
        return getattr(importlib.import_module(MODULE_BY_NAME[name]), name)
    raise AttributeError(f"module 't2i' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
