"""What a figure was measured on, and where it is written."""

import json
from pathlib import Path
from typing import Any

from t2i.files import write_atomically
from t2i.machine import machine

__all__ = ["machine", "write_result"]


def write_result(path: Path, result: dict[str, Any]) -> None:
    text = json.dumps(result, indent=1) + "\n"
    write_atomically(path, lambda part: part.write_text(text, "utf-8"))
    print(f"wrote {path}")
