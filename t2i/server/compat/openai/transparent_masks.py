"""Masks as OpenAI means them: transparent where the picture is drawn anew."""

from PIL import Image, ImageChops

from t2i.errors import DataError


def build_edit_mask(picture: Image.Image, mask: Image.Image | None) -> Image.Image | None:
    """Return the mask of an OpenAI image edit, made from the transparency of the mask or of the
    picture: white where the picture is drawn anew; None for all of it.

    picture : whose own transparency counts where there is no mask
    mask : of the picture's size, transparent where it is drawn anew
    Raises DataError for a mask of another size, or without transparency.
    """
    if mask is None:
        return _invert_alpha(picture)
    if mask.size != picture.size:
        raise DataError(
            f"Got a mask of {mask.width}x{mask.height} for a picture of "
            f"{picture.width}x{picture.height}: expected the same size."
        )
    white = _invert_alpha(mask)
    if white is None:
        raise DataError(
            "Got a mask without transparency: expected a PNG that is transparent where the picture "
            "is drawn anew."
        )
    return white


def _invert_alpha(picture: Image.Image) -> Image.Image | None:
    """Return L, white where a picture is transparent; None for one that is opaque."""
    if not picture.has_transparency_data:
        return None
    alpha = picture.convert("RGBA").getchannel("A")
    return None if alpha.getextrema()[0] == 255 else ImageChops.invert(alpha)
