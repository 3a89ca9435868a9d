"""A session: the probes and edits of all that runs while it is open.

B batch rows, C channels, H W latent size.
"""

import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from t2i.attention.call import AttentionCall
from t2i.attention.compute.edit_plan import Effects
from t2i.attention.compute.probabilities import Attended
from t2i.attention.compute.recorded_rows import RecordedRow, RecordedRun
from t2i.attention.compute.tap import Call
from t2i.attention.denoiser_pass import DenoiserPass
from t2i.attention.edits.base.edit import AttentionCallback, Edit
from t2i.attention.hooks.drivers import Denoise
from t2i.attention.hooks.installation import Installation
from t2i.attention.probes.heat_maps import Convention, HeatMaps
from t2i.attention.probes.probe import Probe
from t2i.attention.prompts.prompt_tokens import Mentions, Reader, Said, Word, check_prompts
from t2i.attention.session.checks import (
    check_called_back,
    check_edit,
    check_fired,
    check_sites,
    check_texts,
    check_told,
)
from t2i.attention.session.dry_run import FIRST, planned, rehearse
from t2i.attention.session.participant import ParticipantEntry
from t2i.attention.session.report import explained, reported
from t2i.attention.site import Site, Sites, Window
from t2i.errors import AttentionError
from t2i.text.token_layout import Readable


class Session:
    """Probes and edits of the runs inside one `with attend(...)`, in the thread that opened it."""

    def __init__(
        self,
        x: Any,
        prompts: Sequence[Readable] | None,
        readers: tuple[Reader, ...],
        budget: int,
        recorded_source: RecordedRun | None = None,
    ) -> None:
        self.prompts = None if prompts is None else check_prompts(prompts)
        self.budget = budget
        self.driven_by_callback = False
        self.installation: Installation | None = None
        self._x, self._readers = x, readers
        self._said = None if self.prompts is None else Said(self.prompts, readers)
        self._listed: list[ParticipantEntry] = []
        self._passing: DenoiserPass | None = None
        self._last: DenoiserPass | None = None
        self._rehearsed: DenoiserPass | None = None
        self._looking: AttentionCallback | None = None
        self._size: tuple[int, int] | None = None
        self._checked = self._called_back = False
        self._thread = threading.get_ident()
        self.recorded_source = recorded_source
        """Prompt 0 of its runs, which is not in the batch; those of the batch follow."""

    # what its user calls

    def probe(
        self,
        *words: Word,
        prompt: int = 0,
        sites: Sites | str | None = None,
        steps: Window = None,
        heads: tuple[int, ...] | None = None,
        grid: tuple[int, int] | None = None,
        convention: Convention = "default",
        grad: bool = False,
        raw: bool = False,
    ) -> HeatMaps:
        """Heat maps of words or phrases of a prompt; they fill while pictures are made.

        Parameters
        ----------
        words : as in the prompt, "cat" or "red car", or places along the text, (3, 4)
        prompt : number of the prompt in the call, from 0
        sites : a part of their names, or a Sites; all that look at the text when left out
        steps : two floats are a share of the run, two integers the steps [first, end)
        heads : their numbers
        grid : H, W of the maps; the latents' when left out
        convention : see HeatMaps
        grad : keep the last pass's maps with their gradients (`maps.recorded.live`)
        raw : keep every step's maps, head by head (`maps.recorded.raw`)

        Raises ArgumentError for a word that the prompt has not, if the prompts are known by now.
        """
        probe = Probe(words, prompt, sites, steps, heads, grid, convention, grad, raw)
        self._add(probe)
        return probe.maps

    def edit(self, edit: Edit) -> None:
        """Add an edit; edits act in the order in which they were added."""
        check_edit(edit, self.driven_by_callback)
        self._add(edit)

    def sites(self) -> list[Site]:
        """Where attention happens, as the last run showed.

        Before the first run a pipeline makes one step, which nobody reads or edits; for a size or
        further arguments of your own, or a model alone, run it first.
        """
        if not self._installed.sites:
            self._rehearse()
        return list(self._installed.sites.values())

    def explain(self, num_inference_steps: int = 50) -> str:
        """Site by site: which kernel runs, for whom, and the bytes that are kept.

        Before the first run: what a run of so many steps will need.
        """
        if self._last is not None:
            return explained(self.sites(), self._installed.kernels, self._listed, self._last)
        if self._rehearsed is None:
            self._rehearse()
        assert self._rehearsed is not None
        denoiser_pass = replace(self._rehearsed, num_steps=num_inference_steps)
        kernels = planned(self.sites(), self._listed, self._said, denoiser_pass)
        return explained(self.sites(), kernels, self._listed, denoiser_pass)

    def _rehearse(self) -> None:
        if not self._is_open:
            raise AttentionError(f"Nothing ran while the session was open: {FIRST}")
        rehearse(self._x, self.prompts, self._installed)

    def report(self) -> str:
        """How many sites and steps each probe and each edit has met."""
        return reported(self._listed)

    def on_step_end(
        self, pipeline: object, step: int, timestep: object, tensors: dict[str, Any]
    ) -> dict[str, Any]:
        """For `callback_on_step_end`, of pipelines that are not ours; in ours it does nothing."""
        if self.driven_by_callback and "latents" in tensors:
            tensors["latents"] = self.after_step(tensors["latents"])
        return tensors

    # what its driver calls

    def begin_pass(
        self,
        denoiser_pass: DenoiserPass,
        prompts: Sequence[Readable] | None,
        shape: object,
        size: Any,
    ) -> None:
        if not self._is_here:
            return
        if self.recorded_source is not None:
            denoiser_pass = replace(denoiser_pass, num_recorded=1)
            prompts = (self.recorded_source.prompt_at(denoiser_pass.step), *(prompts or ()))
        if self._installed.rehearsing:
            self._rehearsed = denoiser_pass
        else:
            begins = (
                denoiser_pass.step == 0
                or self._last is None
                or denoiser_pass.step < self._last.step
            )
            self._hear_prompts(prompts, denoiser_pass, begins)
            if begins:
                self._begin_run(size)
            elif self.driven_by_callback and not self._called_back:
                check_called_back(self._listed)
            self._passing = self._last = denoiser_pass
        self._installed.begin_pass(self, shape)

    def before_pass(
        self, latents_BCHW: Tensor, denoiser_pass: DenoiserPass, denoise: Denoise
    ) -> Tensor:
        """The latents (B, C, H, W) as the edits want the denoiser to read them.

        `denoiser_pass` is the pass that `denoise` makes for edits that look ahead.
        """
        if not self._is_here or self._installed.rehearsing:
            return latents_BCHW
        for listed in self._listed:
            if isinstance(listed.what, Edit) and listed.what.looks and listed.covers(denoiser_pass):

                def look(looked_BCHW: Tensor, on_attention: AttentionCallback) -> None:
                    self._look(looked_BCHW, on_attention, denoiser_pass, denoise)

                latents_BCHW = listed.what.before_pass(latents_BCHW, denoiser_pass, look)
                listed.met_latents.add(denoiser_pass.step)
        return latents_BCHW

    def _look(
        self,
        latents_BCHW: Tensor,
        on_attention: AttentionCallback,
        denoiser_pass: DenoiserPass,
        denoise: Denoise,
    ) -> None:
        under_way = self._passing
        self._passing, self._looking = denoiser_pass, on_attention
        try:
            with self._installed.alone(self):
                denoise(latents_BCHW)
        finally:
            self._passing, self._looking = under_way, None
        self._know(self._installed.end_pass(self))

    def end_pass(self) -> None:
        if not self._is_here:
            return
        self._passing = None
        news = self._installed.end_pass(self)
        if not self._installed.rehearsing:
            self._know(news)

    def _know(self, news: bool) -> None:
        """The sites are known."""
        if news or not self._checked:
            self._installed.listen_to(self)
            assert self._last is not None
            sites = list(self._installed.sites.values())
            check_sites(self._listed, sites, self._last, self.budget)
            self._checked = True

    def after_step(self, latents_BCHW: Tensor) -> Tensor:
        """The latents (B, C, H, W) as the edits want them, one row per picture."""
        denoiser_pass = self._last
        if denoiser_pass is None or not self._is_here or self._installed.rehearsing:
            return latents_BCHW
        self._called_back = True
        if self.recorded_source is not None:
            source_1CHW = self.recorded_source.latents_at(denoiser_pass.step).to(latents_BCHW)
            latents_BCHW = torch.cat([source_1CHW, latents_BCHW])
        for listed in self._listed:
            if isinstance(listed.what, Edit) and listed.covers(denoiser_pass):
                latents_BCHW = listed.after_step(latents_BCHW, denoiser_pass)
        return latents_BCHW[denoiser_pass.num_recorded :]

    # what the model calls

    def rows(self) -> int | None:
        return None if self._passing is None else self._passing.num_rows

    def leave_pass(self) -> None:
        self._passing = None

    def wants(self, site: Site) -> bool:
        return any(listed.wants(site) for listed in self._listed)

    def check_call(self, site: Site, call: Call) -> None:
        if self._passing is not None and self.prompts is not None:
            check_texts(self._passing, site, call)

    def edit_call(self, site: Site, effects: Effects) -> None:
        call = self._at(site)
        for listed in self._listed:
            listed.edit(effects, call)

    def recorded_row(self, site: Site) -> RecordedRow | None:
        if self.recorded_source is None or self._passing is None:
            return None
        return self.recorded_source.recorded_row(site.name, self._passing.step)

    def on_attention(self, attended: Attended) -> None:
        call = self._at(attended.site)
        if self._looking is not None:
            self._looking(attended, call)
            return
        for listed in self._listed:
            listed.on_attention(attended, call)

    # what is checked

    @property
    def _installed(self) -> Installation:
        assert self.installation is not None
        return self.installation

    @property
    def _is_here(self) -> bool:
        """Whether this thread is the session's."""
        return threading.get_ident() == self._thread

    @property
    def _is_open(self) -> bool:
        return self in self._installed.sessions

    def _add(self, what: Probe | Edit) -> None:
        if not self._is_open:
            raise AttentionError(
                f"{what} comes too late, the session is over: ask for it inside the `with` block, "
                "before the picture is made."
            )
        if self._said is not None:
            what.check(self._said)
        listed = ParticipantEntry(what)
        self._listed.append(listed)
        self._checked = False
        if self._last is not None and self._said is not None:
            listed.begin(self._said, self._size)
            self._installed.listen_to(self)

    def _hear_prompts(
        self, prompts: Sequence[Readable] | None, denoiser_pass: DenoiserPass, begins: bool
    ) -> None:
        told = tuple(prompts or ())
        check_told(self.prompts, told)
        said = told or self.prompts or ()
        if self._said is not None and not begins and said == self._said.prompts:
            return
        if begins and self._said is not None and self._last is not None:
            self._said.mentions.check()
        mentions = Mentions() if begins or self._said is None else self._said.mentions
        self._said = Said(said, self._readers, mentions, denoiser_pass.num_prompts)
        for listed in self._listed:
            listed.what.check(self._said)

    def _begin_run(self, size: tuple[int, int] | None) -> None:
        assert self._said is not None
        self._size = size
        self._checked = False
        for listed in self._listed:
            listed.begin(self._said, size)

    def _at(self, site: Site) -> AttentionCall:
        assert self._passing is not None
        assert self._said is not None
        return AttentionCall(site, self._passing, self._said)

    def finish(self) -> None:
        """Raise ArgumentError or AttentionError for whoever waited in vain."""
        if self._said is not None and self._last is not None:
            self._said.mentions.check()
        check_fired(self._listed, self._last, self._called_back)
