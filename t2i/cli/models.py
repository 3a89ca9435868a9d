"""`t2i models`: what --model can name."""

from pathlib import Path

import typer

from t2i.cli.answer import Format, print_json, print_rows
from t2i.reading import regular

LONGEST_CARD = 64_000
"""Bytes of a model card that are looked at; its first paragraph is what is shown."""


def models(format: Format = "text") -> None:
    """List the models that can be named: the embedded one, and those in the hub's local cache.

    Folders as diffusers saves them and single .safetensors checkpoints can be given by path.
    """
    from t2i.denoiser import hub
    from t2i.denoiser.address import EMBEDDED

    found = [describe(name, folder) for name, folder in EMBEDDED.items() if folder.is_dir()]
    found += [describe(name, folder) for name, folder in hub.cached().items()]
    if format == "json":
        print_json({"models": found})
        return
    for model in found:
        typer.echo(model["name"])
        print_rows({f"  {key}": model[key] for key in ("summary", "size", "path")})


def describe(name: str, folder: Path) -> dict[str, object]:
    size = sum(map(size_of, folder.rglob("*")))
    return {
        "name": name,
        "summary": summary(start_of(folder / "README.md")),
        "size": f"{size / 1e6:.1f} MB",
        "bytes": size,
        "path": str(folder),
    }


def size_of(path: Path) -> int:
    """Bytes of a file; none of what is not one, or cannot be looked at."""
    try:
        return path.stat().st_size if path.is_file() else 0
    except OSError:
        return 0


def start_of(card: Path) -> str:
    """The beginning of a text that anybody may have written in any encoding; "" without one."""
    try:
        with regular(card) as file:
            return file.read(LONGEST_CARD).decode("utf-8", errors="replace")
    except OSError:
        return ""


def summary(card: str) -> str:
    """The first paragraph of a model card, below its front matter and its title."""
    body = card.split("\n---\n", 1)[-1] if card.startswith("---\n") else card
    paragraphs = (part.strip() for part in body.split("\n\n"))
    said = (part for part in paragraphs if part and not part.startswith(("#", "!", "---")))
    return " ".join(next(said, "").split())
