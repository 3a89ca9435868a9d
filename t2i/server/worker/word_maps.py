"""Heat maps of a job's words, written as one atlas for people and exactly for programs.

K steps, S tokens of the words, H W a map's size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from pipelines.prompt_to_prompt.automatic_edits import (
    get_cond_text_at_step,
    list_source_or_target_change_steps,
)
from t2i.atomic_files import write_atomically
from t2i.attention.probes.heat_maps import HeatMaps
from t2i.attention.prompts.prompt_tokenizers import find_prompt_tokenizers
from t2i.errors import ArgumentError
from t2i.pictures import save_picture
from t2i.text.alignment import split_into_lowercase_words
from t2i.text.prompt import Prompt


def map_words_to_token_positions(
    pipe: Any, prompt: str | Prompt, num_steps: int
) -> dict[str, tuple[int, ...]]:
    """Return the distinct words of a prompt, in their order, each with the positions of its tokens.

    Words that come after the tokens which the model reads are left out.
    """
    found: dict[str, tuple[int, ...]] = {}
    (tokenizer, *_) = find_prompt_tokenizers(pipe, None)
    for step in sorted(list_source_or_target_change_steps(prompt, prompt, num_steps)):
        text = get_cond_text_at_step(prompt, step, num_steps)
        for word in split_into_lowercase_words(text):
            if word in found:
                continue
            try:
                positions = tokenizer.find_word_token_positions(text, word)
            except ArgumentError:  # a part of what the grammar reads as another word
                continue
            if positions:
                found[word] = positions
    return found


@dataclass(frozen=True, slots=True)
class PromptHeatMaps:
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
        """Words of a prompt that some step of the run contained, for which there are heat maps."""
        if not self.maps.measurements.accumulators:
            return []
        return [word for word in self.maps.words if word in self.maps.measurements.tokens]

    def build_word_map_data(self, word: str, row: int) -> dict[str, Any]:
        """Return JSON data about one word's heat maps, whose row in the atlas image is given: its
        tokens, peak and share.
        """
        presence = self.maps.found(word)
        absent = [step for step, one in enumerate(self.steps) if not one.has_read(word)]
        return {
            "text": word,
            "tokens": list(self.tokens.get(word, ())),
            "negative": self.negative,
            "peak": [round(part, 4) for part in self.maps.peak(word)],
            "share": round(self.maps.probability_share(word), 4),
            "found": None if presence.probability is None else round(presence.probability, 4),
            "is_missing": presence.is_missing,
            "row": row,
            "absent_steps": absent,
        }


def write_word_maps(probed: Sequence[PromptHeatMaps], folder: Path, picture: int) -> dict[str, Any]:
    """Write the heat maps of one image, an atlas as PNG and the exact values, and return their
    description as JSON data.

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
            described.append(own.build_word_map_data(word, len(rows)))
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


def _map_at_step(maps: HeatMaps, word: str) -> Tensor:
    return maps[word] if maps.has_read(word) else torch.zeros(maps.grid_size)


def _to_gray(map_HW: Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return a map as gray values, its peak 255."""
    peak = float(map_HW.max())
    scaled_HW = map_HW / peak if peak > 0 else map_HW
    gray: np.ndarray[Any, np.dtype[np.uint8]] = (
        scaled_HW.clamp(0, 1).mul(255).round().byte().numpy()
    )
    return gray
