"""`python -m train.publish RUN FOLDER`: publish the model of a finished run.

Copies the model and writes its card, its loss curve, and a sheet of the run's own prompts and
seeds, of which no picture is left out.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from PIL import Image, ImageDraw

from pipelines.text_to_image import TextToImagePipeline
from t2i.atomic_folders import atomic_folder
from t2i.denoiser.loading.model_location import MODEL_NOTES_FILE
from t2i.errors import OutputError, T2IError, TrainingError
from t2i.pictures import save_picture
from t2i.safe_reading import (
    RUN_FILE_KIND,
    UntrustedFileKind,
    parse_json,
    read_bounded,
    read_json,
    read_text,
)
from t2i.terminal import plural, print_note_to_stderr
from train.export import export_vae
from train.loop import MODEL_FOLDER
from train.reporting.sample_sheets import SamplesConfig, draw_sample_sheet, generate_prompt_images

CARD_TEXT_KIND = UntrustedFileKind("text", 4_000_000)
MODEL_CARD_TEMPLATE = """# The embedded model of t2i

{prose}

## What it was asked, and what it drew

Fixed prompts, fixed seeds (0, 1, 2, ...), one picture each, none left out: `samples.png`.

![samples](samples.png)

## How it was made

From scratch, by the loop in `train/`:

{stages}

Weights are the exponential moving average, in fp16. `t2i.json` holds the whole configuration and
the sampling defaults.

![loss](loss.png)

| part | class | parameters |
|---|---|---|
{parts}

## Licence

Apache-2.0. Trained only on pictures composed of Microsoft's Fluent Emoji (MIT), which
`t2i/assets/scenes` ships.
"""


def write_model_with_card(run: Path, folder: Path, prose: str, vae: Path | None = None) -> None:
    """Publish a finished run: write model, sample sheet, loss curve and model card into
    `folder`, completely or not at all.

    vae : folder of an autoencoder with a further trained decoder, in place of the run's

    Raises TrainingError for a run that is not finished, OutputError for a folder that holds
    something other than a model.
    """
    notes = read_final_model_notes(run)
    if folder.exists() and not (folder / "model_index.json").is_file():
        raise OutputError(f"{folder} exists and holds no model: choose another folder.")
    with atomic_folder(folder) as new:
        shutil.copytree(run / MODEL_FOLDER, new, dirs_exist_ok=True)
        if vae is not None:
            refined = AutoencoderTiny.from_pretrained(vae, use_safetensors=True)
            export_vae(refined.to(torch.float16), new / "vae")
        pipe = TextToImagePipeline.from_pretrained(new)
        asked = SamplesConfig.model_validate(notes["trained"]["config"]["samples"])
        save_picture(
            draw_sample_sheet(generate_prompt_images(pipe, asked), asked.columns),
            new / "samples.png",
        )
        save_picture(draw_loss_plot(read_losses(run / "log.jsonl")), new / "loss.png")
        runs = [*list_ancestor_runs(run), run, *([vae.parent] if vae else [])]
        stages = [*list_inherited_stages(runs), *map(format_stage_line, runs)]
        (new / MODEL_NOTES_FILE).write_text(
            json.dumps(notes | {"stages": stages}, indent=1) + "\n", "utf-8"
        )
        (new / "README.md").write_text(format_model_card(pipe, stages, prose), "utf-8")


def read_final_model_notes(run: Path) -> dict[str, Any]:
    """Read the t2i.json of a run's final model. Raises TrainingError for an unfinished run."""
    try:
        notes: dict[str, Any] = parse_json(
            read_bounded(run / MODEL_FOLDER / MODEL_NOTES_FILE, RUN_FILE_KIND.max_bytes)
        )
        asked = parse_json(read_bounded(run / "config.json", RUN_FILE_KIND.max_bytes))["train"][
            "steps"
        ]
    except FileNotFoundError as error:
        raise TrainingError(
            f"No finished model in {run} ({error.filename} is missing): train it to its last step."
        ) from error
    if notes["trained"]["steps"] != asked:
        raise TrainingError(
            f"The model in {run} is of step {notes['trained']['steps']}, but the run goes on to "
            f"step {asked}: train it to its last step."
        )
    return notes


def list_ancestor_runs(run: Path) -> list[Path]:
    """List the earlier runs that trained the weights which this run started from, oldest first."""
    parts = list_starting_weight_folders(run)
    parents = [part.parent if part.name == MODEL_FOLDER else part.parent.parent for part in parts]
    runs = [path.resolve() for path in parents if (path / "log.jsonl").is_file()]
    return list(dict.fromkeys(one for path in runs for one in (*list_ancestor_runs(path), path)))


def list_inherited_stages(runs: list[Path]) -> list[str]:
    """Return the lines that describe earlier training stages, from the notes of the published
    models whose parts these runs started from.
    """
    models = dict.fromkeys(
        part.parent for run in runs for part in list_starting_weight_folders(run)
    )
    found = [
        read_json(path, RUN_FILE_KIND)
        for one in models
        if (path := one / MODEL_NOTES_FILE).is_file()
    ]
    return [line for notes in found for line in notes.get("stages", ())]


def list_starting_weight_folders(run: Path) -> list[Path]:
    """List the folders of trained weights (VAE, UNet, text encoder) that a run started from."""
    target = read_json(run / "config.json", RUN_FILE_KIND)["target"]
    return [Path(target[name]) for name in ("vae", "unet", "text_encoder") if target.get(name)]


def read_losses(log: Path) -> list[tuple[int, float]]:
    """Read the steps and losses of a training run's `log.jsonl`."""
    lines = [
        parse_json(line)
        for line in read_text(log, RUN_FILE_KIND.copy_with_noun("log")).splitlines()
    ]
    return [(line["step"], line["loss"]) for line in lines if line.get("loss") is not None]


def draw_loss_plot(losses: list[tuple[int, float]], window: int = 10) -> Image.Image:
    """Plot losses against steps: logged values as dots, the running mean of `window` as a line."""
    width, height, margin = 720, 320, 48
    picture = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(picture)
    last = losses[-1][0]
    top = 1.05 * sorted(loss for _, loss in losses)[int(0.98 * (len(losses) - 1))]

    def at(step: float, loss: float) -> tuple[float, float]:
        x = margin + (width - 2 * margin) * step / last
        return x, height - margin - (height - 2 * margin) * min(loss / top, 1.0)

    for part in range(5):
        share = part / 4
        pen.line([at(0, top * share), at(last, top * share)], fill="#dddddd")
        pen.text((6, at(0, top * share)[1] - 6), f"{top * share:.3f}", fill="#444444")
        pen.text(
            (at(last * share, 0)[0] - 12, height - margin + 8),
            str(int(last * share)),
            fill="#444444",
        )
    for step, loss in losses:
        x, y = at(step, loss)
        pen.ellipse([x - 1, y - 1, x + 1, y + 1], fill="#b9cdea")
    means = [
        (
            losses[i][0],
            sum(loss for _, loss in losses[max(0, i - window + 1) : i + 1]) / min(i + 1, window),
        )
        for i in range(len(losses))
    ]
    pen.line([at(*point) for point in means], fill="#1f4e9c", width=2)
    pen.text((margin, 12), "training loss (line: running mean) against step", fill="#222222")
    return picture


def format_model_card(pipe: TextToImagePipeline, stages: list[str], prose: str) -> str:
    """Return the Markdown of a model's card."""
    parts = {name: getattr(pipe, name) for name in ("unet", "text_encoder", "vae")}
    return MODEL_CARD_TEMPLATE.format(
        prose=prose.strip(),
        stages="\n".join(f"- {line}" for line in stages),
        parts="\n".join(
            f"| {name} | {type(part).__name__} | {sum(p.numel() for p in part.parameters()):,} |"
            for name, part in parts.items()
        ),
    )


def format_stage_line(run: Path) -> str:
    """Describe a run in one line of a model card: what it trained, its steps and batch size, its
    last loss.
    """
    config = read_json(run / "config.json", RUN_FILE_KIND)
    steps, loss = read_losses(run / "log.jsonl")[-1]
    train, target = config["train"], config["target"]
    what = target["kind"]
    if what == "denoiser":
        objective = config["objective"]
        zero = " with zero terminal SNR" if objective["zero_terminal_snr"] else ""
        encoder = " and text encoder" if target.get("train_text_encoder", True) else ""
        what += f"{encoder} ({objective['prediction']}, {objective['beta_schedule']}{zero})"
    elif not target.get("train_encoder", True):
        what += ", its decoder alone"
    crop = target.get("crop")
    read = f"crops of {crop} pixels" if crop else "pictures"
    return f"{what}: {plural(steps, 'step')} of {train['batch_size']} {read}, last loss {loss:.4f}"


def main() -> None:
    """Parse the command line of the publishing script and publish a finished training run: model,
    samples, loss curve and card.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="folder of the run, such as runs/embedded")
    parser.add_argument("folder", type=Path, help="where the model goes; replaced")
    parser.add_argument("--prose", type=Path, help="Markdown that the card opens with")
    parser.add_argument("--vae", type=Path, help="an autoencoder with a further trained decoder")
    given = parser.parse_args()
    prose = read_text(given.prose, CARD_TEXT_KIND) if given.prose else ""
    try:
        write_model_with_card(given.run, given.folder, prose, given.vae)
    except T2IError as error:
        print_note_to_stderr(f"{type(error).__name__}: {error}")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
