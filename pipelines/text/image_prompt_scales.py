"""Scales of a pipeline's IP-Adapters, checked and by named blocks."""

from typing import Any

from diffusers.loaders.ip_adapter import IPAdapterMixin

from t2i.adapters.ip_adapter_scales import ImagePromptScale, resolve_image_prompt_scale
from t2i.errors import ArgumentError
from t2i.terminal import plural


class ImagePromptsMixin(IPAdapterMixin):
    """diffusers' mixin of IP-Adapters, with scales that are checked and may name blocks."""

    unet: Any

    def set_ip_adapter_scale(self, scale: ImagePromptScale | list[ImagePromptScale]) -> None:
        """Set the scale of the loaded IP-Adapter, or of several in a list.

        scale : as in diffusers: a number, or a dict of scales by block; or the names of
            InstantStyle's blocks of SDXL: "style", "layout", "style+layout*0.5"

        Raises ArgumentError for an unknown block, and for another number of scales than of
        adapters.
        """
        scales = scale if isinstance(scale, list) else [scale]
        projection = getattr(self.unet, "encoder_hid_proj", None)
        count = len(getattr(projection, "image_projection_layers", ()))
        if len(scales) != count:
            raise ArgumentError(
                f"Got {plural(len(scales), 'scale')} for {plural(count, 'IP-Adapter')}: give one "
                "for each in a list; pipe.load_ip_adapter(...) loads them."
            )
        resolved = [resolve_image_prompt_scale(one, self.unet) for one in scales]
        super().set_ip_adapter_scale(resolved)  # type: ignore[no-untyped-call]  # diffusers' own
