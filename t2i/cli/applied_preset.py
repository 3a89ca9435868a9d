"""The preset that a request was made with: its name, and how the request differs from it."""

from dataclasses import dataclass

from t2i.denoiser.presets import FAST
from t2i.errors import ArgumentError


@dataclass(frozen=True, slots=True, kw_only=True)
class AppliedPreset:
    """Preset of a request, whose settings are in the request itself: a later change of the preset
    changes no recorded request.

    weights : fingerprint of the weights that it was chosen for; None if it is not recorded
    loras : paths of its LoRAs, as the request has them
    replaced : its settings in place of which the user named others, as in "guidance 1"
    """

    name: str
    weights: str | None = None
    loras: tuple[str, ...] = ()
    replaced: tuple[str, ...] = ()


def choose_preset_name(preset: str | None, *, fast: bool) -> str | None:
    """Return the value of --preset, "fast" for --fast, None without both. Raises ArgumentError."""
    if fast and preset is not None:
        raise ArgumentError(f"Got --fast and --preset {preset:.80}: --fast is --preset {FAST}.")
    return FAST if fast else preset
