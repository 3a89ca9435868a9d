"""Samplers and schedulers in A1111's names, and t2i's sampler for a pair of them."""

from t2i.denoiser.sampler_name import normalize_sampler_name
from t2i.denoiser.sampler_names import (
    SAMPLER_NAMES,
    SAMPLERS_WITH_SPACINGS,
    SPACINGS,
    translate_sampler_name_and_spacing,
)
from t2i.errors import ArgumentError, suggest_choice

SAMPLER_LABELS = {
    **{
        name: name.upper() for name in ("ddim", "ddpm", "pndm", "plms", "lcm", "tcd", "lms", "deis")
    },
    **{"euler": "Euler", "euler a": "Euler a", "heun": "Heun", "unipc": "UniPC"},
    **{"dpm2": "DPM2", "dpm2 a": "DPM2 a"},
    **{name: name.upper() for name in sorted(SAMPLER_NAMES) if name.startswith("dpm++")},
}
"""Sampler of t2i -> name in A1111's spelling."""

SCHEDULER_LABELS = {
    "automatic": "Automatic",
    "uniform": "Uniform",
    "normal": "Normal",
    "karras": "Karras",
    "exponential": "Exponential",
}
"""Scheduler (spacing of the noise levels) -> label in A1111."""

AUTOMATIC_SCHEDULER = "automatic"
SCHEDULERS_WITHOUT_SPACING = ("", AUTOMATIC_SCHEDULER, "uniform", "normal")
"""Schedulers that leave the noise levels as the sampler spaces them."""

AUTOMATIC_SPACING_BY_SAMPLER = {
    "dpm2": "karras",
    "dpm++ 2m": "karras",
    "dpm++ sde": "karras",
    "dpm++ 2m sde": "exponential",
    "dpm++ 3m sde": "exponential",
}
"""Sampler -> spacing that A1111 (1.9 and later) gives it for the scheduler Automatic."""


def choose_sampler(name: str | None, scheduler: str | None) -> str | None:
    """Return t2i's sampler for a sampler and scheduler of A1111; None for the model's own.

    Raises ArgumentError for a name that is not known, or a pair that cannot be combined.
    """
    spacing = normalize_sampler_name(scheduler or "").replace(" ", "_")
    if spacing not in (*SCHEDULERS_WITHOUT_SPACING, *SPACINGS):
        raise ArgumentError(
            f"Got scheduler={scheduler!r:.80}, which is not done here. "
            f"{suggest_choice(spacing, SCHEDULER_LABELS)}"
        )
    if not name:
        if spacing in SPACINGS:
            raise ArgumentError(
                f"Got scheduler={scheduler!r} without sampler_name: name the sampler too, as in "
                '"sampler_name": "Euler".'
            )
        return None
    sampler, _ = translate_sampler_name_and_spacing(name)
    if sampler is None:
        raise ArgumentError(
            f"Unknown sampler_name {name!r:.80}. {suggest_choice(name, SAMPLER_LABELS.values())}"
        )
    base, own = _split_spacing(sampler)
    if spacing in SCHEDULERS_WITHOUT_SPACING:
        automatic = (
            AUTOMATIC_SPACING_BY_SAMPLER.get(base, "")
            if spacing in ("", AUTOMATIC_SCHEDULER)
            else ""
        )
        spacing = own or automatic
    if own and own != spacing:
        raise ArgumentError(
            f"Got sampler_name={name!r} with scheduler={scheduler!r}: they name different "
            "spacings of the noise levels. Leave one of them out."
        )
    if spacing and base not in SAMPLERS_WITH_SPACINGS:
        raise ArgumentError(
            f"Got scheduler={scheduler!r} with sampler_name={name!r}, which has no other spacing "
            "of its noise levels: send scheduler=automatic."
        )
    return f"{base} {spacing}".strip()


def _split_spacing(sampler: str) -> tuple[str, str]:
    """Return a sampler of t2i without its spacing, and the spacing or ""."""
    for spacing in SPACINGS:
        if sampler.endswith(f" {spacing}"):
            return sampler.removesuffix(f" {spacing}"), spacing
    return sampler, ""


def format_sampler_as_a1111(sampler: str) -> str:
    """Return the name of a t2i sampler in A1111's spelling: "dpm++ 2m karras" is "DPM++ 2M
    Karras".
    """
    base, spacing = _split_spacing(sampler)
    label = SAMPLER_LABELS.get(base, base)
    return f"{label} {SCHEDULER_LABELS[spacing]}" if spacing else label


def list_sampler_items() -> list[dict[str, object]]:
    """Return the items of /sdapi/v1/samplers."""
    return [
        {
            "name": label,
            "aliases": [name, "k_" + name.replace("dpm++", "dpmpp").replace(" ", "_")],
            "options": {"scheduler": AUTOMATIC_SPACING_BY_SAMPLER[name]}
            if name in AUTOMATIC_SPACING_BY_SAMPLER
            else {},
        }
        for name, label in sorted(SAMPLER_LABELS.items(), key=lambda pair: pair[1].lower())
    ]


def list_scheduler_items() -> list[dict[str, object]]:
    """Return the items of /sdapi/v1/schedulers."""
    return [
        {
            "name": name,
            "label": label,
            "aliases": None,
            "default_rho": 7.0 if name == "karras" else -1.0,
            "need_inner_model": name in ("uniform", "normal"),
        }
        for name, label in SCHEDULER_LABELS.items()
    ]
