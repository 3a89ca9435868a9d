"""Names of samplers as t2i.denoiser.schedulers spells them, without its import of torch."""

from t2i.denoiser.sampler_name import normalize_sampler_name

SAMPLER_ALIASES = {
    "euler ancestral": "euler a",
    "dpm 2": "dpm2",
    "dpm 2 a": "dpm2 a",
    "dpm 2 ancestral": "dpm2 a",
    "dpm2 ancestral": "dpm2 a",
    "kdpm 2": "dpm2",
    "kdpm 2 a": "dpm2 a",
    "dpm++ 2": "dpm++ 2m",
    "uni pc": "unipc",
}
"""Names of ComfyUI, InvokeAI and older tools, as `normalize_sampler_name` leaves them."""

SAMPLER_NAMES = {
    *("ddim", "ddpm", "pndm", "plms", "euler a", "dpm2 a", "lcm", "tcd"),
    *("euler", "heun", "lms", "dpm2", "dpm++ 2s", "dpm++ 2m", "dpm++ 2m sde", "dpm++ 3m"),
    *("dpm++ 3m sde", "dpm++ sde", "deis", "unipc"),
}
"""Samplers of t2i; those that take a spacing are also named with one, as "euler karras"."""
SAMPLERS_WITH_SPACINGS = SAMPLER_NAMES - {
    *("ddim", "ddpm", "pndm", "plms", "euler a", "dpm2 a", "lcm", "tcd")
}
SPACINGS = ("karras", "exponential")
"""Spacings of the noise levels that a sampler's name may end in."""
DEFAULT_SPACINGS = ("", "automatic", "normal")
"""Names of other tools for the model's own spacing."""

SAMPLER_NAMES_BY_CLASS = {
    "DDIMScheduler": "ddim",
    "DDPMScheduler": "ddpm",
    "PNDMScheduler": "pndm",
    "EulerAncestralDiscreteScheduler": "euler a",
    "KDPM2AncestralDiscreteScheduler": "dpm2 a",
    "LCMScheduler": "lcm",
    "TCDScheduler": "tcd",
    "EulerDiscreteScheduler": "euler",
    "HeunDiscreteScheduler": "heun",
    "LMSDiscreteScheduler": "lms",
    "KDPM2DiscreteScheduler": "dpm2",
    "DPMSolverSinglestepScheduler": "dpm++ 2s",
    "DPMSolverMultistepScheduler": "dpm++ 2m",
    "DPMSolverSDEScheduler": "dpm++ sde",
    "DEISMultistepScheduler": "deis",
    "UniPCMultistepScheduler": "unipc",
}
"""Scheduler class, as t2i records a model's own sampler, -> name of the sampler."""


def sampler_name_from_class(name: str) -> str:
    """Return the sampler name of a scheduler class; any other name is returned unchanged."""
    return SAMPLER_NAMES_BY_CLASS.get(name.strip(), name)


def is_sampler_or_scheduler_name(name: str) -> bool:
    """Return True for the name of a sampler, or any name that ends in "Scheduler"."""
    base = normalize_sampler_name(name)
    for spacing in SPACINGS:
        if base.removesuffix(f" {spacing}") in SAMPLERS_WITH_SPACINGS:
            return True
    return base in SAMPLER_NAMES or name.endswith("Scheduler")


def translate_sampler_name_and_spacing(name: str, spacing: str = "") -> tuple[str | None, str]:
    """Translate another tool's sampler name and noise spacing to t2i's name.

    Returns the name, or None if it is unknown, and the spacing that the name does not include.

    >>> translate_sampler_name_and_spacing("dpmpp_2m", "karras")
    ('dpm++ 2m karras', '')
    """
    if name in SAMPLER_NAMES_BY_CLASS:
        return SAMPLER_NAMES_BY_CLASS[name], spacing
    words = normalize_sampler_name(name).removesuffix(" gpu")
    for own in SPACINGS:
        if words.endswith(f" {own}"):
            words, spacing = words.removesuffix(f" {own}"), own
    if words.endswith(" k"):  # InvokeAI's mark of Karras' spacing
        words, spacing = words.removesuffix(" k"), "karras"
    base = SAMPLER_ALIASES.get(words, words)
    plain_spacing = normalize_sampler_name(spacing)
    if base not in SAMPLER_NAMES:
        return None, spacing
    if plain_spacing in SPACINGS and base in SAMPLERS_WITH_SPACINGS:
        return f"{base} {plain_spacing}", ""
    return base, "" if plain_spacing in DEFAULT_SPACINGS else spacing
