"""Configs of a model folder with one value changed to something that nobody would write."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CONFIGS = (
    "model_index.json",
    "unet/config.json",
    "vae/config.json",
    "text_encoder/config.json",
    "scheduler/scheduler_config.json",
    "tokenizer/tokenizer_config.json",
    "tokenizer/tokenizer.json",
)
JUNK: tuple[Any, ...] = (
    "x",
    "",
    "1",
    -8,
    -1,
    0,
    1,
    3,
    7,
    10**6,
    10**9,
    0.5,
    -0.5,
    1e30,
    1e-30,
    float("nan"),
    float("inf"),
    True,
    False,
    None,
    [],
    [0],
    [-1, 2],
    ["x"],
    [None, 4],
    [[2, 2], [2]],
    [0.1] * 3,
    {},
    {"a": 1},
    "linear",
    "DownBlock2D",
    "\ud800",
)


def places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) of a JSON tree, those of long lists and dicts at their ends alone."""
    waiting = [tree]
    while waiting:
        one = waiting.pop()
        pairs = [*one.items()] if isinstance(one, dict) else [*enumerate(one)]
        for key, value in pairs if len(pairs) <= 80 else pairs[:2] + pairs[-2:]:
            yield one, key
            if isinstance(value, dict | list) and value:
                waiting.append(value)


def mutate(folder: Path, seed: int, file: str | None = None) -> str:
    """Change one value of one config in place, or leave one key out; what was done, in words."""
    draw = random.Random(seed)
    path = folder / (file or draw.choice(CONFIGS))
    tree = json.loads(path.read_text())
    container, key = draw.choice([*places(tree)])
    before = repr(container[key])
    if draw.random() < 0.07:
        del container[key]
        after = "nothing"
    else:
        container[key] = draw.choice(JUNK)
        after = repr(container[key])
    path.write_text(json.dumps(tree))
    return f"{path.relative_to(folder)}: {key} {before:.60} -> {after:.60}"
