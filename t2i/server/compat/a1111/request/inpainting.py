"""Inpainting as A1111 does it: the part of the picture that is drawn, and pasting it back."""

from dataclasses import dataclass

from PIL import Image, ImageFilter, ImageOps

from t2i.cli.request.request import check_pixel_count
from t2i.errors import ArgumentError
from t2i.server.compat.a1111.request.bodies import Img2ImgBody
from t2i.server.compat.a1111.request.mask_filling import fill_mask_from_surroundings
from t2i.server.compat.a1111.request.neutral_values import build_unsupported_field_error

Box = tuple[int, int, int, int]
"""Left, top, right and bottom in pixels."""
MASK_THRESHOLD = 128
DEFAULT_BLUR_PIXELS = 4
FILL_COLOURS, FILL_ORIGINAL = 0, 1
RESIZE_STRETCH, RESIZE_CROP = 0, 1


@dataclass(frozen=True)
class InpaintingPlan:
    """Inpainting as A1111 does it: the part of a picture that a job draws, and how it is pasted
    back.

    original : RGB, the whole picture
    painted : L, of the original's size: white where it is drawn anew
    weights : L, of the original's size: how much of the drawn picture shows
    box : part of the original that is drawn; None for all of it, pasted at the size of the drawn
        picture
    size : width and height at which it is drawn
    fills : whether the part starts from the colours around it
    """

    original: Image.Image
    painted: Image.Image
    weights: Image.Image
    box: Box | None
    size: tuple[int, int]
    fills: bool

    def build_inputs(self) -> tuple[Image.Image, Image.Image]:
        """Return the image and the mask that an inpainting job is given: the part to draw, cropped
        from the original and resized to the size at which it is drawn.
        """
        picture, painted = (
            resize_picture(part if self.box is None else part.crop(self.box), self.size)
            for part in (self.original, self.painted)
        )
        if self.fills:
            picture = fill_mask_from_surroundings(picture, painted)
        return picture, _binarize(painted)

    def paste(self, drawn: Image.Image) -> Image.Image:
        """Return the original image of an inpainting with the drawn image pasted into its masked
        part.
        """
        if self.box is None:
            original = resize_picture(self.original, drawn.size)
            return Image.composite(drawn, original, resize_picture(self.weights, drawn.size))
        left, top, right, bottom = self.box
        over = self.original.copy()
        over.paste(resize_picture(drawn, (right - left, bottom - top)), (left, top))
        return Image.composite(over, self.original, self.weights)


def plan_inpainting(picture: Image.Image, mask: Image.Image, body: Img2ImgBody) -> InpaintingPlan:
    """Plan an inpainting from the fields of a body: which part of the picture a job draws, at which
    size, and the mask.

    picture : RGB
    Raises ArgumentError for a mask without white, and for settings that are not done here.
    """
    if body.inpainting_fill not in (None, FILL_COLOURS, FILL_ORIGINAL):
        raise build_unsupported_field_error(
            "inpainting_fill",
            body.inpainting_fill,
            "the masked part starts from the colours around it (0) or from the picture (1)",
        )
    painted = resize_picture(_binarize(mask), picture.size)
    if body.inpainting_mask_invert:
        painted = ImageOps.invert(painted)
    if painted.getbbox() is None:
        raise ArgumentError(
            "Got a mask without white: nothing of the picture would be drawn. Paint white where "
            "it should change, or send inpainting_mask_invert=1."
        )
    weights = painted.filter(ImageFilter.GaussianBlur(_choose_blur(body)))
    size = choose_size(picture.size, body)
    box = None
    if body.inpaint_full_res or body.inpaint_full_res is None:
        box = find_mask_box(weights, body.inpaint_full_res_padding or 0, size)
    else:
        picture = crop_to_aspect_if_asked(picture, body)
        painted, weights = (
            crop_to_aspect_if_asked(painted, body),
            crop_to_aspect_if_asked(weights, body),
        )
    fills = body.inpainting_fill in (None, FILL_COLOURS)
    return InpaintingPlan(picture, painted, weights, box, size, fills)


def choose_size(own: tuple[int, int], body: Img2ImgBody) -> tuple[int, int]:
    """Return the width and height at which an A1111 img2img body asks to draw: the body's own, and
    those of its picture where it has none.

    Raises ArgumentError for a size that no picture has.
    """
    width = own[0] if body.width is None else body.width
    height = own[1] if body.height is None else body.height
    for name, side in (("width", width), ("height", height)):
        if side < 1:
            raise ArgumentError(f"Got {name}={side}: expected pixels, from 1 on.")
    check_pixel_count(width, height)
    return width, height


def crop_to_aspect_if_asked(picture: Image.Image, body: Img2ImgBody) -> Image.Image:
    """Return the picture of an A1111 img2img body cropped in the middle to the requested aspect
    ratio if resize_mode asks for that, else as it is.

    Raises ArgumentError for a resize_mode that is not done here.
    """
    if body.resize_mode in (None, RESIZE_STRETCH):
        return picture
    if body.resize_mode != RESIZE_CROP:
        raise build_unsupported_field_error(
            "resize_mode", body.resize_mode, "the picture is stretched (0) or cropped (1)"
        )
    width, height = choose_size(picture.size, body)
    scale = min(picture.width / width, picture.height / height)
    crop_width, crop_height = max(round(width * scale), 1), max(round(height * scale), 1)
    left, top = (picture.width - crop_width) // 2, (picture.height - crop_height) // 2
    return picture.crop((left, top, left + crop_width, top + crop_height))


def find_mask_box(weights: Image.Image, padding: int, size: tuple[int, int]) -> Box:
    """Return the box of a picture's part around the nonzero mask weights, in the aspect ratio of
    `size`.

    padding : pixels around it
    size : width and height at which the part is drawn; where the picture's border leaves no room
        the box keeps another shape, and is stretched
    """
    if padding < 0:
        raise ArgumentError(
            f"Got inpaint_full_res_padding={padding}: expected a whole number from 0 on."
        )
    found = weights.getbbox()
    assert found is not None  # the mask has white
    left, top, right, bottom = found
    left, top = max(left - padding, 0), max(top - padding, 0)
    right, bottom = min(right + padding, weights.width), min(bottom + padding, weights.height)
    ratio = size[0] / size[1]
    if (right - left) / (bottom - top) < ratio:
        left, right = _widen(left, right, round((bottom - top) * ratio), weights.width)
    else:
        top, bottom = _widen(top, bottom, round((right - left) / ratio), weights.height)
    return left, top, right, bottom


def _widen(start: int, end: int, length: int, limit: int) -> tuple[int, int]:
    """Return an interval of that length around another one, moved into 0..limit, or all of that."""
    length = min(max(length, end - start), limit)
    start = min(max((start + end - length) // 2, 0), limit - length)
    return start, start + length


def _choose_blur(body: Img2ImgBody) -> tuple[float, float]:
    """Return the standard deviations of the mask's blur, in pixels, along x and y."""
    usual = DEFAULT_BLUR_PIXELS if body.mask_blur is None else body.mask_blur
    blur_x = usual if body.mask_blur_x is None else body.mask_blur_x
    blur_y = usual if body.mask_blur_y is None else body.mask_blur_y
    for name, value in (("mask_blur_x", blur_x), ("mask_blur_y", blur_y)):
        if not 0 <= value <= 1000:
            raise ArgumentError(f"Got {name}={value}: expected pixels, from 0 to 1000.")
    return blur_x, blur_y


def _binarize(mask: Image.Image) -> Image.Image:
    """Return a mask in black and white: by its transparency if it has some, else its brightness."""
    if mask.mode == "RGBA" and mask.getchannel("A").getextrema() != (255, 255):
        mask = mask.getchannel("A")
    return mask.convert("L").point(lambda value: 255 if value >= MASK_THRESHOLD else 0)


def resize_picture(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Return a picture resized to `size` by Lanczos resampling; itself if it has that size
    already.
    """
    same = picture.size == size
    return picture if same else picture.resize(size, Image.Resampling.LANCZOS)
