"""Models that commands of one process loaded: the next command of the same files takes them.

Loading is two thirds of a command on the tiny model. A pipeline is each command's own, with a
scheduler of its own; its models and tokenizers are shared until a command has changed them.
"""

import copy
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from pipelines.text_to_image import TextToImagePipeline

Key = tuple[object, ...]
Kept = tuple[TextToImagePipeline, list[object]]

kept: dict[Key, Kept] = {}
"""By the folder and its files: the pipeline as it was loaded, and the state of its parts."""

from_pretrained = TextToImagePipeline.from_pretrained.__func__  # type: ignore[attr-defined]


def share_loaded_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `TextToImagePipeline.from_pretrained` take the parts of a folder that is in memory."""
    monkeypatch.setattr(TextToImagePipeline, "from_pretrained", classmethod(load))


def load(kind: Any, place: Any, **given: Any) -> Any:
    if not Path(place).is_dir() or given.keys() - {"scheduler"}:
        return from_pretrained(kind, place, **given)
    key = (kind, "scheduler" in given, *files_of(Path(place)))
    if key not in kept or state_of(kept[key][0]) != kept[key][1]:
        pipe = from_pretrained(kind, place, **given)
        kept[key] = (beside(pipe), state_of(pipe))
    pipe = beside(kept[key][0])
    pipe.scheduler = given.get("scheduler") or copy.deepcopy(pipe.scheduler)
    return pipe


def files_of(folder: Path) -> list[object]:
    """What tells whether a folder is the same still."""
    found: list[object] = [folder.resolve()]
    for path in sorted(folder.rglob("*")):
        facts = path.stat()
        found.append((path.name, facts.st_ino, facts.st_size, facts.st_mtime_ns))
    return found


def beside(pipe: TextToImagePipeline) -> TextToImagePipeline:
    """Another pipeline around the same parts."""
    other = copy.copy(pipe)
    for name, value in vars(pipe).items():
        if type(value) in (dict, list, set):
            setattr(other, name, copy.copy(value))
    return other


def state_of(pipe: TextToImagePipeline) -> list[object]:
    """What a command could change of the parts: modules, weights, hooks, settings, words."""
    found: list[object] = []
    for name, part in pipe.components.items():
        if isinstance(part, nn.Module):
            for module in part.modules():
                plain = [
                    v for v in vars(module).values() if isinstance(v, bool | int | float | str)
                ]
                hooks = [len(v) for k, v in vars(module).items() if k.endswith("_hooks")]
                own = vars(module).get("forward"), getattr(module, "processor", None)
                found.append((id(module), plain, hooks, *map(id, own)))
            tensors = [*part.parameters(), *part.buffers()]
            found += [(id(t), t._version, t.dtype, t.requires_grad) for t in tensors]
        elif "tokenizer" in name and part is not None:
            found.append((id(part), len(part), part.model_max_length))
    return found
