"""Lines of a prompts file that edit a photo, or a generated picture, by its words."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from t2i.cli.bulk import photo_cache
from tests.cli.command import Cli, pixels, prompts_runner, text_of

SOURCE, TARGET = "a red cat", "a red dog"


@pytest.fixture
def bulk(cli: Cli, model: Path, photo: Path) -> Cli:
    """Lines into the folder out, on the tiny model in five steps."""

    return prompts_runner(cli, model, steps=5)


def test_lines_edit_a_photo_as_the_command_does_and_invert_it_once(
    bulk: Cli, cli: Cli, model: Path, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inverted: list[object] = []
    invert = photo_cache.invert_photo
    monkeypatch.setattr(
        photo_cache, "invert_photo", lambda *a, **k: inverted.append(a) or invert(*a, **k)
    )
    line = {"source": SOURCE, "image": "photo.png", "invert": "direct"}
    done = bulk(
        line | {"prompt": TARGET, "name": "one"},
        line | {"prompt": "a blue dog", "blend": "none", "weight": ["blue=2"], "name": "two"},
    )
    assert done.code == 0, Path("out/index.jsonl").read_text()
    assert len(inverted) == 1
    settings = ("--model", model, "--steps", "5", "--seed", "7")
    photo_options = ("--image", photo, "--invert", "direct")
    cli("edit", *photo_options, SOURCE, TARGET, *settings, "--out", "e.png")
    assert np.array_equal(pixels(Path("e-target.png")), pixels(Path("out/one.png")))
    request = json.loads(text_of(Path("out/two.png"))["t2i"])["request"]
    assert request["edited"]["prompts"] == [SOURCE, "a blue dog"]
    assert request["inversion"]["method"] == "direct:iterations=4"
    again = cli("generate", "--from", "out/two.png", "--out", "again.png")
    assert again.code == 0, again.err
    assert np.array_equal(pixels(Path("again.png")), pixels(Path("out/two.png")))


def test_lines_draw_in_the_style_of_a_photo_and_of_an_edit_of_it(bulk: Cli, cli: Cli) -> None:
    line = {"source": SOURCE, "image": "photo.png", "invert": "direct", "style": 2}
    done = bulk(
        line | {"prompt": "a blue dog", "name": "one"},
        line | {"prompt": "a blue dog", "source": [SOURCE, TARGET], "name": "two"},
    )
    assert done.code == 0, Path("out/index.jsonl").read_text()
    for name in ("one", "two"):
        request = json.loads(text_of(Path(f"out/{name}.png"))["t2i"])["request"]
        assert [one["edit"] for one in request["edited"]["edits"]] == ["style-aligned"]
        again = cli("generate", "--from", f"out/{name}.png", "--out", f"{name}-again.png")
        assert again.code == 0, again.err
        assert np.array_equal(pixels(Path(f"{name}-again.png")), pixels(Path(f"out/{name}.png")))


def test_a_line_inverts_its_photo_by_the_method_of_its_kind_of_change(bulk: Cli) -> None:
    line = {"source": SOURCE, "image": "photo.png"}
    assert bulk(line | {"prompt": TARGET, "name": "swap"}).code == 0
    request = json.loads(text_of(Path("out/swap.png"))["t2i"])["request"]
    assert request["inversion"]["method"].startswith("turbo:")


def test_methods_that_draw_noise_have_that_of_each_seed(
    bulk: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = {"source": SOURCE, "image": "photo.png", "prompt": TARGET, "invert": "edit-friendly"}
    assert bulk(line | {"num": 2, "name": "x"}).code == 0
    assert not np.array_equal(pixels(Path("out/x-1.png")), pixels(Path("out/x-2.png")))


def test_a_line_without_a_photo_edits_a_generated_picture(bulk: Cli, cli: Cli, model: Path) -> None:
    assert bulk({"source": SOURCE, "prompt": TARGET, "name": "x"}).code == 0
    settings = ("--model", model, "--steps", "5", "--seed", "7")
    cli("edit", SOURCE, TARGET, *settings, "--out", "e.png")
    assert np.array_equal(pixels(Path("e-target.png")), pixels(Path("out/x.png")))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"blend": "cat,dog"}, 'Got "blend" without "source"'),
        ({"source": SOURCE, "invert": "direct"}, 'Got "invert" without "image"'),
        (
            {"source": SOURCE, "image": "photo.png", "invert": "drect"},
            "Unknown inversion method 'drect'",
        ),
        ({"source": SOURCE, "image": "p.jsonl"}, "is no picture we know"),
        ({"source": SOURCE, "image": "photo.png", "mask": "p.jsonl"}, "is no picture we know"),
        (
            {"source": SOURCE, "image": "photo.png", "strength": 0.5},
            "Got --strength 0.5 for a photo",
        ),
        ({"source": SOURCE, "weight": "dog"}, "Got --weight 'dog'"),
        ({"source": "a cat AND a dog"}, "has parts joined by AND"),
        ({"source": "a\0cat"}, 'Got "source": "a\\u0000cat". Write what the picture shows'),
        ({"source": "a <lora:ink> cat"}, 'in "source": what is drawn together shares'),
    ],
)
def test_a_line_that_cannot_be_used_is_named(bulk: Cli, line: dict[str, Any], message: str) -> None:
    done = bulk({"prompt": TARGET} | line)
    assert done.code == 4
    assert "p.jsonl:1: " in done.err
    assert message in done.err
    assert not Path("out").exists()
