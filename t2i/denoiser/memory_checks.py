"""Does a picture fit into this machine? Asked before it is drawn, and said where it did not.

C channels, H W latent size.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]  # has no types
import torch
from torch import Tensor

from t2i.denoiser.activation_memory import of_decoder, of_unet
from t2i.errors import DrawingError
from t2i.terminal import several

SAID_BY_ALLOCATORS = (
    "out of memory",  # CUDA, ROCm, MPS, XPU
    "not enough memory",  # torch's allocator for CPUs
    "DefaultCPUAllocator: can't allocate",
    "STATUS_ALLOC_FAILED",  # cuBLAS and cuDNN, for their own workspaces
)
CGROUPS = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))
"""Files of a container's limit and use, of both versions of Linux' control groups."""
OF_A_PIXEL = 48
"""Bytes for its three colours: decoded, brought to 0..1, as an array, and as a picture."""
KNOWN_TO_FIT = 2
"""A picture of so many times the trained positions is drawn without asking."""
LOWER = (
    "Draw a smaller picture (--size, height= and width=) or fewer at once "
    "(num_images_per_prompt=); pipe.vae.enable_slicing() decodes one after the other, "
    "pipe.vae.enable_tiling() in tiles, pipe.enable_model_cpu_offload() keeps on a GPU only the "
    "part at work, and dtype=torch.bfloat16 halves everything"
)


def is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(s in str(error) for s in SAID_BY_ALLOCATORS)


@contextmanager
def memory_to_draw(what: str = "while drawing") -> Iterator[None]:
    """Raise DrawingError, with what to lower, where there is too little memory within the block."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise DrawingError(f"Out of memory {what}. {LOWER}.") from error


def check_fits(unet: Any, vae: Any, latents_BCHW: Tensor, branches: int, **decoding: Any) -> None:
    """Raise DrawingError where drawing needs more memory than is free.

    Needed is the larger of a pass of the denoiser, of `branches` rows for each picture, and of
    decoding, both counted on models without memory (t2i.denoiser.activation_memory): bytes for a
    position of the latents, times rows, times positions.
    """
    pictures, _, H, W = latents_BCHW.shape
    side = unet.config["sample_size"] or 64
    trained = side**2 if isinstance(side, int) else side[0] * side[1]
    free = free_memory(latents_BCHW.device)
    if free is None or pictures * H * W <= KNOWN_TO_FIT * trained:
        return
    factor = 2 ** (len(vae.config["block_out_channels"]) - 1)
    try:
        of_a_pass, of_decoding = of_unet(unet), of_decoder(vae, **decoding)
    except Exception:  # A model of somebody's own, or changed since: nothing is known of it.
        return
    passing = of_a_pass * branches * pictures * H * W
    at_once = 1 if getattr(vae, "use_slicing", False) else pictures
    tile = getattr(vae, "tile_latent_min_size", None)
    positions = min(H * W, tile**2) if getattr(vae, "use_tiling", False) and tile else H * W
    pixels = OF_A_PIXEL * pictures * H * W * factor**2
    needed = max(passing, of_decoding * at_once * positions + pixels)
    if needed > free:
        many = several(pictures, "picture") if pictures > 1 else "A picture"
        raise DrawingError(
            f"{many} of {W * factor}x{H * factor} pixels: about {needed / 1e9:.1f} GB of memory "
            f"are needed beside the model, and {free / 1e9:.1f} GB are free. {LOWER}."
        )


def free_memory(device: torch.device) -> int | None:
    """Bytes that may still be taken there; None where nobody knows."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free + kept)
    if device.type != "cpu":
        return None
    return min(int(psutil.virtual_memory().available), *left_in_container(Path("/sys/fs/cgroup")))


def left_in_container(folder: Path) -> list[int]:
    """Bytes that the limit of a container leaves; a very large number where there is none."""
    left = [2**62]
    for place in (folder, folder / "memory"):
        for limit, used in CGROUPS:
            try:
                most, now = ((place / name).read_text().strip() for name in (limit, used))
            except OSError:
                continue
            if most.isdigit() and now.isdigit():
                left.append(max(int(most) - int(now) + reclaimable(place), 0))
    return left


def reclaimable(folder: Path) -> int:
    """Bytes of files that are only kept in case they are read again."""
    try:
        lines = (folder / "memory.stat").read_text().splitlines()
    except OSError:
        return 0
    facts = dict(line.split(" ", 1) for line in lines if " " in line)
    return int(facts.get("inactive_file", facts.get("total_inactive_file", "0")))
