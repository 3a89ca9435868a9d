"""Lines of text about a session: which kernels run at its sites, and which participants acted."""

from collections.abc import Iterable, Mapping, Sequence

from t2i.attention.denoiser_pass import DenoiserPass
from t2i.attention.session.participant import RegisteredParticipant
from t2i.attention.site import Site
from t2i.terminal import plural

KIBIBYTE = 1 << 10


def describe_sites(
    sites: Sequence[Site],
    kernels: Mapping[str, Iterable[str]],
    entries: Sequence[RegisteredParticipant],
    denoiser_pass: DenoiserPass | None,
) -> str:
    """Return one line per site: the kernels that compute it, the probes and edits that act there,
    and the KiB that probes store for it.
    """
    lines = []
    for site in sites:
        kinds = [type(entry.participant).__name__ for entry in entries if entry.acts_at_site(site)]
        kept = 0
        if denoiser_pass is not None:
            kept = sum(entry.estimate_probe_bytes([site], denoiser_pass) for entry in entries)
        kernel = " / ".join(sorted(kernels.get(site.name, ()))) if kinds else "untouched"
        names = ", ".join(dict.fromkeys(kinds)) or "nobody"
        lines.append(f"{site}: {kernel or 'fused'}; {names}; {kept / KIBIBYTE:.0f} KiB")
    return "\n".join(lines)


def describe_activity(entries: Sequence[RegisteredParticipant]) -> str:
    """Return one line per probe and edit: the numbers of sites, steps and calls it acted at."""
    lines = []
    for entry in entries:
        active = entry.active_steps
        steps = set().union(*active.values()) if active else entry.latent_steps
        calls = sum(len(at_site) for at_site in active.values())
        skipped = sum(len(at_site) for at_site in entry.skipped_steps.values())
        left_out = f"; no map of {plural(skipped, 'call')} that the run's caches left out"
        lines.append(
            f"{entry.participant}: {plural(len(active), 'site')} x "
            f"{plural(len(steps), 'step')}, {plural(calls, 'call')}{left_out if skipped else ''}"
        )
    return "\n".join(lines)
