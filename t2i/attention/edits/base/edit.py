"""Base class of the edits: frozen data that says what to change, where and when."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, TypeVar

from torch import Tensor

from t2i.attention.call import AttentionCall
from t2i.attention.compute.edit_plan import EditPlan
from t2i.attention.compute.probabilities import AttentionProbabilities
from t2i.attention.denoiser_pass import DenoiserPass, check_prompt_index
from t2i.attention.prompts.prompt_tokens import PromptTokens
from t2i.attention.site import (
    Site,
    Sites,
    StepWindow,
    as_sites,
    check_heads,
    check_step_window,
    is_empty_step_window,
    list_steps_in_window,
)
from t2i.errors import ArgumentError

if TYPE_CHECKING:
    from t2i.attention.probes.probe import Probe

MAX_ABSOLUTE_VALUE = 1_000_000
"""Largest absolute value of an edit's numbers."""
OMITTED_IF_EMPTY = "omitted if empty"
"""Key in the metadata of a dataclass field that JSON data leaves out while it is empty."""
ResultT = TypeVar("ResultT")
AttentionCallback = Callable[[AttentionProbabilities, AttentionCall], None]
RunPass = Callable[[Tensor, AttentionCallback], None]
"""(latents (B, C, H, W), callback for each attention call of the pass) -> None"""


@dataclass(frozen=True, kw_only=True)
class Edit:
    """Base class of attention edits: each declares how it changes the attention or the latents of
    a run, at which steps, sites and heads.

    steps : window of steps, see t2i.attention.site
    sites : part of the sites' names, or a Sites; the edit's own `kinds` apply as well
    heads : numbers of the heads; None for all
    """

    kinds: ClassVar[tuple[str, ...]] = ("cross", "joint")
    """Kinds of site that it edits."""
    longer_table: ClassVar[bool] = False
    """True if fractions of the run count num_steps + 1 steps, as published for words."""

    reads_only: ClassVar[bool] = False
    """False for every edit; True for probes, which change nothing."""
    edits_latents: ClassVar[bool] = False
    """True for an edit that acts on the latents between passes, and not on attention."""
    needs_extra_passes: ClassVar[bool] = False
    """True for an edit that calls the denoiser itself before a step's own pass; see
    `edit_latents_before_pass`."""

    steps: StepWindow = None
    sites: Sites | str | None = None
    heads: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        check_step_window("steps", self.steps)
        check_heads(self.heads)

    def acts_at_site(self, site: Site) -> bool:
        """Return True if the edit changes attention at this site."""
        return site.kind in self.kinds and as_sites(self.sites).matches(site)

    def acts_at_step(self, step: int, num_steps: int) -> bool:
        """Return True if the edit's window of steps contains this step."""
        return step in list_steps_in_window(self.steps, num_steps, num_steps + self.longer_table)

    def acts_at_site_and_step(self, site: Site, step: int, num_steps: int) -> bool:
        """Return True if the edit changes attention at this site in this step."""
        return self.acts_at_site(site) and self.acts_at_step(step, num_steps)

    @property
    def does_nothing(self) -> bool:
        """Return True if the edit's arguments ask for no change, so that having no effect is no
        error.
        """
        return is_empty_step_window(self.steps)

    def list_named_prompt_indices(self) -> Sequence[tuple[str, int]]:
        """Return the prompts that the edit's arguments `source` and `target` name, as pairs of
        argument name and prompt index; an argument that is absent or None is left out.
        """
        return [
            (name, getattr(self, name))
            for name in ("source", "target")
            if getattr(self, name, None) is not None
        ]

    def check_prompts_and_words(self, prompt_tokens: PromptTokens) -> None:
        """Raise ArgumentError if the edit names a prompt that the run does not have, or a prompt as
        its own source; edits with words check these too.
        """
        named = [prompt for _, prompt in self.list_named_prompt_indices()]
        if len(named) != len(set(named)):
            raise ArgumentError(
                f"Got {type(self).__name__} with source={named[0]} and target={named[-1]}: a "
                "prompt cannot be its own source; name two of them."
            )
        for name, prompt in self.list_named_prompt_indices():
            check_prompt_index(name, prompt, prompt_tokens.num_prompts)

    def list_probes(self) -> Sequence["Probe"]:
        """Return new probes whose measurements `edit_latents_after_step` reads; none by default."""
        return ()

    def edit_latents_before_pass(
        self, latents_BCHW: Tensor, denoiser_pass: DenoiserPass, run_pass: RunPass
    ) -> Tensor:
        """Return the latents (B, C, H, W) that the denoiser reads at this step, by default
        unchanged.

        denoiser_pass : the passes of `run_pass`, which have the branch "cond" alone
        run_pass : runs the denoiser on latents and calls its callback for each attention call,
            also at sites that the edit does not fit
        """
        return latents_BCHW

    def edit_latents_after_step(
        self, latents_BCHW: Tensor, denoiser_pass: DenoiserPass, probes: Sequence["Probe"]
    ) -> Tensor:
        """Return the latents (B, C, H, W) that replace those after a step, by default unchanged."""
        return latents_BCHW

    def add_to_plan(self, plan: EditPlan, call: AttentionCall) -> None:
        """Add the edit's changes of this attention call to the edit plan; none by default."""
        return

    def compute_once_per_step(self, call: AttentionCall, make: Callable[[], ResultT]) -> ResultT:
        """Return the result of `make()`, computed once a step and shared by all sites with equal
        numbers of text tokens and heads.
        """
        moment = (call.denoiser_pass.step, call.denoiser_pass.num_steps)
        return call.prompt_tokens.get_or_compute(
            (id(self), call.text_length, call.site.heads), make, moment
        )

    def restrict_mix_to_heads(
        self, call: AttentionCall, columns_TT: Tensor | None, kept_T: Tensor
    ) -> tuple[Tensor | None, Tensor]:
        """Return a linear change of the attention map, P' = P_source A + P B, limited to the edit's
        heads: A (1 or N, T, T) and the diagonal of B (1 or N, T). Other heads keep their map.
        """
        if self.heads is None:
            return None if columns_TT is None else columns_TT[None], kept_T[None]
        kept_NT = kept_T.new_ones(call.site.heads, len(kept_T))
        kept_NT[list(self.heads)] = kept_T
        if columns_TT is None:
            return None, kept_NT
        columns_NTT = columns_TT.new_zeros(call.site.heads, *columns_TT.shape)
        columns_NTT[list(self.heads)] = columns_TT
        return columns_NTT, kept_NT
