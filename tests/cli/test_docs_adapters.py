"""What docs/adapters.md tells a reader to type works, one after the other, as it stands."""

import shlex
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from docs.pages import blocks
from t2i.adapters import Lora, read_lora_from_models, write_diffusers_lora, write_kohya_lora
from t2i.adapters.lora_files.kohya_header import KohyaMetadata
from tests.adapters.made import ATTENTION, CONFIGS, LYCORIS, components, models_of, train
from tests.cli.command import Cli
from tests.tiny import TEXT_WIDTH


def lora(config: str) -> Lora:
    models = models_of(components("sd1"))
    train(models, (CONFIGS | LYCORIS)[config], ATTENTION)
    return read_lora_from_models(models, "mine")


@pytest.mark.slow
def test_the_commands_of_the_page_run(cli: Cli, model: Path) -> None:
    """In a folder with the files that the page speaks of; the tiny model stands for a real one."""
    write_diffusers_lora(Path("ink.safetensors"), lora("alpha is not the rank"))
    write_kohya_lora(
        Path("gold.safetensors"), lora("loha"), KohyaMetadata(family="sd1", layers_per_block=1)
    )
    vectors = torch.randn(2, TEXT_WIDTH)
    save_file({"<sun>": vectors}, "sun.safetensors")
    torch.save({"string_to_param": {"*": vectors}, "name": "star"}, "star.pt")
    Path("base").symlink_to(model)

    commands = [c for block in blocks("console", page="docs/adapters.md") for c in block.commands()]
    assert len(commands) > 10
    for command in commands:
        name, *words = shlex.split(command)
        assert name == "t2i"
        if words[0] == "generate":
            words += ["--model", "base", "--steps", "2"]
        done = cli(*words)
        assert done.code == 0, f"{command}\n{done.err}"
