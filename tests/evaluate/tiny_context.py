"""A context of tiny parts: a real pipeline and a recogniser that know nothing, in milliseconds."""

from pathlib import Path

import torch
from PIL import Image

from pipelines.text_to_image import TextToImagePipeline
from t2i.evaluate.suite_part import EvaluationContext
from t2i.scenes.recogniser import Recogniser, build_recogniser_labels
from t2i.scenes.sprites import BACKGROUND_COLOURS, PAINT_COLOURS
from tests.tiny import tiny_sd_components

OBJECTS = ("apple", "cat", "dog", "star", "car", "tree")


def tiny_recogniser() -> Recogniser:
    torch.manual_seed(3)
    return Recogniser(
        build_recogniser_labels(OBJECTS, list(BACKGROUND_COLOURS), list(PAINT_COLOURS)), 32, (8, 16)
    ).eval()


def tiny_context(folder: Path) -> EvaluationContext:
    """Pictures are kept in the folder; the text is long enough for every caption."""
    pipe = TextToImagePipeline(**tiny_sd_components(window=120))
    pipe.set_progress_bar_config(disable=True)

    def save_picture(name: str, picture: Image.Image) -> str:
        path = folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)
        return path.name

    return EvaluationContext(
        pipe=pipe,
        recogniser=tiny_recogniser(),
        objects=OBJECTS,
        max_objects=2,
        steps=2,
        guidance_scale=3.0,
        save_picture=save_picture,
    )
