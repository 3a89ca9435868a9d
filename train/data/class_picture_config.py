"""DreamBooth's class pictures: what the base model knows of the class keeps it so.

Ruiz et al. (2022), section 3.3, arXiv 2208.12242. They are drawn by `train.setup.class_pictures`.
"""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

CLASS_PICTURE_FOLDER = "prior"
"""Folder of the class pictures within the folder of a run, by default."""


class PriorPreservationConfig(BaseModel):
    """Configuration of DreamBooth's class pictures, trained on beside the subject's; missing
    ones are generated.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: str = Field(min_length=1)
    """Prompt and caption of the class pictures, such as "a mug"."""
    count: int = Field(100, ge=1)
    """Number of class pictures, including those that are already in the folder."""
    folder: Path | None = None
    """Folder of the class pictures, to share among runs; default: `prior` in the run's folder."""
    weight: float = Field(1.0, gt=0)
    """Weight of the loss on class pictures, relative to that on the subject's pictures."""
    seed: int = Field(0, ge=0)
    """Seed of the first picture; each further picture has the next one."""
    steps: int = Field(20, ge=1, le=1000)
    guidance_scale: float = Field(4.0, ge=0)
    batch_size: int = Field(4, ge=1)
    """Number of class pictures generated at once."""


def check_prior_preservation_config(
    prior: PriorPreservationConfig | None, target: str, data: str
) -> None:
    """Raise ValueError if a run has class pictures, but its target or its data cannot use them."""
    if prior is None or (target, data) == ("finetune", "pictures"):
        return
    raise ValueError(
        f"[prior] is for target.kind = 'finetune' on data.kind = 'pictures', not for {target!r} on "
        f"{data!r}: drop it, or change those."
    )


def resolve_class_picture_folder(prior: PriorPreservationConfig, out: Path) -> Path:
    """Return the folder of the class pictures: the configured one, or one in the run's folder
    `out`.
    """
    return out / CLASS_PICTURE_FOLDER if prior.folder is None else prior.folder
