"""Files of IP-Adapters (Ye et al. 2023), held against the UNet that they are for.

diffusers loads them; it passes over tensors that it does not look for.
"""

import re
from pathlib import Path
from typing import Any

from t2i.adapters.module_names import spell
from t2i.adapters.tensor_files import read_tensors
from t2i.errors import ModelError
from t2i.terminal import several

LAYER = re.compile(
    r"ip_adapter\.(\d{1,4})\.(to_[kv]_ip\.weight|to_(?:q|k|v|out)_lora\.\w+\.weight)"
)
IMAGE = "image_proj."


def check_ip_adapter(path: Path, unet: Any) -> None:
    """Raise ModelError unless the file holds an IP-Adapter, whole, for a UNet of these widths."""
    tensors, _ = read_tensors(path, "IP-Adapter")
    layers = {name: match for name in tensors if (match := LAYER.fullmatch(name))}
    if unknown := [n for n in tensors if n not in layers and not n.startswith(IMAGE)]:
        raise ModelError(
            f"{path}: {len(unknown):,} of its {several(len(tensors), 'tensor')} are of no "
            f"IP-Adapter: {spell(unknown)}. Nothing of it was loaded."
        )
    if len(layers) == len(tensors):
        raise ModelError(f"{path} has nothing of what reads the picture: expected {IMAGE}...")
    sites = [name for name in unet.attn_processors if not name.endswith("attn1.processor")]
    found = {name: tuple(tensors[name].shape) for name in layers if "_ip." in name}
    wanted = {}
    for number, name in enumerate(sites):
        site = unet.get_submodule(name.removesuffix(".processor"))
        for side in ("k", "v"):
            shape = (site.to_k.weight.shape[0], unet.config.cross_attention_dim)
            wanted[f"ip_adapter.{2 * number + 1}.to_{side}_ip.weight"] = shape
    if found != wanted:
        apart = [n for n in found.keys() | wanted.keys() if found.get(n) != wanted.get(n)]
        raise ModelError(
            f"{path} does not fit this model: it is for a UNet of "
            f"{several(len(found) // 2, 'layer')} that look at a picture, here are {len(sites)}, "
            f"and {len(apart):,} of its tensors are missing, too many or of another shape: "
            f"{spell(apart)}. Choose one that was made for models of its kind."
        )
