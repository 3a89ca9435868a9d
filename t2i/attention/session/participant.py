"""A probe or an edit registered in a session, and the sites and steps at which it acted."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from t2i.attention.call import AttentionCall
from t2i.attention.compute.edit_plan import EditPlan
from t2i.attention.compute.probabilities import AttentionProbabilities
from t2i.attention.denoiser_pass import DenoiserPass
from t2i.attention.edits.base.edit import RunPass
from t2i.attention.probes.joint_concepts import JointConcepts
from t2i.attention.probes.probe import Probe
from t2i.attention.prompts.prompt_tokens import PromptTokens
from t2i.attention.site import Site, Sites, as_sites
from t2i.errors import ArgumentError


class Participant(Protocol):
    """Interface of a participant of an attention session: a probe, which reads attention, or an
    edit, which changes attention or latents.
    """

    @property
    def sites(self) -> Sites | str | None:
        """Sites that the probe or edit selects; None for every site of its kinds, as "cross"."""

    @property
    def heads(self) -> tuple[int, ...] | None:
        """Numbers of the attention heads that the probe or edit reads or changes; None for all."""

    @property
    def reads_only(self) -> bool:
        """True if a participant of an attention session only reads, as every probe does, and
        changes neither attention nor latents.
        """

    @property
    def edits_latents(self) -> bool:
        """True if the edit changes a run's latents between denoiser passes, not its attention."""

    @property
    def needs_extra_passes(self) -> bool:
        """True if the edit runs the denoiser itself before a step's own pass, as Attend-and-Excite
        does; see `edit_latents_before_pass`.
        """

    @property
    def does_nothing(self) -> bool:
        """True if the edit's arguments ask for no change, such as a weight of 1; then it is no
        error that it never acts in a run.
        """

    def check_prompts_and_words(self, prompt_tokens: PromptTokens, /) -> None:
        """Raise ArgumentError if the probe or edit names prompts or words that the run does not
        have.
        """

    def list_probes(self) -> Sequence[Probe]:
        """Return the probes that must read attention for this participant of a session: a probe
        itself, or those whose heat maps an edit uses.
        """

    def acts_at_site(self, site: Site, /) -> bool:
        """Return True if the probe reads or the edit changes the attention of the site."""

    def acts_at_step(self, step: int, num_steps: int, /) -> bool:
        """Return True if the probe or edit acts at this step of a run of `num_steps` steps."""

    def edit_latents_before_pass(
        self, latents_BCHW: Tensor, denoiser_pass: DenoiserPass, run_pass: RunPass, /
    ) -> Tensor:
        """Return the latents (B, C, H, W) that the denoiser is to read at this step, changed by the
        edit.
        """

    def add_to_plan(self, plan: EditPlan, call: AttentionCall, /) -> None:
        """Add the edit's changes of one attention call to the edit plan."""

    def edit_latents_after_step(
        self, latents_BCHW: Tensor, denoiser_pass: DenoiserPass, probes: Sequence[Probe], /
    ) -> Tensor:
        """Return the latents (B, C, H, W) that replace those after a step, changed by the edit."""


@dataclass(slots=True)
class RegisteredParticipant:
    """A probe or an edit registered in a session, with a record of the sites and steps at which it
    acted.

    active_steps : name of a site -> steps at which it read or edited attention there
    latent_steps : steps at which it acted on the latents
    skipped_steps : name of a site -> steps at which it would have acted there, but the run left out
        the site's attention
    """

    participant: Participant
    active_steps: dict[str, set[int]] = field(default_factory=dict)
    latent_steps: set[int] = field(default_factory=set)
    skipped_steps: dict[str, set[int]] = field(default_factory=dict)
    probes: Sequence[Probe] = ()

    def __post_init__(self) -> None:
        self.probes = self.participant.list_probes()

    @property
    def has_acted_or_does_nothing(self) -> bool:
        """True if the probe or edit has acted in the session at least once, or asks for
        no change.
        """
        steps = self.latent_steps if self.participant.edits_latents else self.active_steps
        return bool(steps) or self.participant.does_nothing

    def begin_run(self, prompt_tokens: PromptTokens, latent_size: tuple[int, int] | None) -> None:
        """Reset the measurements of the probes of a registered probe or edit for a new run."""
        for probe in self.probes:
            probe.begin_run(prompt_tokens, latent_size)

    def acts_at_site(self, site: Site) -> bool:
        """Return True if the probe or edit, or a probe that it uses, reads or changes attention at
        the site.
        """
        return any(
            probe.acts_at_site(site) for probe in self.probes
        ) or self.participant.acts_at_site(site)

    def selects_site(self, site: Site) -> bool:
        """Return True if the heat maps of the participant's probes are aggregated from the site, or
        the edit changes attention there.
        """
        own = self.participant
        return any(probe.selects_site(site) for probe in self.probes) or (
            not own.reads_only and own.acts_at_site(site)
        )

    def acts_in_control_network(self, number: int) -> bool:
        """Return True if the probe or edit, or a probe that the edit uses, selects attention sites
        in the network of this control (ControlNet).
        """
        every = (self.participant, *self.probes)
        return any(as_sites(one.sites).selects_control_network(number) for one in every)

    def acts_at_step(self, denoiser_pass: DenoiserPass) -> bool:
        """Return True if the probe or edit acts at the step of this denoiser pass."""
        return self.participant.acts_at_step(denoiser_pass.step, denoiser_pass.num_steps)

    def add_to_plan(self, plan: EditPlan, call: AttentionCall) -> None:
        """Add the edit's changes of an attention call to the edit plan, if it acts at this site and
        step.
        """
        participant = self.participant
        if participant.reads_only or not participant.acts_at_site(call.site):
            return
        if self.acts_at_step(call.denoiser_pass):
            self._check_heads(call)
            participant.add_to_plan(plan, call)
            self._record(call)

    def on_attention(self, probabilities: AttentionProbabilities, call: AttentionCall) -> None:
        """Pass the probabilities of an attention call to those of the participant's probes that
        read at this site and step.
        """
        step, num_steps = call.denoiser_pass.step, call.denoiser_pass.num_steps
        for probe in self.probes:
            if probe.acts_at_site(call.site) and probe.acts_at_step(step, num_steps):
                if self.selects_site(call.site):
                    self._check_heads(call)
                probe.on_attention(probabilities, call)
                if self.selects_site(call.site) or call.site.kind == "self":
                    self._record(call)

    def list_readers_and_writers(self) -> list[Participant]:
        """Return the probes that read attention in the run's own passes for this participant, and
        the participant if it changes attention there.
        """
        one = self.participant
        own = [] if one.needs_extra_passes or one.edits_latents else [one]
        return [*own, *(probe for probe in self.probes if probe is not self.participant)]

    def record_skipped_sites(self, sites: Iterable[Site], denoiser_pass: DenoiserPass) -> None:
        """Record the sites at which it would have acted in a pass that left them out."""
        skipped = denoiser_pass.skipped_calls
        if skipped is None:
            return
        step, num_steps = denoiser_pass.step, denoiser_pass.num_steps
        acting = [
            one for one in self.list_readers_and_writers() if one.acts_at_step(step, num_steps)
        ]
        for site in sites:
            if skipped.is_skipped(site.name) and any(one.acts_at_site(site) for one in acting):
                self.skipped_steps.setdefault(site.name, set()).add(step)

    def edit_latents_before_pass(
        self, latents_BCHW: Tensor, denoiser_pass: DenoiserPass, run_pass: RunPass
    ) -> Tensor:
        """Return the latents (B, C, H, W) that the denoiser is to read at this step, after the
        participant's change.
        """
        latents_BCHW = self.participant.edit_latents_before_pass(
            latents_BCHW, denoiser_pass, run_pass
        )
        self.latent_steps.add(denoiser_pass.step)
        return latents_BCHW

    def edit_latents_after_step(self, latents_BCHW: Tensor, denoiser_pass: DenoiserPass) -> Tensor:
        """Return the latents (B, C, H, W) after a step, changed by the participant."""
        if self.participant.edits_latents:
            self.latent_steps.add(denoiser_pass.step)
        return self.participant.edit_latents_after_step(latents_BCHW, denoiser_pass, self.probes)

    def estimate_probe_bytes(self, sites: Iterable[Site], denoiser_pass: DenoiserPass) -> int:
        """Return the bytes that the participant's probes need to store their measurements of these
        sites in a run.
        """
        total = 0
        num_steps = denoiser_pass.num_steps
        for probe in self.probes:
            steps = sum(probe.acts_at_step(step, num_steps) for step in range(num_steps))
            images = denoiser_pass.images_per_prompt
            total += sum(
                probe.estimate_bytes_at_site(site, images, steps)
                for site in sites
                if probe.acts_at_site(site)
            )
        return total + self.stored_concept_bytes

    @property
    def stored_concept_bytes(self) -> int:
        """Bytes that concepts in joint attention keep from a pass to the one with them; 0 before
        the first.
        """
        found = [probe.concepts for probe in self.probes]
        return sum(one.stored_bytes for one in found if isinstance(one, JointConcepts))

    def _check_heads(self, call: AttentionCall) -> None:
        heads, site = self.participant.heads or (), call.site
        if heads and max(heads) >= site.heads:
            raise ArgumentError(
                f"{self.participant} wants head {max(heads)}, but {site.name} has {site.heads}: "
                f"they count from 0 to {site.heads - 1}. Choose its sites too, sites=..."
            )

    def _record(self, call: AttentionCall) -> None:
        self.active_steps.setdefault(call.site.name, set()).add(call.denoiser_pass.step)
