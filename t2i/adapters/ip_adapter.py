"""IP-Adapters (Ye et al. 2023): checks of their files against the UNet they are loaded into, and
runs without them.

diffusers loads the file, and silently ignores tensors that it does not expect.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from diffusers.models.attention_processor import (
    AttnProcessor2_0,
    IPAdapterAttnProcessor,
    IPAdapterAttnProcessor2_0,
)

from t2i.adapters.module_names import summarize_names
from t2i.adapters.tensor_files import read_tensors_and_metadata
from t2i.errors import ModelError
from t2i.terminal import plural

LAYER_KEY_PATTERN = re.compile(
    r"ip_adapter\.(\d{1,4})\.(to_[kv]_ip\.weight|to_(?:q|k|v|out)_lora\.\w+\.weight)"
)
IMAGE_PROJECTION_PREFIX = "image_proj."


def check_ip_adapter_fits_unet(path: Path, unet: Any) -> None:
    """Raise ModelError unless the file holds a complete IP-Adapter for a UNet of these widths."""
    tensors, _ = read_tensors_and_metadata(path, "IP-Adapter")
    layers = {name: match for name in tensors if (match := LAYER_KEY_PATTERN.fullmatch(name))}
    if unknown := [
        n for n in tensors if n not in layers and not n.startswith(IMAGE_PROJECTION_PREFIX)
    ]:
        raise ModelError(
            f"{path}: {len(unknown):,} of its {plural(len(tensors), 'tensor')} do not belong to "
            "an "
            f"IP-Adapter: {summarize_names(unknown)}. Nothing was loaded."
        )
    if len(layers) == len(tensors):
        raise ModelError(
            f"{path} has no image projection: expected tensors {IMAGE_PROJECTION_PREFIX}..."
        )
    sites = [name for name in unet.attn_processors if not name.endswith("attn1.processor")]
    shapes = {name: tuple(tensors[name].shape) for name in layers if "_ip." in name}
    expected = {}
    for number, name in enumerate(sites):
        site = unet.get_submodule(name.removesuffix(".processor"))
        for side in ("k", "v"):
            shape = (site.to_k.weight.shape[0], unet.config.cross_attention_dim)
            expected[f"ip_adapter.{2 * number + 1}.to_{side}_ip.weight"] = shape
    if shapes != expected:
        names = shapes.keys() | expected.keys()
        misfits = [name for name in names if shapes.get(name) != expected.get(name)]
        raise ModelError(
            f"{path} does not fit this model: it is for a UNet of "
            f"{plural(len(shapes) // 2, 'layer')} that attend to an image, this model has "
            f"{len(sites)}, "
            f"and {len(misfits):,} of its tensors are missing, unexpected or of another shape: "
            f"{summarize_names(misfits)}. Choose one made for this kind of model."
        )


@contextmanager
def leaving_out_ip_adapters(unet: Any) -> Iterator[None]:
    """Let a UNet attend to text alone within the block, as without the IP-Adapters that are loaded
    into it; LoRA layers of FaceID adapters stay on.
    """
    projection = unet.encoder_hid_proj
    if not len(getattr(projection, "image_projection_layers", ())):
        yield
        return
    processors, kind = dict(unet.attn_processors), unet.config.encoder_hid_dim_type
    of_adapters = (IPAdapterAttnProcessor, IPAdapterAttnProcessor2_0)
    unet.set_attn_processor(
        {
            name: AttnProcessor2_0() if isinstance(one, of_adapters) else one
            for name, one in processors.items()
        }
    )
    unet.encoder_hid_proj = None
    unet.config.encoder_hid_dim_type = None
    try:
        yield
    finally:
        unet.encoder_hid_proj = projection
        unet.config.encoder_hid_dim_type = kind
        unet.set_attn_processor(processors)
