"""The page and the Markdown tables: whole in themselves, and nothing in them is code."""

import base64
import io
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from t2i.errors import DataError
from t2i.evaluate.report.chapter import Chapter, Estimate, Gallery, Plot, Table
from t2i.evaluate.report.markdown import render_markdown
from t2i.evaluate.report.number_format import format_number_omitting_unit
from t2i.evaluate.report.page import MAX_LONG_SIDE, render_html_page
from t2i.evaluate.report.plots import LINE_COLOURS, render_plot_as_svg

HOSTILE = '<script>alert("a|b")</script>'
TABLE = Table(
    name="edits",
    title="Edits",
    heads=["success", "PSNR", "note"],
    rows=[
        ("none", [Estimate(0.5, 0.25, 0.75, 8), Estimate(21.26, None, None, 8), "same seed"]),
        (HOSTILE, [Estimate(1.0, 0.8, 1.0, 8), None, HOSTILE]),
    ],
    units={"success": "%", "PSNR": "dB"},
    better={"success": "higher", "PSNR": "lower"},
)
PLOT = Plot(
    name="guidance",
    title="Guidance",
    x_label="scale",
    y_label="share",
    lines={
        "one": [(1.0, Estimate(0.4, 0.3, 0.5, 9)), (3.0, Estimate(0.9, 0.8, 1.0, 9))],
        "both": [(1.0, Estimate(0.2)), (3.0, Estimate(0.5, 0.4, 0.6, 9))],
    },
)
DOCUMENT: dict[str, Any] = {
    "command": "t2i evaluate mine",
    "model": {"name": HOSTILE, "digest": "a" * 64},
    "recogniser": "b" * 64,
    "libraries": {"t2i": "0.1.0"},
    "machine": {
        "date": "2026-11-24",
        "processor": "a processor",
        "cores": 2,
        "gpu": None,
        "torch": "2.13.0",
        "diffusers": "0.42.1",
    },
}


def chapter(*blocks: Table | Plot | Gallery) -> Chapter:
    return Chapter("editing", "Editing", "How to read it & more.", blocks)


class Opened(HTMLParser):
    """Tags that were opened and not closed, and all that there are."""

    void = ("meta", "img", "br", "path", "use")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.void:
            assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    Image.new("RGB", (8, 8), "red").save(tmp_path / "small.png")
    Image.new("RGB", (1500, 300), "blue").save(tmp_path / "large.png")
    return tmp_path


def test_a_page_is_whole_in_itself_and_runs_nothing(pictures: Path) -> None:
    gallery = Gallery("worst", "Worst", [("small.png", HOSTILE), ("large.png", "a car")], 2)
    text = render_html_page([chapter(TABLE, PLOT, gallery)], DOCUMENT, pictures)
    parsed = Opened(text)
    assert parsed.open == []
    assert "script" not in {tag for tag, _ in parsed.tags}
    for _, attributes in parsed.tags:
        for name in ("src", "href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/"))
    assert not re.search(r"url\((?!#)|@import", text)
    assert [tag for tag, _ in parsed.tags].count("svg") == 1
    images = [attributes for tag, attributes in parsed.tags if tag == "img"]
    assert [i["alt"] for i in images] == [HOSTILE, "a car"]
    assert str(images[0]["src"]).startswith("data:image/png;")
    assert str(images[1]["src"]).startswith("data:image/webp;")
    # A large one is embedded small.
    (data,) = re.findall(r"base64,(.*)", str(images[1]["src"]))
    assert max(Image.open(io.BytesIO(base64.b64decode(data))).size) == MAX_LONG_SIDE
    assert "prefers-color-scheme: dark" in text
    assert 'name="viewport"' in text


def test_figures_stand_with_interval_count_and_the_way_that_is_better(pictures: Path) -> None:
    text = re.sub(r"\s+", " ", render_html_page([chapter(TABLE)], DOCUMENT, pictures))
    assert "success&nbsp;&uarr;" in text
    assert "PSNR&nbsp;&darr;" in text
    assert "<td>50.0 %<small>25.0 to 75.0 <span>n&nbsp;8</span></small></td>" in text
    assert "<td>21.3 dB<small> <span>n&nbsp;8</span></small></td>" in text
    assert "<td>-</td>" in text
    assert 'href="#editing"' in text


def test_a_picture_that_is_gone_is_named(pictures: Path) -> None:
    with pytest.raises(DataError, match=r"No such picture: .*lost\.png"):
        render_html_page(
            [chapter(Gallery("worst", "Worst", [("lost.png", "")]))], DOCUMENT, pictures
        )


def test_a_plot_takes_its_ink_from_the_page_and_is_the_same_in_every_run() -> None:
    text = render_plot_as_svg(PLOT)
    root = ET.fromstring(text)
    assert root.tag.endswith("svg")
    assert "currentColor" in text
    assert "#010203" not in text
    assert text == render_plot_as_svg(PLOT)
    drawn = [path.get("style", "") for path in root.iter() if path.tag.endswith("path")]
    for colour in LINE_COLOURS[:2]:
        assert any(f"stroke: {colour}" in style and "fill: none" in style for style in drawn)
    labels = {node.text for node in root.iter() if node.tag.endswith("text")}
    assert {"scale", "share", "1", "3"} <= labels


def test_tables_as_markdown_keep_their_columns() -> None:
    lines = render_markdown([chapter(TABLE, PLOT)], DOCUMENT).splitlines()
    assert lines[0].startswith("Made by `t2i evaluate mine` on 2026-11-24: model ")
    assert lines[0].endswith("a processor, 2 cores.")
    rows = [line for line in lines if line.startswith("|")]
    assert rows[0] == "|  | success | PSNR | note |"
    assert rows[2] == "| none | 50.0 % (25.0 to 75.0) | 21.3 dB | same seed |"
    cells = [len(re.findall(r"(?<!\\)\|", row)) for row in rows]
    assert cells == [5] * 4


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (0.97531, "%", "97.5"),
        (-0.05, "points", "-5.0"),
        (31.26, "dB", "31.3"),
        (1.234, "s", "1.23"),
        (0.012345, "", "0.0123"),
        (12345.6, "", "12346"),
    ],
)
def test_figures_are_rounded_by_their_unit(value: float, unit: str, shown: str) -> None:
    assert format_number_omitting_unit(value, unit) == shown
