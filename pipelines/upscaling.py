"""Enlarging of generated images, with the missing detail redrawn: `upscale` ("hires fix").

A model asked for more pixels than it was trained at repeats objects. Drawn at the model's own size,
enlarged and then redrawn a little, an image keeps its objects.
"""

from typing import TYPE_CHECKING, Any

from t2i.errors import ArgumentError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL.Image import Image

    from pipelines.base.pipeline import OutputOrTuple, Pipeline

DEFAULT_UPSCALE_STRENGTH = 0.15
"""How much is drawn anew: of the embedded model's ten steps the last. Its last two already draw
small things twice, from .3 on a face gets a second mouth."""
MAX_UPSCALE_FACTOR = 4.0
"""Largest factor; beyond it a model redraws a part of an object as a whole one."""


def upscale(
    pipe: "Pipeline",
    image: "Image | Sequence[Image]",
    prompt: Any,
    *,
    factor: float = 2.0,
    strength: float = DEFAULT_UPSCALE_STRENGTH,
    **call: Any,
) -> "OutputOrTuple":
    """Return generated images enlarged by `factor` and denoised again with their prompt by
    `strength` (hires fix).

    This is image to image with the parts of `pipe` and everything attached to them.

    >>> drawn = pipe("a red apple", generator=torch.Generator().manual_seed(7))
    >>> upscale(pipe, drawn.images, "a red apple", num_inference_steps=10).images[0].size
    (256, 256)

    Parameters
    ----------
    image : one image, or one for each prompt; sides become multiples of the autoencoder's factor
    call : further arguments of ImageToImagePipeline; the size is that of the enlarged image
    """
    # Imported here, so that the command line reads STRENGTH and MOST without torch.
    from PIL import Image

    from pipelines.image_to_image import ImageToImagePipeline
    from t2i.denoiser.families import sd
    from t2i.library_messages import muting_diffusers_warnings

    check_upscale_factor("factor", factor)
    pictures: list[Any] = list(image) if isinstance(image, list | tuple) else [image]
    if not pictures or not all(isinstance(one, Image.Image) for one in pictures):
        raise ArgumentError(
            f"Got image={image!r:.80}, expected a Pillow image, or a list of them, such as the "
            "images of a pipeline's output."
        )
    step = sd.pixels_per_latent(pipe.vae)
    large = [
        one.resize(
            (
                compute_scaled_side(one.width, factor, step),
                compute_scaled_side(one.height, factor, step),
            ),
            Image.Resampling.LANCZOS,
        )
        for one in pictures
    ]
    drawer: Any = pipe
    if not isinstance(pipe, ImageToImagePipeline):
        with muting_diffusers_warnings():  # it warns of a dtype that does not change
            drawer = ImageToImagePipeline.from_pipe(pipe)  # type: ignore[no-untyped-call]  # diffusers'
    output: OutputOrTuple = drawer(prompt=prompt, image=large, strength=strength, **call)
    return output


def compute_scaled_side(side: int, factor: float, step: int) -> int:
    """Return a side of the upscaled image in pixels, rounded down to a multiple of `step`."""
    return max(int(side * factor) // step, 1) * step


def check_upscale_factor(name: str, factor: float) -> None:
    """Raise ArgumentError unless the upscaling factor is a number above 1 and at most 4."""
    if (
        isinstance(factor, bool)
        or not isinstance(factor, int | float)
        or not 1 < factor <= MAX_UPSCALE_FACTOR
    ):
        raise ArgumentError(
            f"Got {name} {factor}: expected a number above 1, up to {MAX_UPSCALE_FACTOR:g}, "
            "such as 2."
        )
