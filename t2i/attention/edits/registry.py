"""Registry of the edits by name, and their conversion to JSON and back."""

from collections.abc import Mapping

from t2i.attention.edits.attend_and_excite import AttendAndExcite
from t2i.attention.edits.base.edit import Edit
from t2i.attention.edits.function import Function
from t2i.attention.edits.inject_queries_keys import InjectQueriesKeys
from t2i.attention.edits.local_blend import LocalBlend
from t2i.attention.edits.refine import Refine
from t2i.attention.edits.regions import Regions
from t2i.attention.edits.replace import Replace
from t2i.attention.edits.reweight import Reweight
from t2i.attention.edits.self_replace import SelfReplace
from t2i.attention.edits.serialisation import build_dataclass, fields_to_dict, short_repr
from t2i.attention.edits.share_keys_values import ShareKeysValues
from t2i.attention.edits.style_aligned import StyleAligned
from t2i.attention.edits.weight_words import WeightWords
from t2i.errors import ArgumentError, suggest_choice


def to_dict(edit: Edit) -> dict[str, object]:
    """Return the edit as JSON data: {"edit": "replace", "steps": [0.0, 0.8], "source": 0, ...}.

    Raises ArgumentError for a Function, an edit that is not registered, and values that JSON lacks.

    >>> from_dict(to_dict(Replace(steps=(0.0, 0.8)))) == Replace(steps=(0.0, 0.8))
    True
    """
    if isinstance(edit, Function):
        raise ArgumentError(
            "Cannot serialise a Function: it is Python code, and an edit in a file is data. Give "
            "it again when the picture is repeated, or write an edit of its own."
        )
    names = {kind: name for name, kind in EDITS.items()}
    if type(edit) not in names:
        raise ArgumentError(
            f"Cannot serialise {type(edit).__name__}: register it under a name in "
            "t2i.attention.edits.registry.EDITS."
        )
    return {"edit": names[type(edit)]} | fields_to_dict(edit)


def from_dict(data: Mapping[str, object]) -> Edit:
    """Build an attention edit from the JSON data that `to_dict` returns.

    Raises ArgumentError for unknown names and arguments, and for values of a wrong type or range.
    """
    if not isinstance(data, Mapping):
        raise ArgumentError(
            f'Got {short_repr(data)}, expected an edit as a mapping: {{"edit": "replace", ...}}.'
        )
    name = str(data.get("edit"))[:80]
    if name not in EDITS:
        raise ArgumentError(f"Unknown edit {name!r}. {suggest_choice(name, EDITS)}")
    values = {key: value for key, value in data.items() if key != "edit"}
    edit: Edit = build_dataclass(EDITS[name], values, name)
    return edit


EDITS: dict[str, type[Edit]] = {
    "replace": Replace,
    "refine": Refine,
    "reweight": Reweight,
    "self-replace": SelfReplace,
    "local-blend": LocalBlend,
    "word-weights": WeightWords,
    "regions": Regions,
    "attend-and-excite": AttendAndExcite,
    "share-keys-values": ShareKeysValues,
    "inject-queries-keys": InjectQueriesKeys,
    "style-aligned": StyleAligned,
}
"""Name of an edit in files -> its class."""
