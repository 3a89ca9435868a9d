"""The option --upscale: an image is drawn at its model's size, then enlarged."""

import math
from dataclasses import dataclass

from pipelines.upscaling import DEFAULT_UPSCALE_STRENGTH, check_upscale_factor
from t2i.cli.option_parsing.option_values import format_number
from t2i.errors import ArgumentError
from t2i.terminal import plural


@dataclass(frozen=True, slots=True, kw_only=True)
class Upscale:
    """Upscaling factor, and the strength of the image-to-image pass over the enlarged image."""

    factor: float
    strength: float = DEFAULT_UPSCALE_STRENGTH

    def __post_init__(self) -> None:
        check_upscale_factor("--upscale", self.factor)
        if not (math.isfinite(self.strength) and 0 < self.strength <= 1):
            raise ArgumentError(
                f"Got --upscale with the strength {self.strength}: expected a number above 0, up "
                "to 1: how much is drawn anew at the larger size."
            )

    def check_leaves_a_step(self, steps: int | None) -> None:
        """Raise ArgumentError if the strength leaves none of a run's steps; None for the model's
        own number of steps.
        """
        if steps is not None and int(steps * self.strength) < 1:
            raise ArgumentError(
                f"Got --upscale {self.option_value} with {plural(steps, 'step')}: its strength "
                "leaves none of them. Raise it, as in --upscale "
                f"{self.factor:g}:{math.ceil(100 / steps) / 100:g}, or take more --steps."
            )

    @property
    def option_value(self) -> str:
        """This upscaling as the value of --upscale: FACTOR:STRENGTH."""
        return f"{format_number(self.factor)}:{format_number(self.strength)}"


def parse_upscale(text: str) -> Upscale:
    """Parse the value of --upscale, "FACTOR" or "FACTOR:STRENGTH". Raises ArgumentError."""
    factor, colon, strength = text.strip().partition(":")
    try:
        return Upscale(factor=float(factor), **({"strength": float(strength)} if colon else {}))
    except ValueError as error:
        if isinstance(error, ArgumentError):
            raise
        raise ArgumentError(
            f"Got --upscale {text!r:.80}: expected a factor, as in --upscale 2, or with the "
            "strength in which the larger picture is drawn anew, --upscale 2:0.4."
        ) from None
