"""Output of a pipeline call: the images, with a grid of them that notebooks display."""

import io
import math
from dataclasses import dataclass

from diffusers.pipelines.stable_diffusion.pipeline_output import StableDiffusionPipelineOutput
from PIL import Image

from t2i.errors import ArgumentError


@dataclass
class PipelineOutput(StableDiffusionPipelineOutput):
    """Output of a pipeline call: diffusers' own, with the images as a grid.

    >>> output = pipe("a red apple", num_images_per_prompt=4)
    >>> output.grid(columns=2).save("apples.png")
    """

    def grid(self, columns: int | None = None) -> Image.Image:
        """Return the images as one grid image with `columns` columns; as square as possible for
        None.

        Raises ArgumentError where the images are tensors or arrays.
        """
        pictures = self.images
        if not isinstance(pictures, list) or not isinstance(pictures[0], Image.Image):
            raise ArgumentError(
                f"A grid is of Pillow pictures, these are a {type(pictures).__name__}: call the "
                "pipeline with output_type='pil'."
            )
        if columns is None:
            columns = math.ceil(math.sqrt(len(pictures)))
        if not isinstance(columns, int) or columns < 1:
            raise ArgumentError(f"Got columns={columns!r}, expected a whole number from 1 on.")
        columns = min(columns, len(pictures))
        width, height = pictures[0].size
        rows = math.ceil(len(pictures) / columns)
        grid = Image.new("RGB", (columns * width, rows * height), "white")
        for index, picture in enumerate(pictures):
            grid.paste(picture, (index % columns * width, index // columns * height))
        return grid

    def _repr_png_(self) -> bytes | None:
        """What Jupyter shows; None, and so the plain text, where there are no pictures."""
        try:
            grid = self.grid()
        except ArgumentError:
            return None
        stream = io.BytesIO()
        grid.save(stream, "PNG")
        return stream.getvalue()
