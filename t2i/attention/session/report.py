"""What a session says of itself, in lines of text."""

from collections.abc import Iterable, Mapping, Sequence

from t2i.attention.denoiser_pass import DenoiserPass
from t2i.attention.session.participant import ParticipantEntry
from t2i.attention.site import Site
from t2i.terminal import several

KIBIBYTE = 1 << 10


def explained(
    sites: Sequence[Site],
    kernels: Mapping[str, Iterable[str]],
    listed: Sequence[ParticipantEntry],
    denoiser_pass: DenoiserPass | None,
) -> str:
    """One line per site: how it is computed, who listens there, and what is kept of it."""
    lines = []
    for site in sites:
        who = [type(one.what).__name__ for one in listed if one.wants(site)]
        kept = (
            0 if denoiser_pass is None else sum(one.bytes([site], denoiser_pass) for one in listed)
        )
        how = " / ".join(sorted(kernels.get(site.name, ()))) if who else "untouched"
        names = ", ".join(dict.fromkeys(who)) or "nobody"
        lines.append(f"{site}: {how or 'fused'}; {names}; {kept / KIBIBYTE:.0f} KiB")
    return "\n".join(lines)


def reported(listed: Sequence[ParticipantEntry]) -> str:
    """One line per probe and edit: sites x steps."""
    lines = []
    for one in listed:
        steps = set().union(*one.met.values()) if one.met else one.met_latents
        calls = sum(len(met) for met in one.met.values())
        lines.append(
            f"{one.what}: {several(len(one.met), 'site')} x {several(len(steps), 'step')}, "
            f"{several(calls, 'call')}"
        )
    return "\n".join(lines)
