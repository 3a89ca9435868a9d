"""Components of a pipeline under diffusers' names, and the model index of its folder."""

import json
from typing import Any

from transformers import PreTrainedModel

from t2i.denoiser.families import sdxl
from t2i.errors import ArgumentError

OPTIONAL_COMPONENTS = [
    "text_encoder_2",
    "tokenizer_2",
    "image_encoder",
    "feature_extractor",
    "safety_checker",
]
"""Components that a pipeline may lack; one of a Stable Diffusion lacks the first two."""


def collect_components(pipe: Any) -> dict[str, Any]:
    """Return the components of a pipeline by name, to build another pipeline that shares the
    weights.

    They are those of a StableDiffusionPipeline or of a StableDiffusionXLPipeline.
    """
    names = ["vae", "text_encoder", "tokenizer", "unet", "scheduler", *OPTIONAL_COMPONENTS]
    parts = {name: getattr(pipe, name) for name in names if name != "safety_checker"}
    if pipe.text_encoder_2 is None and is_clip_text_encoder_or_none(pipe.text_encoder):
        del parts["text_encoder_2"], parts["tokenizer_2"]
        parts["safety_checker"] = None
    return parts


def build_model_index_json(pipe: Any, own_index: str) -> str:
    """Return the JSON text of model_index.json: it names diffusers' pipeline of the same parts.

    own_index : the index with the pipeline's own class name
    """
    index = json.loads(own_index)
    absent = ("safety_checker", "feature_extractor", "image_encoder")
    if not is_clip_text_encoder_or_none(pipe.text_encoder):
        index["_class_name"] = "TextToImagePipeline"
    elif pipe.text_encoder_2 is None:
        index = {name: value for name, value in index.items() if not name.endswith("_2")}
        index |= {name: index.get(name) or [None, None] for name in absent}
        index |= {"_class_name": "StableDiffusionPipeline", "requires_safety_checker": False}
    else:
        index["_class_name"] = "StableDiffusionXLPipeline"
        if sdxl.takes_aesthetic_score(pipe.unet, pipe.text_encoder_2.config.projection_dim):
            index["_class_name"] = "StableDiffusionXLImg2ImgPipeline"
            index["requires_aesthetics_score"] = True
    return json.dumps(index, indent=2, sort_keys=True) + "\n"


def is_clip_text_encoder_or_none(text_encoder: PreTrainedModel | None) -> bool:
    """Return True for CLIP's text encoder, and for None.

    With every other one a StableDiffusionPipeline would let the denoiser attend to the padding, and
    not encode prompts as this project does.
    """
    return text_encoder is None or text_encoder.config.model_type == "clip_text_model"


def check_no_safety_checker(safety_checker: object) -> None:
    """Raise ArgumentError for a safety checker, which this project's pipelines never run."""
    if safety_checker is not None:
        raise ArgumentError(
            f"Got a {type(safety_checker).__name__} as safety_checker, and this pipeline runs "
            "none: nothing would be checked. To keep it use StableDiffusionPipeline of "
            "diffusers; to do without give safety_checker=None, as in "
            "from_pipe(pipe, safety_checker=None)."
        )
