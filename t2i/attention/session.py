"""`attend`: look into the attention of a pipeline's runs, and edit it.

B batch rows, C channels, H W latent size.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from t2i.attention import report
from t2i.attention.attended import Attended
from t2i.attention.driver import Overhearing, Visiting, readers_of, root_of
from t2i.attention.edits.edit import At, Edit
from t2i.attention.effects import Effects
from t2i.attention.installation import Installation, installed
from t2i.attention.listed import Listed
from t2i.attention.maps import Convention, HeatMaps
from t2i.attention.probe import Probe
from t2i.attention.rows import Pass
from t2i.attention.said import Said, Word, check_prompts
from t2i.attention.site import Site, Sites, Window, no_site
from t2i.errors import ArgumentError, AttentionError
from t2i.text.layout import Readable

GIBIBYTE = 1 << 30


class Session:
    """Probes and edits of the runs inside one `with attend(...)`."""

    def __init__(
        self, prompts: Sequence[Readable] | None, readers: tuple[Any, ...], budget: int
    ) -> None:
        self.prompts = None if prompts is None else check_prompts(prompts)
        self.budget = budget
        self._readers = readers
        self._said = None if self.prompts is None else Said(self.prompts, readers)
        self._listed: list[Listed] = []
        self._passing: Pass | None = None
        self._last: Pass | None = None
        self._called_back = False
        self._size: tuple[int, int] | None = None
        self.driven_by_callback = False
        self.installation: Installation | None = None

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
        if not isinstance(edit, Edit):
            raise ArgumentError(
                f"Got a {type(edit).__name__}, expected an edit, such as Replace(source=0)."
            )
        self._add(edit)

    def sites(self) -> list[Site]:
        """Where attention happens, as the last run showed."""
        found = {} if self.installation is None else self.installation.sites
        if not found:
            raise AttentionError(
                "The sites are found by running, and nothing ran yet: make a picture inside the "
                "`with` block first; one step will do."
            )
        return list(found.values())

    def explain(self) -> str:
        """Site by site: which kernel runs, for whom, and the bytes that are kept."""
        assert self.installation is not None
        return report.explain(self.sites(), self.installation.kernels, self._listed, self._last)

    def report(self) -> str:
        """How many sites and steps each probe and each edit has met."""
        return report.report(self._listed)

    def on_step_end(
        self, pipeline: object, step: int, timestep: object, tensors: dict[str, Any]
    ) -> dict[str, Any]:
        """For `callback_on_step_end`, of pipelines that are not ours; in ours it does nothing."""
        self._called_back = True
        if self.driven_by_callback and "latents" in tensors:
            tensors["latents"] = self.after_step(tensors["latents"])
        return tensors

    # what its driver calls

    def begin_pass(
        self, passing: Pass, prompts: Sequence[Readable] | None, shape: object, size: Any
    ) -> None:
        assert self.installation is not None
        self._hear_prompts(prompts)
        if passing.step == 0 or self._last is None or passing.step < self._last.step:
            self._begin_run(size)
        self._passing = self._last = passing
        self.installation.begin_pass(shape)

    def end_pass(self) -> None:
        assert self.installation is not None
        self._passing = None
        if self.installation.end_pass():
            self._check_sites()

    def after_step(self, latents_BCHW: Tensor) -> Tensor:
        """The latents (B, C, H, W) as the edits want them, one row per picture."""
        passing = self._last
        if passing is None:
            return latents_BCHW
        for listed in self._listed:
            if isinstance(listed.what, Edit) and listed.covers(passing):
                latents_BCHW = listed.after_step(latents_BCHW, passing)
        return latents_BCHW

    # what the model calls

    def rows(self) -> int | None:
        return None if self._passing is None else self._passing.rows

    def wants(self, site: Site) -> bool:
        return any(listed.wants(site) for listed in self._listed)

    def edit_call(self, site: Site, effects: Effects) -> None:
        at = self._at(site)
        for listed in self._listed:
            listed.edit(effects, at)

    def hear(self, attended: Attended) -> None:
        at = self._at(attended.site)
        for listed in self._listed:
            listed.hear(attended, at)

    # what is checked

    def _add(self, what: Probe | Edit) -> None:
        if self._said is not None:
            what.check(self._said)
        listed = Listed(what)
        self._listed.append(listed)
        if self._last is not None and self.installation is not None:
            assert self._said is not None
            listed.begin(self._said, self._size)
            self.installation.listen_to(self)

    def _hear_prompts(self, prompts: Sequence[Readable] | None) -> None:
        if prompts is not None:
            said = tuple(prompts)
            if self.prompts is not None and said and said != self.prompts:
                raise ArgumentError(
                    f"attend() was told the prompts {list(self.prompts)}, and the pipeline was "
                    f"called with {list(said)}: leave prompts= out, the pipeline tells them."
                )
            if self._said is None or said != self._said.prompts:
                self._said = Said(said or (self.prompts or ()), self._readers)
                for listed in self._listed:
                    listed.what.check(self._said)
        elif self._said is None:
            self._said = Said((), self._readers)

    def _begin_run(self, size: tuple[int, int] | None) -> None:
        assert self._said is not None
        self._size = size
        for listed in self._listed:
            listed.begin(self._said, size)

    def _check_sites(self) -> None:
        """Once the sites are known: nobody may wait in vain, nor keep more than there is room."""
        assert self.installation is not None
        assert self._last is not None
        sites = list(self.installation.sites.values())
        for listed in self._listed:
            if not any(listed.wants(site) for site in sites):
                raise AttentionError(no_site(listed.what, sites))
        kept = sum(listed.bytes(sites, self._last) for listed in self._listed)
        if kept > self.budget:
            raise AttentionError(
                f"The probes would keep {kept / GIBIBYTE:.2f} GiB in this run, and the budget is "
                f"{self.budget / GIBIBYTE:.2f} GiB: probe fewer sites, steps or words, leave out "
                "raw=True, or raise attend(..., budget=bytes)."
            )

    def _at(self, site: Site) -> At:
        assert self._passing is not None
        assert self._said is not None
        return At(site, self._passing, self._said)

    def finish(self) -> None:
        """Raise AttentionError for whoever waited in vain."""
        idle = [listed for listed in self._listed if not listed.at_work]
        if not idle:
            return
        if self._last is None:
            raise AttentionError(
                f"{idle[0].what} never fired: no picture was made inside the `with` block, or by "
                "another pipeline than the one that was given to attend()."
            )
        hint = (
            "pass callback_on_step_end=attn.on_step_end to the pipeline"
            if idle[0].needs_callback and not self._called_back
            else f"the run had {self._last.num_steps} steps; look at its steps, words and prompts"
        )
        raise AttentionError(f"{idle[0].what} never fired: {hint}.")


@contextmanager
def attend(
    x: Any,
    prompts: Sequence[Readable] | None = None,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    budget: int = GIBIBYTE,
) -> Iterator[Session]:
    """Look into the attention of everything `x` does inside, and edit it.

    Parameters
    ----------
    x : one of our pipelines, any of diffusers', or a model whose attention is torch's
    prompts : of the call, in its order; ours tell them themselves
    tokenizer : of a model alone, to find words by
    budget : bytes that probes may keep, known before step 1

    Raises AttentionError for a probe or an edit that met no site, never fired, or was bypassed.
    Afterwards `x` holds the very same objects as before, also after an exception.

    >>> with attend(pipe) as attn:
    ...     maps = attn.probe("cat")
    ...     image = pipe("a cat on a chair").images[0]
    >>> maps.overlay("cat", image)
    """
    session = Session(prompts, readers_of(x, tokenizer), budget)
    root = root_of(x)
    ours = hasattr(x, "visitors")
    driver = Visiting(session, x) if ours else Overhearing(session, x, root)
    session.driven_by_callback = not ours
    with ExitStack() as stack:
        session.installation = stack.enter_context(installed(root, session))
        driver.install(stack)
        yield session
        session.finish()
