"""Heat maps of a job's words, written as one atlas for people and exactly for programs.

K steps, S tokens of the words, H W a map's size.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from pipelines.prompt_to_prompt.automatic_edits import get_cond_text, list_pair_change_steps
from t2i.atomic_files import write_atomically
from t2i.attention.probes.heat_maps import HeatMaps
from t2i.attention.probes.measurements import ProbeMeasurements, SiteAccumulator
from t2i.attention.prompts.prompt_tokenizers import find_prompt_tokenizers
from t2i.conditioning.run_state import RunState
from t2i.errors import ArgumentError
from t2i.pictures import save_picture
from t2i.text.alignment import split_into_lowercase_words
from t2i.text.prompt import Prompt


def find_word_tokens(pipe: Any, prompt: str | Prompt, num_steps: int) -> dict[str, tuple[int, ...]]:
    """Return the distinct words of a prompt with the positions of their tokens, in their order.

    Words that come after the tokens which the model reads are left out.
    """
    found: dict[str, tuple[int, ...]] = {}
    (tokenizer, *_) = find_prompt_tokenizers(pipe, None)
    for step in sorted(list_pair_change_steps(prompt, prompt, num_steps)):
        text = get_cond_text(prompt, step, num_steps)
        for word in split_into_lowercase_words(text):
            if word in found:
                continue
            try:
                positions = tokenizer.find_positions(text, word)
            except ArgumentError:  # a part of what the grammar reads as another word
                continue
            if positions:
                found[word] = positions
    return found


@dataclass(slots=True)
class StepMaps:
    """Step callback that takes the heat maps of each step apart from those of the whole run."""

    maps: HeatMaps
    steps: list[HeatMaps] = field(default_factory=list)
    _totals: dict[tuple[int, str], SiteAccumulator] = field(default_factory=dict)

    def before_pass(self, run: RunState) -> None:
        """Do nothing before a pass."""

    def after_step(self, run: RunState) -> None:
        """Store what this step has added to the heat maps of the run."""
        self.take()

    def take(self) -> None:
        """Store what the maps have gained since they were taken last."""
        measured = self.maps.measurements
        accumulators = {
            key: _subtract(total, self._totals.get(key))
            for key, total in measured.accumulators.items()
        }
        own = ProbeMeasurements(
            tokens=dict(measured.tokens),
            columns=measured.columns,
            accumulators=accumulators,
            latent_size=measured.latent_size,
        )
        self.steps.append(HeatMaps(own, self.maps.words, self.maps.convention))
        self._totals = {
            key: replace(total, total_NSQ=total.total_NSQ.clone(), steps=list(total.steps))
            if total.ratio_1SQ is None
            else replace(
                total,
                total_NSQ=total.total_NSQ.clone(),
                steps=list(total.steps),
                ratio_1SQ=total.ratio_1SQ.clone(),
            )
            for key, total in measured.accumulators.items()
        }


def _subtract(total: SiteAccumulator, before: SiteAccumulator | None) -> SiteAccumulator:
    """Return what was added to an accumulator since an earlier copy of it."""
    if before is None:
        return replace(
            total,
            total_NSQ=total.total_NSQ.clone(),
            steps=list(total.steps),
            ratio_1SQ=None if total.ratio_1SQ is None else total.ratio_1SQ.clone(),
        )
    added = total.total_NSQ.clone()
    known = before.total_NSQ.shape[1]
    added[:, :known] -= before.total_NSQ
    ratio = None
    if total.ratio_1SQ is not None:
        ratio = total.ratio_1SQ.clone()
        if before.ratio_1SQ is not None:
            ratio[:, :known] -= before.ratio_1SQ
    steps = [
        count - (before.steps[number] if number < known else 0)
        for number, count in enumerate(total.steps)
    ]
    return SiteAccumulator(total.site, added, steps, ratio)


@dataclass(frozen=True, slots=True)
class ProbedWords:
    """Words of one prompt of an image with their heat maps.

    tokens : word -> positions of its tokens
    steps : maps of each step, if they are asked for
    negative : the prompt is the negative one
    """

    maps: HeatMaps
    tokens: dict[str, tuple[int, ...]]
    steps: Sequence[HeatMaps] = ()
    negative: bool = False

    @property
    def words(self) -> list[str]:
        """Words that some step of the run contained."""
        if not self.maps.measurements.accumulators:
            return []
        return [word for word in self.maps.words if word in self.maps.measurements.tokens]

    def describe(self, word: str, row: int) -> dict[str, Any]:
        """Return the description of a word whose heat maps are in a row of the atlas, for the API's
        answer.
        """
        absent = [step for step, one in enumerate(self.steps) if not _has_map(one, word)]
        return {
            "text": word,
            "tokens": list(self.tokens.get(word, ())),
            "negative": self.negative,
            "peak": [round(part, 4) for part in self.maps.peak(word)],
            "share": round(self.maps.share_among_words(word), 4),
            "row": row,
            "absent_steps": absent,
        }


def write_word_maps(probed: Sequence[ProbedWords], folder: Path, picture: int) -> dict[str, Any]:
    """Write the maps of one image: an atlas as PNG and the exact values; return their description.

    In the atlas the words lie under each other, with the maps of the steps side by side, each
    scaled to its own peak. A word without a map at a step is black there.

    probed : words of the prompt, then those of the negative prompt, if there are any
    picture : number of the image among those of the job
    """
    suffix = "" if picture == 0 else f"-{picture}"
    atlas, exact = f"maps{suffix}.png", f"maps{suffix}.safetensors"
    rows: list[np.ndarray[Any, np.dtype[np.uint8]]] = []
    tensors: dict[str, Tensor] = {}
    described: list[dict[str, Any]] = []
    for own in probed:
        for word in own.words:
            whole = own.maps[word].contiguous()
            by_step = [_map_at_step(one, word) for one in own.steps]
            described.append(own.describe(word, len(rows)))
            rows.append(np.concatenate([_to_gray(one) for one in by_step or [whole]], axis=1))
            name = f"negative/{word}" if own.negative else word
            tensors[name] = whole
            if by_step:
                tensors[f"{name}/steps"] = torch.stack(by_step)
    save_picture(Image.fromarray(np.concatenate(rows, axis=0)), folder / atlas)
    write_atomically(folder / exact, lambda path: save_file(tensors, path))
    height, width = probed[0].maps.grid_size
    return {
        "words": described,
        "height": height,
        "width": width,
        "steps": len(probed[0].steps) or None,
        "atlas": atlas,
        "exact": exact,
    }


def _has_map(maps: HeatMaps, word: str) -> bool:
    """Return whether the prompt contained a word at the step of these maps."""
    columns = maps.measurements.tokens.get(word, ())
    accumulators = maps.measurements.accumulators.values()
    return any(
        column < len(one.steps) and one.steps[column] for one in accumulators for column in columns
    )


def _map_at_step(maps: HeatMaps, word: str) -> Tensor:
    return maps[word] if _has_map(maps, word) else torch.zeros(maps.grid_size)


def _to_gray(map_HW: Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return a map as gray values, its peak 255."""
    peak = float(map_HW.max())
    scaled_HW = map_HW / peak if peak > 0 else map_HW
    gray: np.ndarray[Any, np.dtype[np.uint8]] = (
        scaled_HW.clamp(0, 1).mul(255).round().byte().numpy()
    )
    return gray
