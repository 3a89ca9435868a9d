"""Every edit is data: to JSON and back, and what a file says is not trusted."""

import base64
import io
import json

import pytest
import torch
from PIL import Image

import t2i.attention
from t2i.attention import (
    AttendAndExcite,
    Function,
    InjectQueriesKeys,
    LocalBlend,
    Refine,
    Region,
    Regions,
    Replace,
    Reweight,
    SelfReplace,
    ShareKeysValues,
    Sites,
    StyleAligned,
    WeightWords,
    from_dict,
    to_dict,
)
from t2i.attention.edits.base.edit import Edit
from t2i.attention.edits.registry import EDITS
from t2i.errors import ArgumentError

MASK = torch.linspace(0, 1, 48).view(6, 8)
EVERY = [
    Replace(),
    Replace(source=1, target=0, steps=(0, 1), words={"lion": (0.0, 0.4), "cat": None}),
    Refine(steps=(0.0, 0.8), sites="up_blocks.*attn2", heads=(0, 3)),
    Refine(alignment={"dog": "cat", "big#2": None}),
    Reweight(target=2, source=0, weights={"smiling": 5.0, "rain": -1}),
    SelfReplace(max_positions=None, sites=Sites(name="mid", kind="self")),
    LocalBlend(words=("cat", ("dog", "red car")), threshold=0.25),
    ShareKeysValues(sites=Sites(place=("mid", "up"), max_positions=64), steps=(4, 50)),
    InjectQueriesKeys(),
    StyleAligned(target=2, source_weight=2.0, normalise=False, sites="up_blocks"),
    WeightWords(target=1, weights={"cat": 1.5, "dog": 0}),
    Regions(
        [
            Region(words="cat", box=(0, 0, 0.5, 1)),
            Region(words=("red apple", "dog"), mask=MASK),
        ],
        strength=4.5,
        feather=0.0,
    ),
    AttendAndExcite(("cat", "dog"), target=1, thresholds=((0.0, 0.1),), sites=Sites(size=(4, 6))),
]


def number(edit: Edit) -> str:
    return f"{type(edit).__name__}-{EVERY.index(edit)}"


@pytest.mark.parametrize("edit", EVERY, ids=number)
def test_an_edit_comes_back_from_json_as_it_was(edit: Edit) -> None:
    data = json.loads(json.dumps(to_dict(edit), allow_nan=False))
    again = from_dict(data)
    assert again == edit
    assert type(again) is type(edit)
    assert to_dict(again) == data
    assert list(map(type, again.steps or ())) == list(map(type, edit.steps or ()))


def test_every_edit_has_a_name_but_the_one_that_is_code() -> None:
    exported = {
        thing
        for thing in vars(t2i.attention).values()
        if isinstance(thing, type) and issubclass(thing, Edit)
    }
    assert exported - {Function} <= set(EDITS.values())
    assert set(EDITS.values()) <= {type(edit) for edit in EVERY}


def test_a_soft_mask_comes_back_bit_for_bit() -> None:
    (_, region) = from_dict(to_dict(EVERY[11])).regions
    assert region.mask.tobytes() == EVERY[11].regions[1].mask.tobytes()
    assert len(set(region.mask.get_flattened_data())) == 48


def test_a_function_cannot_be_serialised() -> None:
    with pytest.raises(ArgumentError, match="Cannot serialise a Function: it is Python code"):
        to_dict(Function(lambda probs_NQK: probs_NQK))


def test_an_edit_of_ones_own_needs_a_name() -> None:
    class Mine(Replace):
        pass

    with pytest.raises(ArgumentError, match="Mine: register it under a name in"):
        to_dict(Mine())


def test_words_that_are_places_cannot_be_keys_in_json() -> None:
    with pytest.raises(ArgumentError, match="keys in JSON are texts"):
        to_dict(WeightWords(weights={(3,): 2.0}))  # type: ignore[dict-item]  # what is tested


def png(width: int, height: int, kind: str = "PNG") -> str:
    file = io.BytesIO()
    Image.new("L", (width, height)).save(file, format=kind)
    return base64.b64encode(file.getvalue()).decode()


def deep(levels: int) -> object:
    return [deep(levels - 1)] if levels else 0


def region(**mask: object) -> dict[str, object]:
    return {"edit": "regions", "regions": [{"words": "cat", **mask}]}


HOSTILE = [
    (["replace"], "expected an edit as a mapping"),
    ({}, "Unknown edit 'None'. Choices: attend-and-excite, "),
    ({"edit": "replcae"}, "Unknown edit 'replcae'. Did you mean 'replace'?"),
    ({"edit": "function", "fn": "print"}, "Unknown edit 'function'"),
    ({"edit": {"a": "replace"}}, "Unknown edit"),
    ({"edit": "replace", "step": None}, "replace has no argument 'step'. Did you mean 'steps'?"),
    ({"edit": "local-blend"}, "local-blend needs words"),
    ({"edit": "replace", "source": "0"}, "Got source='0', expected a whole number"),
    ({"edit": "replace", "source": True}, "Got source=True, expected a whole number"),
    ({"edit": "replace", "source": 10**30}, "Got source=1000.*expected a number up to 1,000,000"),
    ({"edit": "replace", "steps": 3}, "Got steps=3, expected two numbers"),
    ({"edit": "replace", "steps": [0.0, float("nan")]}, "expected the first to be at most"),
    ({"edit": "replace", "steps": ["a" * 9999, 1]}, r"Got steps=\['aaa.*\.\.\., expected two"),
    ({"edit": "replace", "words": 7}, "Got words=7, expected a mapping"),
    ({"edit": "replace", "words": {"cat": 7}}, "Got words\\['cat'\\]=7, expected two numbers"),
    ({"edit": "replace", "heads": [0, 1.5]}, "Got heads\\[1\\]=1.5, expected a whole number"),
    ({"edit": "replace", "heads": list(range(999))}, "Got heads of 999 values"),
    ({"edit": "replace", "heads": deep(30)}, "lists in lists beyond 8 levels"),
    ({"edit": "replace", "sites": "(a+)+$"}, "none after a bracket"),
    ({"edit": "replace", "sites": ".*.*.*.*.*x"}, "at most 200 letters, 4 repetitions"),
    ({"edit": "replace", "sites": {"name": "(a|b)*c"}}, "none after a bracket"),
    ({"edit": "replace", "sites": {"name": "("}}, "which is no regular expression"),
    ({"edit": "replace", "sites": {"place": "middle"}}, "Got place='middle', expected"),
    ({"edit": "replace", "sites": {"where": "up"}}, "sites has no argument 'where'"),
    ({"edit": "reweight", "weights": {"cat": "2"}}, "weights\\['cat'\\]='2', expected a number"),
    ({"edit": "reweight", "weights": {"cat": float("inf")}}, "expected a number up to 1,000,000"),
    ({"edit": "reweight", "weights": {"cat" * 999: 2}}, "of 2,997 letters, expected at most 2,000"),
    ({"edit": "word-weights", "weights": {"cat": -1}}, "cannot be less than nothing"),
    ({"edit": "local-blend", "words": ["cat"]}, "Got words=\\['cat'\\], expected a list of 2"),
    (region(), "neither of box and mask"),
    (region(box=[0, 0, 2, 1]), "expected left < right and top < bottom"),
    (region(box=[0, 0, 1]), "Got box=\\[0, 0, 1\\], expected a list of 4"),
    (region(mask="/etc/passwd"), "Got mask='/etc/passwd', expected a mask"),
    (region(mask={"png": "%%%"}), "no PNG in base64"),
    (region(mask={"png": base64.b64encode(b"GIF89a" + bytes(50)).decode()}), "no PNG in base64"),
    (region(mask={"png": png(8, 8, "BMP")}), "no PNG in base64"),
    (region(mask={"png": png(8, 8)[:60]}), "no PNG in base64"),
    (region(mask={"png": png(4097, 4097)}), "Got mask of 4097 x 4097 pixels"),
    (region(mask={"png": "A" * 5_000_000}), "a PNG in base64 of at most 4 MiB"),
    (region(mask={"png": png(8, 8), "path": "x"}), 'expected {"png": ...}'),
    ({"edit": "attend-and-excite", "words": "cat", "thresholds": [[0.0]]}, "expected a list of 2"),
    ({"edit": "attend-and-excite", "words": []}, "expected words of the prompt"),
    ({"edit": "attend-and-excite", "words": "cat", "scale": -1}, "expected a number above 0"),
]


@pytest.mark.parametrize(("data", "message"), HOSTILE)
def test_hostile_json_is_refused(data: object, message: str) -> None:
    with pytest.raises(ArgumentError, match=message) as caught:
        from_dict(data)  # type: ignore[arg-type]  # what is tested
    assert len(str(caught.value)) < 1_000
