"""The inversion of a photo, which a request edits by its words or looks into."""

import math
from dataclasses import dataclass
from typing import Literal

from t2i.errors import ArgumentError

Fit = Literal["crop", "pad", "stretch"]
AUTO_METHOD = "auto"
"""Method that stands for the one that suits the model."""
MAX_BUDGET_GIB = 1 << 20
"""GiB; far above any disk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PhotoInversion:
    """Inversion of a request's photo: how it is fitted and inverted, and how well that succeeds.

    method : name and arguments, see pipelines.inversion.methods, or "auto"
    fit : of the photo to the model's size, see pipelines.images.photo_fitting.compute_photo_fitting
    full_size : edits are put back into the photo at its own size
    replay, autoencoder : see pipelines.inversion.inversion_psnr.InversionPSNR, in dB; None
        until the photo is inverted
    """

    method: str = AUTO_METHOD
    fit: Fit = "crop"
    full_size: bool = False
    replay: float | None = None
    autoencoder: float | None = None

    def __post_init__(self) -> None:
        if self.method.strip().lower() == AUTO_METHOD:
            return
        # Here, for it imports torch, which most requests need much later.
        from pipelines.inversion.methods import parse_method

        parse_method(self.method)

    def describe_reconstruction_error(self) -> str:
        """Return as text how well an inverted photo is reproduced, in dB; "" before the photo is
        inverted.
        """
        if self.autoencoder is None:
            return ""
        replay = "exact replay" if self.replay is None else f"replay {self.replay:g} dB"
        return f"{replay}, autoencoder {self.autoencoder:g} dB"


def convert_recording_budget_to_bytes(gibibytes: float | None) -> int | None:
    """Return the value of --budget in bytes; None for the default. Raises ArgumentError."""
    if gibibytes is None:
        return None
    if not (math.isfinite(gibibytes) and 0 < gibibytes <= MAX_BUDGET_GIB):
        raise ArgumentError(
            f"Got --budget {gibibytes}: expected the GiB that a recording may take, as in "
            "--budget 8."
        )
    return int(gibibytes * (1 << 30))
