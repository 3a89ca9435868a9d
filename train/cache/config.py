"""Configuration of the cache: latents and captions encoded once, before a run."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field


class CacheConfig(BaseModel):
    """Configuration of the cache of a fine-tune on pictures: latents and captions encoded before
    the run.

    What is cached is always made in float32. A run cannot be resumed with another choice of
    `latents` and `texts`, which may round differently; the other keys may change.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    latents: bool = True
    """What the autoencoder makes of each crop of each picture that the run will show."""
    texts: bool = True
    """What the text encoders make of the captions, unless they are trained."""
    folder: Path | None = None
    """Any number of runs may share one; the folder `cache` of the run when left out."""
    max_gb: float = Field(64.0, gt=0)
    """Latents, or texts, that would take more are not cached."""
    shard_mb: int = Field(64, ge=1, le=4096)
    """Size of the files; a kill while they are made loses one at most."""
    pictures_at_once: int = Field(1, ge=1, le=256)
    """That the autoencoder reads; more keep an accelerator busier and take more memory."""
    captions_at_once: int = Field(16, ge=1, le=1024)
    """That the text encoders read."""
