"""`t2i models`: what --model can name."""

from pathlib import Path

import typer

from t2i.cli.answer import Format, print_json, print_rows


def models(format: Format = "text") -> None:
    """List the models that can be named: the embedded one, and those in the hub's local cache.

    Folders as diffusers saves them and single .safetensors checkpoints can be given by path.
    """
    from t2i.denoiser import hub
    from t2i.denoiser.folder import EMBEDDED, resolve

    found = [describe(name, resolve(name)) for name in EMBEDDED]
    found += [describe(name, folder) for name, folder in hub.cached().items()]
    if format == "json":
        print_json({"models": found})
        return
    for model in found:
        typer.echo(model["name"])
        print_rows({f"  {key}": model[key] for key in ("summary", "size", "path")})


def describe(name: str, folder: Path) -> dict[str, object]:
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    card = folder / "README.md"
    return {
        "name": name,
        "summary": summary(card.read_text(encoding="utf-8")) if card.exists() else "",
        "size": f"{size / 1e6:.1f} MB",
        "bytes": size,
        "path": str(folder),
    }


def summary(card: str) -> str:
    """The first paragraph of a model card, below its front matter and its title."""
    body = card.split("\n---\n", 1)[-1] if card.startswith("---\n") else card
    paragraphs = (part.strip() for part in body.split("\n\n"))
    said = (part for part in paragraphs if part and not part.startswith(("#", "!", "---")))
    return " ".join(next(said, "").split())
