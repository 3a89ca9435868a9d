"""DreamBooth's class pictures: what the base model knows of the class keeps it so.

Ruiz et al. (2022), section 3.3, arXiv 2208.12242. They are drawn by `train.setup.class_pictures`.
"""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

PRIOR = "prior"
"""The folder of a run where they lie unless told otherwise."""


class PriorConfig(BaseModel):
    """Pictures of the class beside those of the thing; the base model draws what is missing."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: str = Field(min_length=1)
    """The class, such as "a mug": what they are drawn from, and their caption."""
    count: int = Field(100, ge=1)
    """How many there are to be, those that lie in the folder already among them."""
    folder: Path | None = None
    """Where they lie, to share them among runs; `prior` in the run's folder when left out."""
    weight: float = Field(1.0, gt=0)
    """Of their loss beside that of the thing's pictures."""
    seed: int = Field(0, ge=0)
    """Of the first picture; the next ones count up."""
    steps: int = Field(20, ge=1, le=1000)
    guidance_scale: float = Field(4.0, ge=0)
    batch_size: int = Field(4, ge=1)
    """Pictures drawn at a time."""


def check_prior(prior: PriorConfig | None, target: str, data: str) -> None:
    """Raise ValueError where nobody would learn from the class pictures."""
    if prior is None or (target, data) == ("finetune", "pictures"):
        return
    raise ValueError(
        f"[prior] is for target.kind = 'finetune' on data.kind = 'pictures', not for {target!r} on "
        f"{data!r}: drop it, or change those."
    )


def class_picture_folder(prior: PriorConfig, out: Path) -> Path:
    return out / PRIOR if prior.folder is None else prior.folder
