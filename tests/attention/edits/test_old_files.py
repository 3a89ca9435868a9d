"""Edits as JSON of an earlier commit are still read.

edits_d078bf1.json was written at commit d078bf1, before names changed, by `to_dict` of every edit.
"""

import json
from pathlib import Path

import pytest

from t2i.attention.edits.registry import EDITS, from_dict, to_dict

FILE = Path(__file__).parent / "edits_d078bf1.json"
WRITTEN = json.loads(FILE.read_text(encoding="utf-8"))


def test_every_registered_edit_of_then_is_in_the_file():
    assert {one["edit"] for one in WRITTEN} <= EDITS.keys()
    assert len({one["edit"] for one in WRITTEN}) == 10


@pytest.mark.parametrize("data", WRITTEN, ids=lambda data: data["edit"])
def test_an_edit_of_an_earlier_commit_is_read(data):
    """Every value that was written is a value of the edit that is read."""
    again = json.loads(json.dumps(to_dict(from_dict(data))))
    assert again == data
