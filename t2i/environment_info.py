"""Hardware and library versions for benchmark results."""

import os
import platform
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

LIBRARIES = ("torch", "diffusers", "transformers", "accelerate", "numpy", "pillow")


def collect_environment_info() -> dict[str, Any]:
    """Return a dict that describes hardware, library versions and date, for records of
    measurements.
    """
    import torch

    return {
        "date": date.today().isoformat(),
        "processor": find_processor_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg()[0],
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        **{library: version(library) for library in LIBRARIES},
    }


def find_processor_name() -> str:
    """Return the model name of the processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
