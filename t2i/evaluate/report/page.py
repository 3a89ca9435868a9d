"""Report as one HTML page without scripts or external resources, pictures embedded."""

import base64
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from t2i.evaluate.optional_imports import explaining_missing_extra
from t2i.evaluate.report.chapter import Chapter, Estimate, Gallery, Plot, Table
from t2i.evaluate.report.markdown import describe_result_origin
from t2i.evaluate.report.number_format import format_cell_with_unit, format_interval
from t2i.evaluate.report.plots import LINE_COLOURS, render_plot_as_svg
from t2i.pictures import open_picture
from t2i.safe_reading import PICTURE_KIND, read_bytes

TEMPLATE_FOLDER = Path(__file__).parents[2] / "assets" / "evaluate"
TEMPLATE_FILE = "page.html"
MAX_SHORT_SIDE, MAX_LONG_SIDE = 256, 1024
"""Largest shorter and longer side of an embedded picture, in pixels; the file has full size."""


def render_html_page(
    chapters: Sequence[Chapter], document: Mapping[str, Any], pictures: Path
) -> str:
    """Render a report as one HTML page with embedded pictures.

    document : the head of evaluation.json
    pictures : folder of the pictures of galleries
    """
    with explaining_missing_extra():
        import jinja2

    loader = jinja2.FileSystemLoader(TEMPLATE_FOLDER)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"with_unit": format_cell_with_unit, "interval": format_interval}
    environment.tests |= {
        "a_table": lambda block: isinstance(block, Table),
        "a_plot": lambda block: isinstance(block, Plot),
        "a_gallery": lambda block: isinstance(block, Gallery),
        "a_figure": lambda cell: isinstance(cell, Estimate),
    }
    head = {name: value for name, value in document.items() if name != "chapters"}
    return environment.get_template(TEMPLATE_FILE).render(
        chapters=chapters,
        document=document,
        details=json.dumps(head, indent=1, ensure_ascii=False),
        origin=describe_result_origin(document).replace("`", ""),
        colours=LINE_COLOURS,
        svg=render_plot_as_svg,
        embedded=lambda name: encode_picture_as_data_uri(pictures / name),
    )


def encode_picture_as_data_uri(path: Path) -> str:
    """Return a picture file as a data URI; large pictures are reduced."""
    picture = open_picture(path)
    times = min(MAX_SHORT_SIDE / min(picture.size), MAX_LONG_SIDE / max(picture.size))
    if times >= 1:
        data, kind = read_bytes(path, PICTURE_KIND), "png"
    else:
        width, height = (max(1, round(side * times)) for side in picture.size)
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
        stream = io.BytesIO()
        picture.save(stream, "WEBP", quality=90)
        data, kind = stream.getvalue(), "webp"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
