"""`t2i models`: the models that --model can name, and the facts of one of them."""

from collections.abc import Mapping
from os.path import exists, expanduser
from pathlib import Path
from typing import Annotated

import typer

from t2i.cli.output import FormatOption, print_json, print_two_columns
from t2i.safe_reading import MODEL_CONFIG_KIND, open_regular_file, parse_json, read_bounded
from t2i.terminal import print_result_line

MAX_CARD_BYTES = 64_000
"""Bytes of a model card that are read; its first paragraph is printed."""


def list_models(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME]", help="One of them, or a folder or file: print all its facts."
        ),
    ] = None,
    format: FormatOption = "text",
) -> None:
    """List the models that are here: the embedded one, and those in the Hugging Face cache.

    With NAME, print the vocabulary, sampling defaults, size and digest of that one.

    Folders as diffusers saves them and single .safetensors checkpoints can be given by path.
    """
    from t2i.denoiser.loading import hub
    from t2i.denoiser.loading.model_location import EMBEDDED_MODELS

    here = {
        name: folder for name, folder in EMBEDDED_MODELS.items() if folder.is_dir()
    } | hub.list_cached_models()
    if name is not None:
        _print_model(name, here, as_json=format == "json")
        return
    found = [build_model_description(one, folder) for one, folder in here.items()]
    if format == "json":
        print_json({"models": found})
        return
    for model in found:
        print_result_line(model["name"])
        print_two_columns({f"  {key}": model[key] for key in ("summary", "size", "path")})


def _print_model(name: str, here: Mapping[str, Path], *, as_json: bool) -> None:
    from t2i.cli.prompt_checks.caption_vocabulary import ALL_WORDS_KEY, read_caption_vocabulary
    from t2i.cli.request.digests import compute_model_digest
    from t2i.cli.request.request import read_model_defaults
    from t2i.denoiser.presets import EXACT, read_model_presets

    folder = _find_local_model(name, here)
    known, defaults = read_caption_vocabulary(folder), read_model_defaults(folder)
    knows = {} if known is None else dict(known.words_by_kind)
    settings = {
        "steps": defaults.num_inference_steps,
        "guidance": defaults.guidance_scale,
        "sampler": defaults.sampler,
        "pixels": describe_native_image_size(folder),
    }
    presets = [EXACT, *read_model_presets(name, folder).by_name]
    facts = build_model_description(name, folder) | {"digest": compute_model_digest(folder)}
    if as_json:
        print_json(facts | settings | {"presets": presets, "knows": knows or None})
        return
    rows = {key: facts[key] for key in ("name", "summary", "size", "path", "digest")}
    rows |= {key: value for key, value in settings.items() if value is not None}
    rows["presets"] = ", ".join(presets)
    if not knows:
        rows["knows"] = "its vocabulary is not recorded"
    rows |= {kind: ", ".join(words) for kind, words in knows.items() if kind != ALL_WORDS_KEY}
    if knows:
        rows["all words"] = f"{len(knows[ALL_WORDS_KEY])}: {' '.join(knows[ALL_WORDS_KEY])}"
    print_two_columns({key: value for key, value in rows.items() if value != ""})


def _find_local_model(name: str, here: Mapping[str, Path]) -> Path:
    """Return the folder or file of a model on this machine, without downloading it.

    Raises ModelError for an unknown one.
    """
    from t2i.denoiser.loading.model_location import locate_model
    from t2i.errors import ModelError, suggest_choice

    if name in here:
        return here[name]
    if exists(expanduser(name)):
        return locate_model(name)
    raise ModelError(f"No model {name!r:.200} here. {suggest_choice(name, here)} All: t2i models")


def describe_native_image_size(folder: Path) -> str | None:
    """Return "WIDTHxHEIGHT", the image size in pixels that a diffusers model was made for, from the
    configs in its folder; None if they do not say.
    """
    try:
        unet, vae = (
            parse_json(
                read_bounded(folder / part / "config.json", MODEL_CONFIG_KIND.max_bytes),
                lenient=True,
            )
            for part in ("unet", "vae")
        )
        widths = vae.get("block_out_channels") or vae["encoder_block_out_channels"]
        side = int(unet["sample_size"]) * 2 ** (len(widths) - 1)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return f"{side}x{side}"


def build_model_description(name: str, folder: Path) -> dict[str, object]:
    """Return the name, model card summary, file size and path of a model on this machine as JSON
    data.
    """
    size = sum(map(_file_size, [folder] if folder.is_file() else folder.rglob("*")))
    return {
        "name": name,
        "summary": extract_model_card_summary(_read_card(folder / "README.md")),
        "size": f"{size / 1e6:.1f} MB",
        "bytes": size,
        "path": str(folder),
    }


def _file_size(path: Path) -> int:
    """Return the bytes of a file; 0 for what is no regular file or cannot be examined."""
    try:
        return path.stat().st_size if path.is_file() else 0
    except OSError:
        return 0


def _read_card(card: Path) -> str:
    """Return the beginning of a model card, in whatever encoding; "" without one."""
    try:
        with open_regular_file(card) as file:
            return file.read(MAX_CARD_BYTES).decode("utf-8", errors="replace")
    except OSError:
        return ""


def extract_model_card_summary(card: str) -> str:
    """Return the first paragraph of a model card, below its front matter and title."""
    body = card.split("\n---\n", 1)[-1] if card.startswith("---\n") else card
    paragraphs = (part.strip() for part in body.split("\n\n"))
    texts = (part for part in paragraphs if part and not part.startswith(("#", "!", "---")))
    return " ".join(next(texts, "").split())
