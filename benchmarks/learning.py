"""Whether a fine-tune learns: eight pictures of a thing that the embedded model has never seen.

python -m benchmarks.learning RUNS [--threads 1] [--only NAME ...]
    [--out benchmarks/results/learning.json] [--picture docs/images/learning.webp]

Every run is the configuration that `t2i train --init METHOD` writes, on the CPU. What comes of it
is judged by the recogniser, which knows the thing. The same command goes on where it was stopped:
runs and pictures that are in RUNS count.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks.machine import collect_environment_info, settle, write_result
from pipelines.text_to_image import TextToImagePipeline
from t2i.adapters import MODEL_PARTS, add_lora, read_all_learned_words, read_lora
from t2i.atomic_files import write_atomically
from t2i.pictures import FORMAT_BY_SUFFIX, build_picture_grid, open_picture, save_picture
from t2i.scenes.layout import paste_sprite_and_update_masks, render_background
from t2i.scenes.recognised_objects import Recognition
from t2i.scenes.recogniser import Recogniser
from t2i.scenes.sprites import (
    BACKGROUND_COLOURS,
    list_contrasting_backgrounds,
    load_premultiplied_sprite,
)
from train.starter_config.options import StarterConfigOptions
from train.starter_config.starter_config import write_starter_config

THING, KIND, WORD = "whale", "fish", "sks"
SIZE, COUNT = 128, 8
BASE = "base"
STEPS, GUIDANCE = 10, 3.0
KEPT = {f"a {KIND}": 16, "a cat": 8, "an apple": 8}
"""How many pictures are drawn of what is to stay as it is; of the thing it is ASKED."""
ASKED = 32
AT_ONCE = 16
COLUMNS, CELL, QUALITY = 5, 72, 50
"""Of the picture of what came of it."""


@dataclass(frozen=True, slots=True)
class Trial:
    """told : how captions name the thing. asked : the prompt that is to draw it
    kept : whether pictures of other things are drawn too, to see what became of them
    behind : the one background of all eight pictures, which their captions do not name
    masked : whether the pictures have masks of the thing
    settings : values in place of those that `--init` writes
    """

    method: str
    told: str
    asked: str
    word: str = WORD
    kept: bool = False
    behind: str | None = None
    masked: bool = False
    settings: tuple[str, ...] = ()

    @property
    def asked_and_counts(self) -> dict[str, int]:
        """The prompts that are to draw the thing, and how many pictures of each are drawn."""
        if self.behind is None:
            return {self.asked: ASKED}
        return {f"{self.asked} on a {name} background": ASKED // len(OTHERS) for name in OTHERS}


NAMED, WRONG = f"a {WORD} {KIND}", "a cat"
NAMES = (KIND, "cat", "apple")
PRESERVED = [
    f"a {name}" for name in (KIND, "cat", "dog", "tree", "car", "star", "house", "balloon")
]
"""Captions for which a run is held to the base model; "an apple" is not among them."""
BEHIND, OTHERS = "yellow", ("white", "green", "orange", "purple")
"""The background of pictures that all have the same, and those that are then asked for."""
TRIALS = {
    "lora": Trial("lora", NAMED, NAMED, kept=True),
    "preserved": Trial(
        "lora",
        NAMED,
        NAMED,
        kept=True,
        settings=(
            "target.preserve_weight=1",
            f'target.preserve_words={{"{WORD} {KIND}"="{KIND}"}}',
        ),
    ),
    "preserved-more": Trial(
        "lora",
        NAMED,
        NAMED,
        kept=True,
        settings=("target.preserve_weight=1", f"target.preserve_captions={json.dumps(PRESERVED)}"),
    ),
    "one-background": Trial("lora", NAMED, NAMED, kept=True, behind=BEHIND),
    "one-background-masked": Trial("lora", NAMED, NAMED, kept=True, behind=BEHIND, masked=True),
    "one-background-supervised": Trial(
        "lora",
        NAMED,
        NAMED,
        kept=True,
        behind=BEHIND,
        masked=True,
        settings=("target.attention_weight=0.1", f"data.masked_word={NAMED[2:]}"),
    ),
    "dreambooth-lora": Trial("dreambooth-lora", NAMED, NAMED, kept=True),
    "wrong-captions": Trial("dreambooth-lora", WRONG, NAMED),
    "textual-inversion": Trial("textual-inversion", f"a <{THING}>", f"a <{THING}>", f"<{THING}>"),
    "pivotal": Trial("pivotal", f"a <{THING}>", f"a <{THING}>", f"<{THING}>"),
    "dreambooth": Trial("dreambooth", NAMED, NAMED, kept=True),
}


def compose(
    seed: int, count: int, behind: str | None = None
) -> list[tuple[Image.Image, str, Image.Image]]:
    """The thing at other places, in other sizes, before other backgrounds or this one; which, and
    the mask of the thing.
    """
    rng = np.random.Generator(np.random.Philox(seed))
    backgrounds = sorted(list_contrasting_backgrounds(THING, None))
    order = rng.permutation(len(backgrounds))
    made = []
    for number in range(count):
        background = behind or backgrounds[order[number % len(backgrounds)]]
        pixels = render_background(BACKGROUND_COLOURS[background], 0, "down", SIZE)
        side = float(rng.uniform(0.5, 0.8))
        centre = (
            float(rng.uniform(side / 2, 1 - side / 2)),
            float(rng.uniform(side / 2, 1 - side / 2)),
        )
        masks: list[NDArray[np.bool_]] = []
        paste_sprite_and_update_masks(
            pixels, masks, load_premultiplied_sprite(THING, None), side, centre
        )
        made.append((Image.fromarray(pixels), background, Image.fromarray(masks[0])))
    return made


def write_pictures(folder: Path, trial: Trial) -> Path:
    (folder / "masks" if trial.masked else folder).mkdir(parents=True, exist_ok=True)
    for number, (picture, background, mask) in enumerate(compose(7, COUNT, trial.behind)):
        picture.save(folder / f"{number}.png")
        if trial.masked:
            mask.save(folder / "masks" / f"{number}.png")
        named = trial.told != WRONG and trial.behind is None
        text = f"{trial.told} on a {background} background" if named else trial.told
        (folder / f"{number}.txt").write_text(text + "\n")
    return folder


def train(name: str, runs: Path, threads: int) -> Path:
    """The run's folder, finished; beside it how long that took, class pictures included."""
    trial, out = TRIALS[name], runs / name
    if (out / "model").exists():
        return out
    folder = write_pictures(runs / f"pictures-{name}", trial)
    config = runs / f"{name}.toml"
    config.unlink(missing_ok=True)
    write_starter_config(
        StarterConfigOptions(trial.method, folder, word=trial.word, kind=KIND), config
    )
    command = [sys.executable, "-m", "train", str(config), "--out", str(out)]
    command += ["--set", "samples.every=0", "--set", "train.device=cpu"]
    for setting in trial.settings:
        command += ["--set", setting]
    if trial.told == WRONG:
        command += ["--set", "data.trigger="]  # it is told nothing but its captions
    if "dreambooth" in trial.method:
        command += ["--set", f"prior.folder={(runs / 'class').resolve()}"]
    wall, used = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": str(threads)})
    took = {
        "seconds": round(time.perf_counter() - wall),
        "cpu_seconds": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - used),
    }
    (out / "took.json").write_text(json.dumps(took))
    return out


def load(model: Path | None) -> TextToImagePipeline:
    """The embedded model under what a run left, or as it is."""
    whole = model is not None and (model / "model_index.json").is_file()
    pipe = TextToImagePipeline.from_pretrained(str(model) if whole else "embedded")
    pipe.set_progress_bar_config(disable=True)  # type: ignore[no-untyped-call]
    if model is None:
        return pipe
    if (model / "lora.safetensors").is_file():
        lora = read_lora(model / "lora.safetensors", layers_per_block=1)
        add_lora({part: getattr(pipe, part, None) for part in MODEL_PARTS}, lora, "lora", 1.0)
    for path in sorted(model.glob("*.safetensors")):
        if "lora" not in path.stem and "kohya" not in path.stem:
            for word in read_all_learned_words(path):
                vectors = word.vectors["text_encoder"]
                pipe.load_textual_inversion({word.token: vectors}, token=word.token)
    return pipe


def draw(model: Path | None, folder: Path, wanted: dict[str, int]) -> dict[str, list[Image.Image]]:
    """Pictures of each prompt, of the seeds 0, 1, 2, ..., none left out; kept in the folder."""
    pipe: TextToImagePipeline | None = None
    drawn: dict[str, list[Image.Image]] = {}
    for prompt, count in wanted.items():
        paths = [folder / prompt.replace(" ", "-") / f"{seed}.png" for seed in range(count)]
        for start in range(0, count, AT_ONCE):
            seeds = range(start, min(start + AT_ONCE, count))
            if all(paths[seed].is_file() for seed in seeds):
                continue
            pipe = pipe or load(model)
            pictures = pipe(
                [prompt] * len(seeds),
                num_inference_steps=STEPS,
                guidance_scale=GUIDANCE,
                generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            ).images
            for seed, picture in zip(seeds, pictures, strict=True):
                save_picture(picture, paths[seed])
        drawn[prompt] = [open_picture(path) for path in paths]
    return drawn


def features(seen: list[Recognition]) -> NDArray[np.float64]:
    return np.stack([one.mean_features for one in seen]).astype(np.float64)


def nearest(
    pictures: NDArray[np.float64], shown: NDArray[np.float64], middle: NDArray[np.float64]
) -> float:
    """Mean over the pictures of the cosine to the most similar of those that were shown."""
    here, there = pictures - middle, shown - middle
    here /= np.linalg.norm(here, axis=1, keepdims=True)
    there /= np.linalg.norm(there, axis=1, keepdims=True)
    return round(float((here @ there.T).max(axis=1).mean()), 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="*", default=list(TRIALS), choices=list(TRIALS))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    settle(options.threads)
    options.runs.mkdir(parents=True, exist_ok=True)
    drawn: dict[str, dict[str, list[Image.Image]]] = {}
    for name in options.only:
        model = train(name, options.runs, options.threads) / "model"
        wanted = TRIALS[name].asked_and_counts | (KEPT if TRIALS[name].kept else {})
        drawn[name] = draw(model, options.runs / "drawn" / name, wanted)
    asked = {p: count for n in options.only for p, count in TRIALS[n].asked_and_counts.items()}
    drawn = {BASE: draw(None, options.runs / "drawn" / BASE, asked | KEPT), **drawn}

    # what is in them, and how near they are to the eight, seen from the middle of the base
    recogniser = Recogniser.load()
    seen = {n: {p: recogniser.recognise(ps) for p, ps in all_.items()} for n, all_ in drawn.items()}
    shown = recogniser.recognise([picture for picture, _, _ in compose(7, COUNT)])
    fresh = recogniser.recognise([picture for picture, _, _ in compose(8, ASKED)])
    middle = features([one for looks in seen[BASE].values() for one in looks]).mean(axis=0)
    result = {
        "thing": THING,
        "pictures": COUNT,
        "fresh pictures of the thing": judged(fresh, shown, middle, f"a {THING}"),
        **{
            name: {p: judged(looks, shown, middle, p) for p, looks in all_.items()}
            for name, all_ in seen.items()
        },
        "took": {
            name: json.loads((options.runs / name / "took.json").read_text())
            for name in options.only
        },
        "machine": collect_environment_info(),
    }
    print(json.dumps(result, indent=1))
    if options.out is not None:
        write_result(options.out, result)
    if options.picture is not None:
        save_rows(drawn, options.picture)


def judged(
    seen: list[Recognition], shown: list[Recognition], middle: NDArray[np.float64], prompt: str
) -> dict[str, float]:
    """How often the thing, and what the prompt names, is found; and the nearness to the eight."""
    names = dict.fromkeys([THING, *(name for name in NAMES if name in prompt.split())])
    found = {f"{n} found": sum(n in one.objects for one in seen) / len(seen) for n in names}
    for name in (n for n in BACKGROUND_COLOURS if f"on a {n} background" in prompt):
        found["background right"] = sum(one.background == name for one in seen) / len(seen)
    return found | {"nearest": nearest(features(seen), features(shown), middle)}


def save_rows(drawn: dict[str, dict[str, list[Image.Image]]], path: Path) -> None:
    """What was shown, then the first pictures of the thing and of its class, run by run; where
    there is one background, only of the last of the others.
    """
    rows = {f"of the {COUNT} pictures": [picture for picture, _, _ in compose(7, COUNT)]}
    for name, prompts in drawn.items():
        for prompt in prompts:
            varied = name == BASE or TRIALS[name].behind is None
            last = f"on a {OTHERS[-1]} background" in prompt
            if last or (varied and prompt in (NAMED, f"a <{THING}>", f"a {KIND}")):
                rows[f"{name}: {prompt}"] = prompts[prompt]
    pictures = [picture for row in rows.values() for picture in row[:COLUMNS]]
    labels = [text for name in rows for text in (name, *[""] * (COLUMNS - 1))]
    page = build_picture_grid(pictures, labels, COLUMNS, cell=CELL)
    form = FORMAT_BY_SUFFIX[path.suffix.lower()]
    write_atomically(path, lambda part: page.save(part, format=form, quality=QUALITY))


if __name__ == "__main__":
    main()
