"""What a figure was measured on, and where it is written."""

import json
import os
import platform
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from t2i.files import write_atomically


def machine() -> dict[str, Any]:
    """Hardware, versions and date."""
    import torch

    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    libraries = ("torch", "diffusers", "transformers", "accelerate", "numpy", "pillow")
    return {
        "date": date.today().isoformat(),
        "processor": names[0] if names else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg()[0],
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        **{library: version(library) for library in libraries},
    }


def write_result(path: Path, result: dict[str, Any]) -> None:
    text = json.dumps(result, indent=1) + "\n"
    write_atomically(path, lambda part: part.write_text(text, "utf-8"))
    print(f"wrote {path}")
