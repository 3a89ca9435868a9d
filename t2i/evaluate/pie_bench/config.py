"""Configuration of the part "pie_bench"."""

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from t2i.evaluate.pie_bench.mapping import MAPPING_FILE, PICTURES_FOLDER
from t2i.evaluate.pie_bench.metrics import METRICS, NEEDED_JUDGES, Metric
from t2i.evaluate.real.edit_methods import EditMethodConfig

WEIGHTS_HINTS = {
    "dino": 'dino = "FOLDER": DINO ViT-B/8, facebook/dino-vitb8 as transformers saves it',
    "clip": 'clip = "FOLDER": CLIP ViT-L/14, openai/clip-vit-large-patch14 as saved likewise',
    "lpips": 'lpips = "FILE": the state_dict of torchvision\'s SqueezeNet 1.1 as safetensors',
}
"""Judge -> how to name its weights in the TOML, for messages about missing ones."""


class PieBenchConfig(BaseModel):
    """Configuration of the part "pie_bench": where PIE-Bench and its judges are, and the methods.

    Neither the pictures nor the judges are part of t2i, and nothing is downloaded.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: str
    """With `mapping_file.json` and `annotation_images`."""
    dino: str | None = None
    clip: str | None = None
    lpips: str | None = None
    columns: tuple[Metric, ...] = Field(METRICS, min_length=1)
    seed: int = Field(0, ge=0)
    count: int | None = Field(None, ge=1)
    """Edits of each editing type, the first ones; by default all."""
    methods: tuple[EditMethodConfig, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _check_files(self) -> Self:
        folder = Path(self.folder)
        for name in (MAPPING_FILE, PICTURES_FOLDER):
            if not (folder / name).exists():
                raise ValueError(
                    f"{folder} is not PIE-Bench: {name} is missing. Its pictures are given out by "
                    "its authors, see https://github.com/cure-lab/PnPInversion"
                )
        labels = [method.label for method in self.methods]
        if len({*labels}) < len(labels):
            raise ValueError(f"Two methods have one label: {', '.join(labels)}")
        wanted = dict.fromkeys(NEEDED_JUDGES[c] for c in self.columns if c in NEEDED_JUDGES)
        missing = [judge for judge in wanted if not self.has_existing_judge_weights(judge)]
        if missing:
            without = [c for c in self.columns if NEEDED_JUDGES.get(c) not in missing]
            remedy = f"columns = {without}".replace("'", '"') if without else "other columns"
            raise ValueError(
                f"The weights of {' and '.join(missing)} are needed, and are not there. Give "
                f"{'; '.join(WEIGHTS_HINTS[judge] for judge in missing)}. Or do without: {remedy}"
            )
        return self

    def has_existing_judge_weights(self, judge: str) -> bool:
        """Return True if the path to a judge model's weights (DINO, CLIP or LPIPS) is configured
        and exists.
        """
        path: str | None = getattr(self, judge)
        return path is not None and Path(path).exists()
