"""A probe or an edit of a session, and where it has been at work."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from t2i.attention.call import AttentionCall
from t2i.attention.compute.edit_plan import Effects
from t2i.attention.compute.probabilities import Attended
from t2i.attention.denoiser_pass import DenoiserPass
from t2i.attention.edits.base.edit import Edit
from t2i.attention.probes.probe import Probe
from t2i.attention.prompts.prompt_tokens import Said
from t2i.attention.site import Site
from t2i.errors import ArgumentError


@dataclass(slots=True)
class ParticipantEntry:
    """met : name of a site -> the steps at which it was at work there."""

    what: Probe | Edit
    met: dict[str, set[int]] = field(default_factory=dict)
    met_latents: set[int] = field(default_factory=set)
    probes: Sequence[Probe] = ()
    """Its own, if it is an edit that reads; else a probe itself."""

    def __post_init__(self) -> None:
        self.probes = self.what.probes() if isinstance(self.what, Edit) else (self.what,)

    @property
    def at_work(self) -> bool:
        """Whether it has done something, or was asked for nothing."""
        done = self.met_latents if self.needs_callback else self.met
        return bool(done) or self.what.does_nothing

    @property
    def needs_callback(self) -> bool:
        """Whether it acts between the passes only."""
        return isinstance(self.what, Edit) and self.what.needs == "latents"

    def begin(self, said: Said, latent_size: tuple[int, int] | None) -> None:
        for probe in self.probes:
            probe.begin(said, latent_size)

    def wants(self, site: Site) -> bool:
        """Whether it reads or edits there."""
        return any(probe.fits(site) for probe in self.probes) or self.what.fits(site)

    def covers(self, denoiser_pass: DenoiserPass) -> bool:
        """Whether it acts at the step of this pass."""
        return self.what.covers(denoiser_pass.step, denoiser_pass.num_steps)

    def edit(self, effects: Effects, call: AttentionCall) -> None:
        """Say what it wants of a call, if it is an edit for it."""
        if (
            isinstance(self.what, Edit)
            and self.what.fits(call.site)
            and self.covers(call.denoiser_pass)
        ):
            self._check_heads(call)
            self.what.apply(effects, call)
            self._meet(call)

    def on_attention(self, attended: Attended, call: AttentionCall) -> None:
        """Let its probes read a call, those that want to."""
        step, num_steps = call.denoiser_pass.step, call.denoiser_pass.num_steps
        for probe in self.probes:
            if probe.fits(call.site) and probe.covers(step, num_steps):
                self._check_heads(call)
                probe.on_attention(attended, call)
                self._meet(call)

    def after_step(self, latents_BCHW: Tensor, denoiser_pass: DenoiserPass) -> Tensor:
        """The latents as the edit wants them."""
        assert isinstance(self.what, Edit)
        if self.needs_callback:
            self.met_latents.add(denoiser_pass.step)
        return self.what.after_step(latents_BCHW, denoiser_pass, self.probes)

    def bytes(self, sites: Iterable[Site], denoiser_pass: DenoiserPass) -> int:
        """What its probes keep in the run."""
        total = 0
        for probe in self.probes:
            steps = sum(
                probe.covers(step, denoiser_pass.num_steps)
                for step in range(denoiser_pass.num_steps)
            )
            pictures = denoiser_pass.images_per_prompt
            total += sum(
                probe.bytes_at(site, pictures, steps) for site in sites if probe.fits(site)
            )
        return total

    def _check_heads(self, call: AttentionCall) -> None:
        heads = self.what.heads or ()
        if heads and max(heads) >= call.site.heads:
            raise ArgumentError(
                f"{self.what} wants head {max(heads)}, but {call.site.name} has {call.site.heads}: "
                f"they count from 0 to {call.site.heads - 1}. Choose its sites too, sites=..."
            )

    def _meet(self, call: AttentionCall) -> None:
        self.met.setdefault(call.site.name, set()).add(call.denoiser_pass.step)
