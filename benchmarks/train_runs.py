"""The runs that `benchmarks/train.py` compares: the same training as a command of either side."""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks.train_folder import Shape, write_model, write_pictures

REPO = Path(__file__).resolve().parent.parent
SCRIPTS = {"full": "train_text_to_image.py", "lora": "train_text_to_image_lora.py"}
SIDES = ("theirs", "ours", "cached")
RATE, RANK = 1e-4, 4

Method = Literal["full", "lora"]


@dataclass(frozen=True, slots=True)
class Setting:
    """What all runs share.

    folder : where the model, the pictures and the results lie
    """

    folder: Path
    scripts: Path
    shape: Shape
    precision: str
    device: str
    threads: int

    @property
    def model(self) -> Path:
        return self.folder / "model"

    @property
    def pictures(self) -> Path:
        return self.folder / "pictures"

    def asked(self) -> dict[str, Any]:
        """What a result says of it."""
        return {
            "resolution": self.shape.resolution,
            "batch": self.shape.batch,
            "precision": self.precision,
            "device": self.device,
            "threads": self.threads,
        }

    def prepare(self, pictures: int) -> dict[str, int]:
        """Make the model and the pictures; how many weights the model's parts have."""
        write_pictures(self.pictures, pictures, self.shape.resolution)
        return write_model(self.shape, self.model)


@dataclass(frozen=True, slots=True)
class Run:
    """One run: who trains what, for how many steps, into which folder."""

    side: str
    method: Method
    steps: int
    out: Path
    checkpoint_every: int = 1_000_000


def command_of(run: Run, setting: Setting, *, resume: bool = False) -> list[str]:
    """What a user would type, without the program's own name."""
    if run.side != "theirs":
        config = run.out / "run.toml"
        config.parent.mkdir(parents=True, exist_ok=True)
        config.write_text(config_of(run, setting), "utf-8")
        return ["t2i", "train", str(config), "--out", str(run.out)]
    words: dict[str, Any] = {
        "pretrained_model_name_or_path": setting.model,
        "train_data_dir": setting.pictures,
        "cache_dir": setting.folder / "datasets",
        "resolution": setting.shape.resolution,
        "train_batch_size": setting.shape.batch,
        "max_train_steps": run.steps,
        "learning_rate": RATE,
        "mixed_precision": setting.precision,
        "checkpointing_steps": run.checkpoint_every,
        "seed": 0,
        "output_dir": run.out,
    }
    if run.method == "lora":
        words["rank"] = RANK
    if resume:
        words["resume_from_checkpoint"] = "latest"
    given = [word for key, value in words.items() for word in (f"--{key}", str(value))]
    return [str(setting.scripts / SCRIPTS[run.method]), *given, "--center_crop"]


def config_of(run: Run, setting: Setting) -> str:
    parts = {"full": "", "lora": f"rank = {RANK}\nalpha = {RANK}"}
    cached = json.dumps(run.side == "cached")
    return f"""
seed = 0
[target]
kind = "finetune"
base = {json.dumps(str(setting.model))}
caption_dropout = 0.0
[[target.parts]]
method = "{run.method}"
{parts[run.method]}
[data]
kind = "pictures"
folder = {json.dumps(str(setting.pictures))}
size = {setting.shape.resolution}
buckets = false
[cache]
latents = {cached}
texts = {cached}
folder = {json.dumps(str(setting.folder / "cache"))}
[train]
steps = {run.steps}
batch_size = {setting.shape.batch}
precision = "{setting.precision}"
checkpoint_every = {run.checkpoint_every}
tensorboard = true
[optimizer]
learning_rate = {RATE}
[ema]
kind = "none"
"""


def measure(
    run: Run, setting: Setting, *, resume: bool = False, watch: str = "steps"
) -> dict[str, float]:
    """One run in a process of its own. Exits with what it said where it fails."""
    note = setting.folder / "note.json"
    note.unlink(missing_ok=True)
    words = command_of(run, setting, resume=resume)
    settings = {
        "OMP_NUM_THREADS": str(setting.threads),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_CACHE": str(setting.folder / "datasets"),
    }
    if setting.device == "cpu":
        settings["CUDA_VISIBLE_DEVICES"] = ""
    driver = [sys.executable, "-W", "ignore", "-m", "benchmarks.train_side"]
    done = subprocess.run(
        [*driver, str(time.time()), str(note), watch, *words],
        cwd=REPO,
        env=os.environ | settings,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode or not note.exists():
        raise SystemExit(f"{' '.join(words)} failed:\n{done.stderr[-3000:]}")
    figures: dict[str, float] = json.loads(note.read_text())
    return figures
