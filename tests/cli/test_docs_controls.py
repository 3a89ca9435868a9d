"""What docs/controls.md tells a reader to type works, one after the other, as it stands."""

import shlex
import shutil
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import save_file

import t2i
from docs.pages import REPO, blocks
from tests.cli.command import Cli
from tests.pipelines.controls.networks import hint, tiny_controlnet


@pytest.mark.slow
def test_the_commands_of_the_page_run(cli: Cli, model: Path) -> None:
    """In a folder with the files that the page speaks of; the tiny model stands for a real one, but
    for the control of the embedded model.
    """
    unet = t2i.load(str(model)).unet
    tiny_controlnet(unet).save_pretrained("canny")
    save_file(tiny_controlnet(unet, 8).state_dict(), "depth.safetensors")
    for number, name in enumerate(("edges", "rooms")):
        hint(number).save(f"{name}.png")
    Image.new("L", (32, 32), "white").save("left.png")
    for name in ("cat.jpg", "first.png", "drawing.png", "photo.png"):
        hint(0).convert("RGB").save(name)
    shutil.copy(REPO / "docs" / "images" / "layout.png", ".")
    commands = [c for block in blocks("console", page="docs/controls.md") for c in block.commands()]
    assert len(commands) > 4
    for command in commands:
        name, *words = shlex.split(command)
        assert name == "t2i"
        if words[0] == "hint":
            words += ["--overwrite"]
        elif "--from" not in words:
            is_embedded = any(word.startswith("segments:") for word in words)
            words += ["--model", "embedded" if is_embedded else str(model), "--steps", "2"]
        done = cli(*words)
        assert done.code == 0, f"{command}\n{done.err}"
    assert Path("again.png").read_bytes() == Path("apple.png").read_bytes()
