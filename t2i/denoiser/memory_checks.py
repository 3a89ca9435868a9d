"""Checks whether an image fits into memory, and error messages for running out of it.

C channels, H W latent size.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]  # has no types
import torch
from torch import Tensor

from t2i.denoiser.activation_memory import (
    estimate_decoder_bytes_per_position,
    estimate_unet_bytes_per_position,
)
from t2i.errors import GenerationError
from t2i.terminal import plural

OUT_OF_MEMORY_MESSAGES = (
    "out of memory",  # CUDA, ROCm, MPS, XPU
    "not enough memory",  # torch's allocator for CPUs
    "DefaultCPUAllocator: can't allocate",
    "STATUS_ALLOC_FAILED",  # cuBLAS and cuDNN, for their own workspaces
)
CGROUP_FILES = (
    ("memory.max", "memory.current"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes"),
)
"""Files of a container's limit and use, of both versions of Linux' control groups."""
BYTES_PER_DECODED_PIXEL = 48
"""Bytes of memory that the copies of one pixel of a finished image take: decoded, brought to 0..1,
as an array, and as a picture."""
UNCHECKED_POSITIONS_FACTOR = 2
"""Up to this multiple of the positions of a trained image, memory is not checked."""
OUT_OF_MEMORY_REMEDY = (
    "Draw a smaller picture (--size, height= and width=) or fewer at once "
    "(num_images_per_prompt=); pipe.vae.enable_slicing() decodes one after the other, "
    "pipe.vae.enable_tiling() in tiles, pipe.enable_model_cpu_offload() keeps on a GPU only the "
    "part at work, and dtype=torch.bfloat16 halves everything"
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return True for an out-of-memory error of torch or of Python."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(s in str(error) for s in OUT_OF_MEMORY_MESSAGES)


@contextmanager
def translating_out_of_memory(what: str = "while drawing") -> Iterator[None]:
    """Turn an out-of-memory error within the block into a GenerationError with remedies."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise GenerationError(f"Out of memory {what}. {OUT_OF_MEMORY_REMEDY}.") from error


def check_sampling_memory(
    unet: Any, vae: Any, latents_BCHW: Tensor, branches: int, **decoding: Any
) -> None:
    """Raise GenerationError if sampling with a UNet and decoding with its VAE need more memory than
    is free.

    The need is the larger of a denoiser pass with `branches` rows per image and of decoding, both
    measured on the meta device (t2i.denoiser.activation_memory). Images up to
    UNCHECKED_POSITIONS_FACTOR times the trained size are not checked.
    """
    pictures, _, H, W = latents_BCHW.shape
    side = unet.config["sample_size"] or 64
    trained = side**2 if isinstance(side, int) else side[0] * side[1]
    free = read_free_bytes(latents_BCHW.device)
    if free is None or pictures * H * W <= UNCHECKED_POSITIONS_FACTOR * trained:
        return
    factor = 2 ** (len(vae.config["block_out_channels"]) - 1)
    try:
        pass_bytes, decoding_bytes = (
            estimate_unet_bytes_per_position(unet),
            estimate_decoder_bytes_per_position(vae, **decoding),
        )
    except Exception:  # A model of somebody's own, or changed since: nothing is known of it.
        return
    needed_for_pass = pass_bytes * branches * pictures * H * W
    at_once = 1 if getattr(vae, "use_slicing", False) else pictures
    tile = getattr(vae, "tile_latent_min_size", None)
    positions = min(H * W, tile**2) if getattr(vae, "use_tiling", False) and tile else H * W
    pixels = BYTES_PER_DECODED_PIXEL * pictures * H * W * factor**2
    needed = max(needed_for_pass, decoding_bytes * at_once * positions + pixels)
    if needed > free:
        many = plural(pictures, "picture") if pictures > 1 else "A picture"
        raise GenerationError(
            f"{many} of {W * factor}x{H * factor} pixels: about {needed / 1e9:.1f} GB of memory "
            f"are needed beside the model, and {free / 1e9:.1f} GB are free. "
            f"{OUT_OF_MEMORY_REMEDY}."
        )


def read_free_bytes(device: torch.device) -> int | None:
    """Return the free memory of a device in bytes, or None where it is unknown."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free + cached)
    if device.type != "cpu":
        return None
    return min(
        int(psutil.virtual_memory().available), *list_container_free_bytes(Path("/sys/fs/cgroup"))
    )


def list_container_free_bytes(folder: Path) -> list[int]:
    """Return the free bytes under each memory limit (cgroup) of the container that this process
    runs in, and a very large number in case there is none.
    """
    left = [2**62]
    for place in (folder, folder / "memory"):
        for limit, used in CGROUP_FILES:
            try:
                most, now = ((place / name).read_text().strip() for name in (limit, used))
            except OSError:
                continue
            if most.isdigit() and now.isdigit():
                left.append(max(int(most) - int(now) + read_reclaimable_bytes(place), 0))
    return left


def read_reclaimable_bytes(folder: Path) -> int:
    """Return the bytes of a container's page cache that the kernel can free."""
    try:
        lines = (folder / "memory.stat").read_text().splitlines()
    except OSError:
        return 0
    facts = dict(line.split(" ", 1) for line in lines if " " in line)
    return int(facts.get("inactive_file", facts.get("total_inactive_file", "0")))
