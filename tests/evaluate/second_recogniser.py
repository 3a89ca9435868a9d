"""A second recogniser that recognises: the first one, a little off, as if trained otherwise."""

from pathlib import Path

import torch

from t2i.scenes.recogniser import Recogniser


def save_second_recogniser(folder: Path, seed: int = 700) -> Path:
    """Save it in the folder, as a run with this data.seed would."""
    found = Recogniser.load()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in found.parameters():
            weight *= 1 + 0.01 * torch.randn(weight.shape, generator=generator)
    folder.mkdir(parents=True)
    found.save(folder, {"trained": {"config": {"data": {"seed": seed}}}})
    return folder
