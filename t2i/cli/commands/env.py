"""`t2i env`: versions and hardware, for bug reports."""

import platform
from typing import TYPE_CHECKING

from t2i import __version__
from t2i.cli.output import FormatOption, print_json, print_two_columns

if TYPE_CHECKING:
    import torch

LIBRARIES = (
    "torch",
    "diffusers",
    "transformers",
    "accelerate",
    "peft",
    "safetensors",
    "pillow",
    "numpy",
    "pydantic",
    "typer",
)


def env(format: FormatOption = "text") -> None:
    """Print library versions, device and platform, for bug reports."""
    facts = collect_versions_and_hardware()
    if format == "json":
        print_json(facts)
    else:
        print_two_columns(facts)


def collect_versions_and_hardware() -> dict[str, str | int]:
    """Return the library versions, platform and device of this machine, by name."""
    import torch

    from t2i.accelerate_state import default_device
    from t2i.cli.metadata.writing import read_library_versions

    return {
        "t2i": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": _device_name(default_device()),
        "threads": torch.get_num_threads(),
        **read_library_versions(LIBRARIES),
    }


def _device_name(device: "torch.device") -> str:
    import torch

    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return str(device)
