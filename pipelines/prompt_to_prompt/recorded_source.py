"""A source's run, taken down once, so that its later edits need no pass for the source.

Of every step: the latents, and at each site what the source asked with and what it looked at. That
is all that edits of a target read of the source.

N heads, Q query positions, K key positions, E width of a head, C channels, H W latent size,
Y X picture size.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from pipelines.prompt_to_prompt.automatic_edits import said
from pipelines.prompt_to_prompt.recording import BEGUN, ENDED, MANIFEST, Steps, name_of, read_file
from pipelines.run.run_facts import Facts, prompt_facts
from t2i.atomic_folders import recover
from t2i.attention.compute.recorded_rows import RecordedRow
from t2i.attention.edits.base.edit import Edit
from t2i.attention.edits.local_blend import LocalBlend
from t2i.attention.edits.refine import Refine
from t2i.attention.edits.replace import Replace
from t2i.attention.edits.reweight import Reweight
from t2i.attention.edits.self_replace import SelfReplace
from t2i.errors import ArgumentError, DataError
from t2i.safe_reading import RUN, open_regular, parse_json, read_bounded
from t2i.text.prompt import Prompt
from t2i.text.token_layout import EncoderInput

VERSION = 2
FOLLOWING = (Replace, Refine, Reweight, SelfReplace, LocalBlend)
"""Edits that need no more of their source than what is kept."""


@dataclass(slots=True)
class RecordedSource:
    """What PromptEditPipeline.remember gives: hand it to the pipeline in the place of the source.

    facts : what it was made of: model, prompt, sampler and so on; an edit of it takes them over
    state : of the generator, before anything was drawn
    noise : that it began from, if that was not drawn
    pixels : (1, 3, Y, X) in -1..1
    """

    prompt: str | Prompt
    facts: Facts
    steps: Steps
    state: Tensor
    noise: Tensor | None
    latents: Tensor
    pixels: Tensor

    @property
    def image(self) -> Image.Image:
        """The source's picture."""
        pixels_YX3 = ((self.pixels[0].float() / 2 + 0.5).clamp(0, 1) * 255).round()
        return Image.fromarray(pixels_YX3.permute(1, 2, 0).to(torch.uint8).cpu().numpy())

    @property
    def bytes(self) -> int:
        """Of its steps, in memory or on disk."""
        return self.steps.bytes

    # what a session asks (t2i.attention.compute.recorded_rows.Source)

    def prompt_at(self, step: int) -> EncoderInput:
        turns, asked = self.steps.count, self.facts["num_inference_steps"]
        return said(self.prompt, step * asked // turns, asked)

    def recorded_row(self, site: str, step: int) -> RecordedRow | None:
        tensors = self.steps[step]
        if f"{site}/query" not in tensors:
            return None
        return RecordedRow(
            tensors[f"{site}/query"], tensors[f"{site}/key"], tensors.get(f"{site}/mask")
        )

    def latents_at(self, step: int) -> Tensor:
        return self.steps[step]["latents"]


def check_edits(edits: Sequence[Edit], kept: Facts) -> None:
    """Raise ArgumentError for an edit that needs more of the source than what is kept."""
    for edit in edits:
        if getattr(edit, "target", None) == 0:
            raise ArgumentError(
                f"{type(edit).__name__} has target=0, which is the remembered source: it is drawn "
                "already. The targets count from 1."
            )
        source = getattr(edit, "source", None)
        if edit.looks_ahead or (source == 0 and not isinstance(edit, FOLLOWING)):
            names = ", ".join(kind.__name__ for kind in FOLLOWING)
            raise ArgumentError(
                f"{type(edit).__name__} cannot follow a remembered source: only {names} can. Give "
                "the source as a prompt."
            )
        if isinstance(edit, SelfReplace):
            most = edit.max_positions
            if most is None or most > kept["max_positions"]:
                raise ArgumentError(
                    f"SelfReplace has max_positions={most}, and of this source sites of at most "
                    f"{kept['max_positions']} were kept: lower it, or remember the source with "
                    f"max_positions={most or 64 * 64}."
                )


def finish(kept: RecordedSource) -> None:
    """Write all but the steps, which are there."""
    folder = kept.steps.folder
    if folder is None:
        return
    noise = {} if kept.noise is None else {"noise": kept.noise.cpu().contiguous()}
    save_file({"state": kept.state, **noise}, folder / BEGUN)
    ended = {"latents": kept.latents, "pixels": kept.pixels}
    save_file({name: one.cpu().contiguous() for name, one in ended.items()}, folder / ENDED)
    prompt = prompt_facts(kept.prompt)
    steps = {"steps": kept.steps.count, "bytes": kept.steps.bytes}
    told = {"version": VERSION, "prompt": prompt, **steps, "facts": kept.facts}
    digests = {name: digest_of(folder / name) for name in names_of(kept.steps.count)}
    manifest = told | {"sha256": {**digests, MANIFEST: digest_of_told(told)}}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")


def names_of(steps: int) -> list[str]:
    """The files beside the manifest."""
    return [BEGUN, *map(name_of, range(steps)), ENDED]


def digest_of(path: Path) -> str:
    """Raises DataError for a file that cannot be read."""
    try:
        with open_regular(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror}.") from error


def digest_of_told(manifest: Mapping[str, object]) -> str:
    """Of all that a manifest says but the digests."""
    told = {key: value for key, value in manifest.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def load_remembered(folder: str | Path) -> RecordedSource:
    """A source that PromptEditPipeline.remember(..., folder=...) wrote.

    Raises DataError for a folder that is no such thing, and for one that has changed since by as
    little as a bit. Its steps are read as they are needed, and not checked again then.
    """
    folder = Path(folder)
    recover(folder)
    try:
        manifest = parse_json(read_bounded(folder / MANIFEST, RUN.most), lenient=True)
        if manifest["version"] != VERSION:
            raise DataError(
                f"{folder} is written in layout {manifest['version']}, this t2i reads {VERSION}: "
                "remember the source anew."
            )
        prompt = manifest["prompt"]
        text = prompt["text"] if len(prompt) == 1 else Prompt(**prompt)
        facts = dict(manifest["facts"])
        count, size = int(manifest["steps"]), int(manifest["bytes"])
        for name in ("num_inference_steps", "max_positions"):
            facts[name] = int(facts[name])
        digests = dict(manifest["sha256"])
        # First its own, so that no damaged number is counted to.
        check_digest(folder / MANIFEST, digests, digest_of_told(manifest))
        missing = [name for name in names_of(count) if not (folder / name).is_file()]
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise DataError(
            f"{folder} is no remembered source: {type(error).__name__}: {error}. Name the folder "
            "that was given to remember()."
        ) from error
    if missing:
        raise DataError(f"{folder} lacks {missing[0]}: remember the source anew.")
    for name in names_of(count):
        check_digest(folder / name, digests, digest_of(folder / name))
    begun, ended = read_file(folder / BEGUN), read_file(folder / ENDED)
    try:
        return RecordedSource(
            prompt=text,
            facts=facts,
            steps=Steps(folder, count=count, bytes=size),
            state=begun["state"],
            noise=begun.get("noise"),
            latents=ended["latents"],
            pixels=ended["pixels"],
        )
    except KeyError as error:
        raise DataError(f"{folder} lacks {error}: remember the source anew.") from error


def check_digest(path: Path, digests: Mapping[str, object], found: str) -> None:
    """Raise DataError for a file that is not as it was written."""
    if digests.get(path.name) != found:
        raise DataError(
            f"{path} has changed since it was written, or its disk has failed: "
            "remember the source anew."
        )


def check_no_noise(generator: object, latents: object) -> None:
    if generator is not None or latents is not None:
        raise ArgumentError(
            "Got generator or latents with a remembered source, which has the noise that it began "
            "from: leave them out, or remember the source anew."
        )


def restored(kept: RecordedSource, count: int) -> list[torch.Generator]:
    """The source's generator as it was at first, for each target."""
    generators = [torch.Generator(kept.facts["generator"]) for _ in range(count)]
    for generator in generators:
        generator.set_state(kept.state)
    return generators
