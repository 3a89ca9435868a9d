"""The session that `attend` opens: its probes and edits, and what it tells of them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from t2i.attention.edits.base.edit import Edit
from t2i.attention.probes.concepts import Concept, encode_concepts
from t2i.attention.probes.heat_maps import Convention, HeatMaps
from t2i.attention.probes.negative_prompt_probe import NegativePromptWordsProbe
from t2i.attention.probes.presence import RunModel
from t2i.attention.probes.probe import Probe
from t2i.attention.prompts.prompt_tokenizers import find_prompt_tokenizers
from t2i.attention.prompts.prompt_tokens import PromptTokens, Word
from t2i.attention.session.checks import (
    check_edit_is_supported,
)
from t2i.attention.session.dry_run import forecast_kernels
from t2i.attention.session.report import describe_activity, describe_sites
from t2i.attention.session.session_base import SessionBase
from t2i.attention.site import Site, Sites, StepWindow
from t2i.errors import ArgumentError
from t2i.text.token_windows import EncoderInput


class Session(SessionBase):
    """Session opened by `attend`: probes and edits of the runs inside the block, in one thread."""

    def probe(
        self,
        *words: Word | Concept,
        prompt: int = 0,
        sites: Sites | str | None = None,
        steps: StepWindow = None,
        heads: tuple[int, ...] | None = None,
        grid: tuple[int, int] | None = None,
        convention: Convention = "default",
        grad: bool = False,
        raw: bool = False,
        negative_prompt: EncoderInput | None = None,
    ) -> HeatMaps:
        """Register a probe of words and return its heat maps, which fill during runs.

        Parameters
        ----------
        words : words or phrases of the prompt, "cat" or "red car", or token positions, (3, 4); a
            Concept("whisker") is read beside a prompt that does not contain it
        prompt : number of the prompt in the call, from 0
        sites : a part of their names, or a Sites; every site with text keys when left out
        steps : two floats are shares of the run, two integers the steps [first, end)
        heads : numbers of the heads; all when left out
        grid : H, W of the maps; those of the latents when left out
        convention : see HeatMaps
        grad : keep the maps of the last pass with their gradients (`maps.measurements.live`)
        raw : keep the maps of every step and head (`maps.measurements.raw`)
        negative_prompt : the run's negative prompt, to probe words of it: their attention in the
            unconditional branch of guidance

        Raises ArgumentError for a word that the prompt does not have, as soon as the prompts are
        known.
        """
        if negative_prompt is not None:
            return self.add_probe(
                NegativePromptWordsProbe(
                    words,
                    *(prompt, sites, steps, heads, grid, convention, grad, raw),
                    negative_tokens=self._tokenize_negative_prompt(negative_prompt, words, prompt),
                )
            )
        concepts = [word for word in words if isinstance(word, Concept)]
        reader = encode_concepts(self._x, concepts) if concepts else None
        probe = Probe(words, prompt, sites, steps, heads, grid, convention, grad, raw, reader)
        if sites is None and steps is None and heads is None and grid is None:
            probe.measurements.presence_model = RunModel(self._x)
        return self.add_probe(probe)

    def _tokenize_negative_prompt(
        self, negative_prompt: EncoderInput, words: Sequence[Word | Concept], prompt: int
    ) -> PromptTokens:
        concepts = [str(word) for word in words if isinstance(word, Concept)]
        if concepts:
            raise ArgumentError(
                f"Got Concept({concepts[0]!r}) with negative_prompt: a concept is read beside the "
                "prompt, and words of the negative prompt in its own branch. Probe them one by one."
            )
        prompts = (negative_prompt,) * (prompt + 1)
        return PromptTokens(prompts, find_prompt_tokenizers(self._x, None))

    def add_probe(self, probe: Probe) -> HeatMaps:
        """Register a probe, also one of a class of your own, and return its heat maps."""
        self._add(probe)
        return probe.maps

    def edit(self, edit: Edit) -> None:
        """Register an attention edit in the session; edits act in the order of registration."""
        check_edit_is_supported(edit, self.driven_by_callback)
        self._add(edit)

    def sites(self) -> list[Site]:
        """Return the attention sites of the model, as discovered in the last run.

        Before the first run a pipeline runs one step to discover them, which no probe reads and no
        edit changes. A model alone, or a call with other arguments, has to be run first.
        """
        if not self._installed.sites:
            self._discover_sites()
        return self._installed.list_sites()

    def explain(self, num_inference_steps: int = 50) -> str:
        """Return a line of text per attention site: the kernels that compute it, its probes and
        edits, bytes kept.

        Before the first run it is a forecast for a run of so many steps.
        """
        if self._last is not None:
            kernels = self._installed.attention.kernel_descriptions
            return describe_sites(self.sites(), kernels, self._entries, self._last)
        if self._trial_pass is None:
            self._discover_sites()
        assert self._trial_pass is not None
        one_pass = replace(self._trial_pass, num_steps=num_inference_steps)
        plans = forecast_kernels(self.sites(), self._entries, self._prompts.tokens, one_pass)
        return describe_sites(self.sites(), plans, self._entries, one_pass)

    def report(self) -> str:
        """Return a line per probe and edit: the numbers of sites and steps at which it acted."""
        return describe_activity(self._entries)

    def on_step_end(
        self, pipeline: object, step: int, timestep: object, tensors: dict[str, Any]
    ) -> dict[str, Any]:
        """Edit the latents after a step, as `callback_on_step_end` of diffusers' pipelines.

        With our pipelines, which need no callback, it changes nothing.
        """
        if self.driven_by_callback and "latents" in tensors:
            tensors["latents"] = self.edit_latents_after_step(tensors["latents"])
        return tensors
