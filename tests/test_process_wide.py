"""What the fixture of every test sees, and that it puts it back."""

import gc
import os
import signal
import warnings

import pytest
import torch
from accelerate import Accelerator, PartialState
from PIL import Image

from tests import process_wide

LEFT = {
    "Accelerate's processes": PartialState,
    "Accelerate's precision: _mixed_precision: None -> 'bf16'": lambda: Accelerator(
        mixed_precision="bf16"
    ),
    "torch's default dtype: torch.float32 -> torch.float64": lambda: torch.set_default_dtype(
        torch.float64
    ),
    "torch's threads: 1 -> 2": lambda: torch.set_num_threads(2),
    "torch's deterministic algorithms: False -> True": lambda: torch.use_deterministic_algorithms(
        True
    ),
    "the environment: T2I_LEFT: None -> 'x'": lambda: os.environ.update(T2I_LEFT="x"),
    "the working folder": lambda: os.chdir("/"),
    "the handler of SIGTERM": lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN),
    "warnings.filters": lambda: warnings.simplefilter("error"),
    "freezes of objects: 1 -> 2": gc.freeze,
    "Pillow's largest picture": lambda: setattr(Image, "MAX_IMAGE_PIXELS", 5),
}


@pytest.mark.parametrize("said", LEFT)
def test_what_is_left_is_named_and_put_back(said: str) -> None:
    before = process_wide.settings()
    LEFT[said]()
    found = process_wide.changes(before, process_wide.settings())
    process_wide.paste_edit(before)
    assert any(line.startswith(said) for line in found), found
    assert process_wide.changes(before, process_wide.settings()) == []
