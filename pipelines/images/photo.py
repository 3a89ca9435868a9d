"""Photos: the user's own pictures at a model's size, and edits of them at their own size.

Y X image size.
"""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pipelines.images.blend_weights import (
    compute_changed_area_weights,
    compute_inward_feather_weights,
    compute_side_fade_weights,
)
from pipelines.images.colour_profiles import convert_from_srgb, convert_to_srgb
from pipelines.images.photo_fitting import Box, Fitting, compute_photo_fitting, get_box_size
from pipelines.images.photo_mask import read_mask_at_photo_size
from pipelines.images.photo_reading import read_upright_picture
from t2i.errors import ArgumentError

PIXELS_PER_STRIP = 1 << 20
"""Pixels that are blended at once, to bound memory."""


@dataclass(frozen=True, slots=True, eq=False)
class Photo:
    """User's photo at its own size, with the part of it that the model sees, fitted to the model's
    size.

    picture : upright at its own size, RGB, or RGBA where it may be transparent
    pixels : (1, 3, Y, X) in -1..1, at the model's size, in sRGB over white
    fitting : how `pixels` show the photo
    mask : at the photo's own size, of mode L, 255 where an edit may change it; None for everywhere
    exif : Exif block, for the upright picture; b"" for none
    icc_profile : of `picture`; b"" for sRGB
    reproduction : (1, 3, Y, X) in -1..1, what the model makes of `pixels`, so that what differs
        from it was edited; None if it is not known
    """

    picture: Image.Image
    pixels: Tensor
    fitting: Fitting
    mask: Image.Image | None = None
    exif: bytes = b""
    icc_profile: bytes = b""
    reproduction: Tensor | None = None

    @property
    def shown_box(self) -> Box:
        """Box of the part of a photo that the model sees, in the photo's own pixels."""
        return self.fitting.box

    @property
    def image(self) -> Image.Image:
        """Pillow image, at the model's size, of the part of a photo that the model sees."""
        return pixel_tensor_to_pil_image(self.pixels)

    @property
    def mask_pixels(self) -> Tensor | None:
        """Mask (1, 1, Y, X) at the model's size, 1 where an edit may change it; None for all."""
        return None if self.mask is None else self.fitting.fit_mask(self.mask)

    def remove_padding(self, image: Image.Image) -> Image.Image:
        """Return an image of the model's size without the padding that was added when the photo was
        fitted to it.
        """
        self.check_size(image)
        return image.crop(self.fitting.frame)

    def paste_edit(self, image: Image.Image, changed: Tensor | None = None) -> Image.Image:
        """Return the photo at its own size with an edit pasted in: only what the edited image, of
        the model's size, changes.

        Only what changed is enlarged and blended in; every other pixel, and all outside of the
        mask, is the photo's own. What is blended in is opaque, in the photo's own colours, with a
        soft edge at the sides at which the photo was cropped. Exif and colour profile are in
        `info`, for `save_picture` or Pillow's `save(exif=, icc_profile=)`. Warns of a change that
        reaches such a side.

        changed : weights (Y, X), 0 for the photo to 1 for the image; None for where the image
            differs from the reproduction, with a soft edge
        """
        self.check_size(image)
        changed = self.compute_changed_area_weights(image) if changed is None else changed
        if changed.shape != self.pixels.shape[-2:]:
            raise ArgumentError(
                f"Got changed of shape {tuple(changed.shape)}, expected the size of the image, "
                f"{tuple(self.pixels.shape[-2:])}."
            )
        changed = self.compute_cropped_side_weights(changed)
        edited = self.picture.copy()
        edited.info = {"exif": self.exif, "icc_profile": self.icc_profile}
        weights = zero_outside_box(changed.numpy(), self.fitting.frame)
        touched = Image.fromarray((weights > 0).astype(np.uint8)).getbbox()
        if touched is None:
            return edited
        region, covered = self.fitting.map_model_box_to_photo_with_margin(touched)
        content = image.convert("RGB").resize(
            get_box_size(region), Image.Resampling.LANCZOS, covered
        )
        if self.icc_profile:
            content = convert_from_srgb("photo", content, self.icc_profile)
        scaled = Image.fromarray(weights).resize(
            get_box_size(region), Image.Resampling.BILINEAR, covered
        )
        share_YX = np.asarray(scaled).clip(0, 1)
        if self.mask is not None:
            share_YX = share_YX * (np.asarray(self.mask.crop(region)) > 0)
        blend_into_region_in_place(edited, content, share_YX, region)
        return edited

    def compute_cropped_side_weights(self, changed_YX: Tensor) -> Tensor:
        """Return blend weights (Y, X) that fall towards the sides at which the photo was cropped;
        warn of a change there.
        """
        height, width = changed_YX.shape
        weights_YX = compute_side_fade_weights(height, width, self.fitting.cropped_sides)
        changed_YX = changed_YX.detach().float().cpu()
        if ((changed_YX > 0.5) & (weights_YX < 1)).any():
            warnings.warn(
                "The edit reaches a side at which the photo was cropped "
                f"({self.fitting.description}), and ends there: what the photo shows across it is "
                'changed in part. Show the model all of the photo: fit="pad", --fit pad.',
                stacklevel=3,
            )
        return changed_YX * weights_YX

    def compute_changed_area_weights(self, image: Image.Image) -> Tensor:
        """Return blend weights (Y, X) of the area that an edit changed: 0 keeps the photo, 1 takes
        the edited image.
        """
        if self.reproduction is None:
            changed_YX = compute_changed_area_weights(image, self.image)
        else:
            changed_YX = compute_changed_area_weights(
                image, pixel_tensor_to_pil_image(self.reproduction), self.image
            )
        mask_11YX = self.mask_pixels
        return (
            changed_YX
            if mask_11YX is None
            else changed_YX * compute_inward_feather_weights(mask_11YX[0, 0])
        )

    def check_size(self, image: Image.Image) -> None:
        """Raise ArgumentError unless an image has the size that the photo was fitted to."""
        expected = (self.fitting.model_width, self.fitting.model_height)
        if image.size != expected:
            raise ArgumentError(
                f"Got an image of {image.width}x{image.height} pixels, expected "
                f"{expected[0]}x{expected[1]}, to which the photo was fitted."
            )


def prepare_photo(
    picture: Any, height: int, width: int, fit: str = "crop", mask: Any = None
) -> Photo:
    """Read a photo, a path or an image of any size, and fit it to a model's size.

    picture : path of a PNG, JPEG or WebP, Pillow image, array or tensor, see `read_upright_picture`
    fit : "crop", "pad" or "stretch", see `compute_photo_fitting`
    mask : white where an edit may change the photo, see `read_mask_at_photo_size`

    Warns of a photo that is enlarged.
    """
    read = read_upright_picture("picture", picture)
    fitting = compute_photo_fitting(*read.picture.size, width, height, fit)
    if fitting.is_enlarged:
        warnings.warn(
            f"The photo is smaller than the model's {width}x{height} pixels: it is enlarged "
            f"({fitting.description}), and edits of it are reduced again when they are put back.",
            stacklevel=2,
        )
    shown = fitting.fit_picture(composite_over_white(read.picture))
    if read.icc_profile:
        shown = convert_to_srgb("photo", shown, read.icc_profile)
    return Photo(
        picture=read.picture,
        pixels=pil_image_to_pixel_tensor(shown),
        fitting=fitting,
        mask=None if mask is None else read_mask_at_photo_size(mask, fitting),
        exif=read.exif,
        icc_profile=read.icc_profile,
    )


def composite_over_white(picture: Image.Image) -> Image.Image:
    """Return a picture in RGB, over white where it is transparent."""
    if picture.mode == "RGB":
        return picture
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")


def pil_image_to_pixel_tensor(image: Image.Image) -> Tensor:
    """Convert an RGB Pillow image to a pixel tensor (1, 3, Y, X) in -1..1."""
    pixels_YX3 = torch.from_numpy(np.array(image)).float() / 255
    return (2 * pixels_YX3 - 1).permute(2, 0, 1)[None].contiguous()


def pixel_tensor_to_pil_image(pixels_13YX: Tensor) -> Image.Image:
    """Convert a pixel tensor (1, 3, Y, X) in -1..1 to a Pillow image of 8 bits."""
    pixels_YX3 = ((pixels_13YX[0].float() / 2 + 0.5).clamp(0, 1) * 255).round().permute(1, 2, 0)
    return Image.fromarray(pixels_YX3.to(torch.uint8).cpu().numpy())


def zero_outside_box(weights_YX: np.ndarray[Any, np.dtype[np.float32]], box: Box) -> Any:
    """Return blend weights with those outside of a box set to 0."""
    left, top, right, bottom = box
    kept_YX = np.zeros_like(weights_YX)
    kept_YX[top:bottom, left:right] = weights_YX[top:bottom, left:right]
    return kept_YX


def blend_into_region_in_place(
    picture: Image.Image, content: Image.Image, share_YX: Any, region: Box
) -> None:
    """Blend an opaque image into a region of a picture by weights, in place.

    Pixels of share 0 keep their bytes. Colours are weighted with their opacity, which becomes
    that of both together.

    share_YX : share of the image, 0 to 1
    """
    left, top, right, bottom = region
    rows = max(1, PIXELS_PER_STRIP // (right - left))
    for first in range(0, bottom - top, rows):
        strip = (left, top + first, right, min(bottom, top + first + rows))
        own = np.asarray(picture.crop(strip))
        new = np.asarray(content.crop((0, first, right - left, strip[3] - top)))
        share = share_YX[first : first + rows, :, None].astype(np.float32)
        opacity = own[..., 3:].astype(np.float32) / 255 if own.shape[2] == 4 else 1 - 0 * share
        kept = (1 - share) * opacity
        total = kept + share
        mixed = (kept * own[..., :3] + share * new) / np.maximum(total, 1e-6)
        mixed = np.concatenate([mixed, 255 * total], axis=2)[..., : own.shape[2]]
        result = np.where(share > 0, mixed.round().astype(np.uint8), own)
        picture.paste(Image.fromarray(result), strip[:2])
