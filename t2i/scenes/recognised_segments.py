"""Layout of a picture of known objects: the hint of segments, made by the recogniser.

H W size of the picture.
"""

from collections.abc import Collection

from PIL import Image

from t2i.scenes.hints import Pixels, draw_segments
from t2i.scenes.recogniser import Recogniser


def segment_recognised_objects(
    recogniser: Recogniser, pixels_HWC: Pixels, names: Collection[str] | None = None
) -> Pixels:
    """Return the hint of segments (H, W, 3) of a picture: each object that the recogniser finds in
    it as an area of its colour, see `get_segment_colour`, on black. In photos it finds nothing of
    use.

    names : of the objects that may be found; None for all that the recogniser knows
    """
    (found,) = recogniser.recognise([Image.fromarray(pixels_HWC)], names)
    masks = {name: one.mask for name, one in found.objects.items()}
    return draw_segments(pixels_HWC, [*masks], [*masks.values()])
