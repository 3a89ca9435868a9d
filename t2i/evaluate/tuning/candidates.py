"""Candidates for a model's presets: settings that draw faster than its plain defaults."""

from dataclasses import dataclass

from t2i.denoiser.presets import EXACT, Preset, PresetLora
from t2i.terminal import plural

STEP_SHARES = (0.75, 0.5)
"""Shares of the model's own steps."""
DEEP, DEEPER, GUIDANCE_STOP = "deep:every=2,branch=1", "deep:every=3", "cfg:stop=0.5"
OTHER_SAMPLER = "dpm++ 2m"
"""Sampler of second order, which needs fewer steps than DDIM."""
DISTILLED_STEPS = (2, 4, 8)
"""Steps for which latent consistency distillation is meant (Luo et al. 2023, arXiv 2310.04378)."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """Settings that may become a preset, with the name of its row in the table."""

    name: str
    preset: Preset


def list_candidates(steps: int, lora: PresetLora | None = None) -> list[Candidate]:
    """Return the candidates for the presets of a model, its plain defaults first.

    steps : of the model's defaults
    lora : distilled LoRA of the model, which draws in few steps without guidance
    """
    fewer = [max(1, round(steps * share)) for share in STEP_SHARES]
    found = {
        EXACT: Preset(),
        **{_name_steps(count): Preset(steps=count) for count in fewer if count < steps},
        GUIDANCE_STOP: Preset(guidance_method=GUIDANCE_STOP),
        DEEP: Preset(cache=(DEEP,)),
        DEEPER: Preset(cache=(DEEPER,)),
        f"{DEEP} + {GUIDANCE_STOP}": Preset(cache=(DEEP,), guidance_method=GUIDANCE_STOP),
    }
    for count in fewer:
        if count < steps:
            name = f"{OTHER_SAMPLER}, {_name_steps(count)}"
            found[name] = Preset(sampler=OTHER_SAMPLER, steps=count)
            found[f"{name} + {GUIDANCE_STOP}"] = Preset(
                sampler=OTHER_SAMPLER, steps=count, guidance_method=GUIDANCE_STOP
            )
    if lora is not None:
        for count in DISTILLED_STEPS:
            found[f"LoRA, lcm, {_name_steps(count)}"] = Preset(
                sampler="lcm", steps=count, guidance_scale=1.0, loras=(lora,)
            )
    return [Candidate(name, preset) for name, preset in found.items()]


def _name_steps(count: int) -> str:
    return plural(count, "step")
