"""A session as its driver and the hooks in the model call it: passes, steps, attention calls.

B batch rows, C channels, H W latent size.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from t2i.attention.call import AttentionCall
from t2i.attention.compute.edit_plan import EditPlan
from t2i.attention.compute.probabilities import AttentionProbabilities
from t2i.attention.compute.recorded_rows import RecordedAttentionInputs, RecordedRun
from t2i.attention.compute.tap import AttentionInputs
from t2i.attention.denoiser_pass import DenoiserPass
from t2i.attention.edits.base.edit import AttentionCallback
from t2i.attention.hooks.driven_session import RunCondPass, RunWithText
from t2i.attention.hooks.shared_hooks import SharedHooks
from t2i.attention.probes.joint_concepts import JointConcepts
from t2i.attention.session.checks import (
    check_all_participants_acted,
    check_images_of_prompt_share_text,
    check_pass_of_source_recorded,
    check_recorded_run_fits,
    check_sites_and_memory,
    check_step_callback_ran,
)
from t2i.attention.session.dry_run import RUN_FIRST_REMEDY, run_pipeline_to_discover_sites
from t2i.attention.session.participant import Participant, RegisteredParticipant
from t2i.attention.session.session_prompts import SessionPrompts
from t2i.attention.site import Site
from t2i.errors import AttentionError
from t2i.text.token_windows import EncoderInput


class SessionBase:
    """Base of the session that `attend` opens: its probes and edits take part in the runs of one
    thread.
    """

    def __init__(
        self,
        x: Any,
        prompts: SessionPrompts,
        *,
        budget: int,
        driven_by_callback: bool,
        recorded_source: RecordedRun | None = None,
    ) -> None:
        self.budget = budget
        self.driven_by_callback = driven_by_callback
        self.recorded_source = recorded_source
        self.shared_hooks: SharedHooks | None = None
        self._x, self._prompts = x, prompts
        self._entries: list[RegisteredParticipant] = []
        self._pass: DenoiserPass | None = None
        """The pass that is running."""
        self._last: DenoiserPass | None = None
        self._trial_pass: DenoiserPass | None = None
        """The pass of the dry run."""
        self._extra_pass_callback: AttentionCallback | None = None
        """Reader of the attention of a pass that an edit makes before a step's own."""
        self._latent_size: tuple[int, int] | None = None
        self._checked = self._called_back = False
        self._checked_concept_bytes = 0
        self._thread = threading.get_ident()

    @property
    def prompts_given_to_attend(self) -> tuple[EncoderInput, ...] | None:
        """Prompts that attend() was given; None without any."""
        return self._prompts.given

    # for its driver (t2i.attention.hooks.driven_session)

    def begin_pass(
        self,
        denoiser_pass: DenoiserPass,
        prompts: Sequence[EncoderInput] | None,
        input_shapes: object,
        latent_size: tuple[int, int] | None,
    ) -> None:
        """Begin a denoiser pass; the first pass of a run also begins the run.

        prompts : prompts of the call, if the driver knows them
        input_shapes : all that the sites depend on; others let them be discovered again
        latent_size : H, W of the latents, if they have any
        """
        if not self._is_own_thread:
            return
        if self.recorded_source is not None:
            check_recorded_run_fits(self.recorded_source, denoiser_pass, latent_size)
            step = denoiser_pass.step
            branches = self.recorded_source.branches_at_step(step)
            denoiser_pass = replace(denoiser_pass, num_recorded=1, recorded_branches=branches)
            prompts = (self.recorded_source.prompt_at_step(step), *(prompts or ()))
        if self._installed.is_dry_run:
            self._trial_pass = denoiser_pass
        else:
            step = denoiser_pass.step
            begins = step == 0 or self._last is None or step < self._last.step
            new_tokens = self._prompts.update_prompts_and_tokenize(
                prompts, denoiser_pass.num_prompts, begins
            )
            if new_tokens is not None:
                for entry in self._entries:
                    entry.participant.check_prompts_and_words(new_tokens)
            if begins:
                self._begin_run(latent_size, denoiser_pass)
            elif self.driven_by_callback and not self._called_back:
                check_step_callback_ran(self._entries)
            self._pass = self._last = denoiser_pass
        self._installed.begin_pass(self, input_shapes)

    def edit_latents_before_pass(
        self, latents_BCHW: Tensor, cond_pass: DenoiserPass, run_cond_pass: RunCondPass
    ) -> Tensor:
        """Return the latents (B, C, H, W) that the denoiser is to read, after the edits that act
        before a pass.

        Extra passes of these edits have the branch "cond" alone and are run by `run_cond_pass`; no
        probe reads them. `cond_pass` describes them.
        """
        if not self._is_own_thread or self._installed.is_dry_run:
            return latents_BCHW

        def run_pass(pass_BCHW: Tensor, on_attention: AttentionCallback) -> None:
            self._run_extra_pass(pass_BCHW, on_attention, cond_pass, run_cond_pass)

        for entry in self._entries:
            if entry.participant.needs_extra_passes and entry.acts_at_step(cond_pass):
                latents_BCHW = entry.edit_latents_before_pass(latents_BCHW, cond_pass, run_pass)
        return latents_BCHW

    def end_pass(self) -> None:
        """End the denoiser pass that `begin_pass` began, and check the session's probes and edits
        against newly discovered sites.
        """
        if not self._is_own_thread:
            return
        ended, self._pass = self._last, None
        has_new_sites = self._installed.end_pass(self)
        if not self._installed.is_dry_run:
            self._on_sites_discovered(has_new_sites)
            assert ended is not None
            for entry in self._entries:
                entry.record_skipped_sites(self._installed.list_sites(), ended)

    def read_joint_concepts(self, run_with_text: RunWithText) -> None:
        """Read the concepts of probes in a joint-attention denoiser, each probe's in a pass of its
        own after the step's pass.
        """
        for probe in (probe for entry in self._entries for probe in entry.probes):
            concepts = probe.concepts
            if not isinstance(concepts, JointConcepts) or not concepts.has_own_pass:
                continue
            compute = probe.compute_concept_attention
            try:
                with self._installed.attention.replacing_joint_attention(compute):
                    run_with_text(concepts.build_text)
            finally:
                concepts.forget_own_pass()

    def edit_latents_after_step(self, latents_BCHW: Tensor) -> Tensor:
        """Return the latents (B, C, H, W) after a step, changed by the edits of latents; one row
        per image.
        """
        last = self._last
        if last is None or not self._is_own_thread or self._installed.is_dry_run:
            return latents_BCHW
        self._called_back = True
        if self.recorded_source is not None:
            source_1CHW = self.recorded_source.latents_after_step(last.step).to(latents_BCHW)
            latents_BCHW = torch.cat([source_1CHW, latents_BCHW])
        for entry in self._entries:
            if entry.acts_at_step(last):
                latents_BCHW = entry.edit_latents_after_step(latents_BCHW, last)
        return latents_BCHW[last.num_recorded :]

    # for the model (t2i.attention.hooks.attention_listener)

    @property
    def num_rows(self) -> int | None:
        """Number of batch rows of the running denoiser pass; None between passes."""
        return None if self._pass is None else self._pass.num_rows

    def on_model_forward_end(self) -> None:
        """Mark the denoiser's forward call as ended in the session: it returned or raised."""
        self._pass = None

    def acts_at_site(self, site: Site) -> bool:
        """Return True if a probe of the session reads, or an edit changes, the attention of the
        site, so that its module needs a hook.
        """
        return any(entry.acts_at_site(site) for entry in self._entries)

    @contextmanager
    def treating_rows_as_branches(self, branches: Sequence[str]) -> Iterator[None]:
        """Context manager for the call of a control network (ControlNet): within the block, the
        batch rows of the running pass count as the rows of these guidance branches alone.
        """
        whole = self._pass
        if whole is not None:
            self._pass = replace(whole, branches=tuple(branches))
        try:
            yield
        finally:
            self._pass = whole

    def acts_in_control_network(self, number: int) -> bool:
        """Return True if a probe or an edit of the session selects attention sites in the network
        of this control (ControlNet).
        """
        return any(entry.acts_in_control_network(number) for entry in self._entries)

    def check_images_of_prompt_share_keys(self, site: Site, call: AttentionInputs) -> None:
        """Raise ArgumentError for attention keys that cannot come from the session's prompts."""
        if self._pass is not None and self.prompts_given_to_attend is not None:
            check_images_of_prompt_share_text(self._pass, site, call)

    def add_edits_to_plan(self, site: Site, plan: EditPlan) -> None:
        """Add the changes of the session's edits at the site to the edit plan."""
        call = self._call_at(site)
        for entry in self._entries:
            entry.add_to_plan(plan, call)

    def get_recorded_qkv(self, site: Site) -> RecordedAttentionInputs | None:
        """Return the queries, keys and values that the recorded source has at this attention site
        and the current step, or None.

        Raises AttentionError for a pass that computes what a cache left out when the source was
        recorded.
        """
        if self.recorded_source is None or self._pass is None:
            return None
        recorded = self.recorded_source.get_recorded_qkv(site.name, self._pass.step)
        check_pass_of_source_recorded(recorded, site, self._pass)
        return recorded

    def on_attention(self, probabilities: AttentionProbabilities) -> None:
        """Pass the attention probabilities of a call to the probes, or, in an extra pass of an
        edit, to that edit.
        """
        call = self._call_at(probabilities.site)
        if self._extra_pass_callback is not None:
            self._extra_pass_callback(probabilities, call)
            return
        for entry in self._entries:
            entry.on_attention(probabilities, call)

    def check_had_effect(self) -> None:
        """Raise ArgumentError for a word that no prompt had, AttentionError for a probe or an edit
        that never acted.
        """
        self._prompts.check_requested_words()
        check_all_participants_acted(self._entries, self._last, self._called_back)

    # its parts

    @property
    def _installed(self) -> SharedHooks:
        assert self.shared_hooks is not None
        return self.shared_hooks

    @property
    def _is_own_thread(self) -> bool:
        return threading.get_ident() == self._thread

    @property
    def _is_open(self) -> bool:
        return self in self._installed.attention.sessions

    def _add(self, participant: Participant) -> None:
        if not self._is_open:
            raise AttentionError(
                f"{participant} comes too late, the session is over: ask for it inside the `with` "
                "block, before the picture is made."
            )
        if self._prompts.tokens is not None:
            participant.check_prompts_and_words(self._prompts.tokens)
        entry = RegisteredParticipant(participant)
        self._entries.append(entry)
        self._checked = False
        if self._last is not None and self._prompts.tokens is not None:
            entry.begin_run(self._prompts.tokens, self._latent_size)
            self._note_edits_and_caches(self._last)
            self._installed.hook_sites_of_session(self)

    def _discover_sites(self) -> None:
        if not self._is_open:
            raise AttentionError(f"Nothing ran while the session was open: {RUN_FIRST_REMEDY}")
        run_pipeline_to_discover_sites(self._x, self.prompts_given_to_attend, self._installed)

    def _run_extra_pass(
        self,
        latents_BCHW: Tensor,
        on_attention: AttentionCallback,
        cond_pass: DenoiserPass,
        run_cond_pass: RunCondPass,
    ) -> None:
        outer = self._pass
        self._pass, self._extra_pass_callback = cond_pass, on_attention
        try:
            with self._installed.disabling_other_sessions(self):
                run_cond_pass(latents_BCHW)
        finally:
            self._pass, self._extra_pass_callback = outer, None
        self._on_sites_discovered(self._installed.end_pass(self))

    def _on_sites_discovered(self, has_new_sites: bool) -> None:
        stored = sum(entry.stored_concept_bytes for entry in self._entries)
        if has_new_sites or not self._checked or stored > self._checked_concept_bytes:
            self._installed.hook_sites_of_session(self)
            assert self._last is not None
            sites = self._installed.list_sites()
            waiting = self._installed.list_undiscovered_control_numbers()
            check_sites_and_memory(self._entries, sites, self._last, self.budget, waiting)
            self._checked, self._checked_concept_bytes = True, stored

    def _begin_run(self, latent_size: tuple[int, int] | None, first: DenoiserPass) -> None:
        assert self._prompts.tokens is not None
        self._latent_size = latent_size
        self._checked, self._checked_concept_bytes = False, 0
        for entry in self._entries:
            entry.begin_run(self._prompts.tokens, latent_size)
        self._note_edits_and_caches(first)

    def _note_edits_and_caches(self, denoiser_pass: DenoiserPass) -> None:
        """Note in the probes' measurements under which edits and caches the run is made."""
        skipped = denoiser_pass.skipped_calls
        edits = tuple(
            type(one).__name__
            for one in (entry.participant for entry in self._entries)
            if not one.reads_only and not one.does_nothing
        )
        for probe in (probe for entry in self._entries for probe in entry.probes):
            probe.measurements.edits = edits
            probe.measurements.caches = "" if skipped is None else skipped.description

    def _call_at(self, site: Site) -> AttentionCall:
        assert self._pass is not None
        assert self._prompts.tokens is not None
        return AttentionCall(site, self._pass, self._prompts.tokens)
