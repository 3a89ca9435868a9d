"""What a figure was measured on, and where it is written."""

import json
from pathlib import Path
from typing import Any

from t2i.atomic_files import write_atomically
from t2i.environment_info import collect_environment_info

__all__ = ["collect_environment_info", "settle", "write_result"]


def settle(threads: int) -> None:
    """Before anything is timed: so many threads, and no bars of the libraries."""
    import diffusers
    import torch
    import transformers

    torch.set_num_threads(threads)
    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()


def write_result(path: Path, result: dict[str, Any]) -> None:
    text = json.dumps(result, indent=1) + "\n"
    write_atomically(path, lambda part: part.write_text(text, "utf-8"))
    print(f"wrote {path}")
