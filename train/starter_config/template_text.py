"""The text of a starter config: pieces with their values, and hints over them."""

import json
import re
from importlib import resources
from os.path import expanduser
from pathlib import Path
from string import Template

from train.starter_config.template_values import TemplateValue


def build_template_piece_lines(
    piece: str,
    values: dict[str, TemplateValue],
    blocks: dict[str, list[str]],
    others: dict[str, dict[str, TemplateValue]],
) -> list[str]:
    """Fill one piece of the starter config's template with values and return its lines.

    The name of a block is replaced by the lines of that block.
    """
    texts = {key: format_toml_literal(value) for key, value in values.items()}
    texts |= {"initial": "".join(blocks["initial"]), "class_phrase": str(values["class_phrase"])}
    lines: list[str] = []
    for line in piece.splitlines():
        if line[:1] == "$" and line[1:] in blocks:
            lines += blocks[line[1:]]
            continue
        key = next(iter(re.findall(r"= \$(\w+)$", line)), "")
        if line[:1] != "#" and (others_text := format_values_of_other_models(key, values, others)):
            lines.append(f"# ({others_text})")
        lines.append(Template(line).substitute(texts))
    return lines


def format_values_of_other_models(
    key: str, values: dict[str, TemplateValue], others: dict[str, dict[str, TemplateValue]]
) -> str:
    """Format, for a comment, which values a key has for the other base models, grouped by value."""
    names: dict[str, list[str]] = {}
    for name, row in others.items():
        if key in row and row[key] != values[key]:
            names.setdefault(format_toml_literal(row[key]), []).append(name)
    return ", ".join(f"{' and '.join(who)}: {value}" for value, who in names.items())


def format_toml_literal(value: TemplateValue) -> str:
    """Format a value as a TOML literal, long lists on several lines."""
    if isinstance(value, float) and value < 0.01:
        mantissa, exponent = f"{value:e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    if isinstance(value, list) and sum(map(len, value)) > 60:
        return "[\n" + "".join(f"  {format_toml_literal(one)},\n" for one in value) + "]"
    return json.dumps(value, ensure_ascii=False)


def format_path_relative_if_below(beside: Path, place: str) -> str:
    """Format a path relative to the folder `beside` if it lies below it, else as absolute."""
    path, base = Path(expanduser(place)).resolve(), beside.resolve()
    return path.relative_to(base).as_posix() or "." if path.is_relative_to(base) else str(path)


def load_template_pieces() -> dict[str, str]:
    """Load the template pieces that starter configs are composed of, by name."""
    text = resources.files("t2i").joinpath("assets", "train", "pieces.toml").read_text("utf-8")
    parts = re.split(r"^#:: (.+)\n", text, flags=re.MULTILINE)[1:]
    return {name: body.strip() for name, body in zip(parts[::2], parts[1::2], strict=True)}
