"""A drawn picture made larger, and what it lacks at that size drawn: `upscale`.

A model that is asked for more pixels than it was trained at draws things side by side. Drawn at its
own size, enlarged, and drawn anew a little, they stay what they are ("hires fix").
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from t2i.errors import ArgumentError

if TYPE_CHECKING:
    from PIL.Image import Image

    from pipelines.base.pipeline import Output, Pipeline

STRENGTH = 0.15
"""How much is drawn anew: of the embedded model's ten steps the last. Its last two already draw
small things twice, from .3 on a face gets a second mouth."""
MOST = 4.0
"""Of the factor; beyond it a model sees a part of a thing as all there is."""


def upscale(
    pipe: "Pipeline",
    image: "Image | Sequence[Image]",
    prompt: Any,
    *,
    factor: float = 2.0,
    strength: float = STRENGTH,
    **call: Any,
) -> "Output":
    """Enlarge what any pipeline has drawn by `factor`, then change it by `strength` towards what
    its prompt says: image to image, with the parts of `pipe` and all that is attached to them.

    >>> drawn = pipe("a red apple", generator=torch.Generator().manual_seed(7))
    >>> upscale(pipe, drawn.images, "a red apple", num_inference_steps=10).images[0].size
    (256, 256)

    Parameters
    ----------
    image : one picture, or one for each prompt; sides end as multiples of what a latent covers
    call : further arguments of ImageToImagePipeline, of which the size is given by the picture
    """
    # Here: the command line reads STRENGTH and MOST without torch.
    from PIL import Image

    from pipelines.image_to_image import ImageToImagePipeline
    from t2i.denoiser.families import sd
    from t2i.library_messages import diffusers_errors_only

    check_factor("factor", factor)
    pictures: list[Any] = list(image) if isinstance(image, list | tuple) else [image]
    if not pictures or not all(isinstance(one, Image.Image) for one in pictures):
        raise ArgumentError(
            f"Got image={image!r:.80}, expected a Pillow picture, or a list of them, such as the "
            "images that a pipeline gives."
        )
    step = sd.pixels_per_latent(pipe.vae)
    large = [
        one.resize(
            (larger(one.width, factor, step), larger(one.height, factor, step)),
            Image.Resampling.LANCZOS,
        )
        for one in pictures
    ]
    drawer: Any = pipe
    if not isinstance(pipe, ImageToImagePipeline):
        with diffusers_errors_only():  # it gives advice on a precision that stays what it is
            drawer = ImageToImagePipeline.from_pipe(pipe)  # type: ignore[no-untyped-call]  # diffusers'
    output: Output = drawer(prompt=prompt, image=large, strength=strength, **call)
    return output


def larger(side: int, factor: float, step: int) -> int:
    return max(int(side * factor) // step, 1) * step


def check_factor(name: str, factor: float) -> None:
    if isinstance(factor, bool) or not isinstance(factor, int | float) or not 1 < factor <= MOST:
        raise ArgumentError(
            f"Got {name} {factor}: expected a number above 1, up to {MOST:g}, such as 2."
        )
