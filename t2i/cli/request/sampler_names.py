"""Samplers in the spelling of t2i.denoiser.schedulers, which is not imported: it brings torch."""

ALIASES = {
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
"""Names of ComfyUI, InvokeAI and older tools, as `plain_words` leaves them."""

NAMES = {
    *("ddim", "ddpm", "pndm", "plms", "euler a", "dpm2 a", "lcm", "tcd"),
    *("euler", "heun", "lms", "dpm2", "dpm++ 2s", "dpm++ 2m", "dpm++ 2m sde", "dpm++ 3m"),
    *("dpm++ 3m sde", "dpm++ sde", "deis", "unipc"),
}
SPACED = NAMES - {"ddim", "ddpm", "pndm", "plms", "euler a", "dpm2 a", "lcm", "tcd"}
SPACINGS = ("karras", "exponential")
PLAIN_SPACINGS = ("", "automatic", "normal")

CLASS_NAMES = {
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
"""What t2i records for a model's own sampler, and what it is called."""


def sampler_from_class(name: str) -> str:
    """The name of the sampler whose class is typed, as `t2i show` prints it; any other as it is."""
    return CLASS_NAMES.get(name.strip(), name)


def is_known_sampler(name: str) -> bool:
    """Whether it is spelled as the schedulers are; the name of any scheduler class may be one."""
    base = normalise_name(name)
    for spacing in SPACINGS:
        if base.removesuffix(f" {spacing}") in SPACED:
            return True
    return base in NAMES or name.endswith("Scheduler")


def translate_sampler(name: str, spacing: str = "") -> tuple[str | None, str]:
    """Our name of another tool's sampler, or None; and the spacing that could not be kept.

    >>> our_sampler("dpmpp_2m", "karras")
    ('dpm++ 2m karras', '')
    """
    if name in CLASS_NAMES:
        return CLASS_NAMES[name], spacing
    words = normalise_name(name).removesuffix(" gpu")
    for own in SPACINGS:
        if words.endswith(f" {own}"):
            words, spacing = words.removesuffix(f" {own}"), own
    if words.endswith(" k"):  # InvokeAI's mark of Karras' spacing
        words, spacing = words.removesuffix(" k"), "karras"
    base = ALIASES.get(words, words)
    plain_spacing = normalise_name(spacing)
    if base not in NAMES:
        return None, spacing
    if plain_spacing in SPACINGS and base in SPACED:
        return f"{base} {plain_spacing}", ""
    return base, "" if plain_spacing in PLAIN_SPACINGS else spacing


def normalise_name(name: str) -> str:
    words = name.lower().replace("_", " ").replace("-", " ").replace("dpmpp", "dpm++").split()
    return " ".join(words[1:] if words[:1] == ["k"] else words)
