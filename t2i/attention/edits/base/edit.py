"""What every edit is: data that says what to change, where and when."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

from torch import Tensor

from t2i.attention.call import AttentionCall
from t2i.attention.compute.edit_plan import EditPlan
from t2i.attention.compute.probabilities import AttentionProbabilities
from t2i.attention.denoiser_pass import DenoiserPass, check_prompt
from t2i.attention.probes.probe import Probe
from t2i.attention.prompts.prompt_tokens import PromptTokens
from t2i.attention.site import (
    Site,
    Sites,
    StepWindow,
    as_sites,
    check_heads,
    check_step_window,
    is_empty_window,
    steps_in_window,
)
from t2i.errors import ArgumentError

LARGEST = 1_000_000
"""Of the numbers of an edit."""
Made = TypeVar("Made")
AttentionCallback = Callable[[AttentionProbabilities, AttentionCall], None]
RunPass = Callable[[Tensor, AttentionCallback], None]
"""(latents (B, C, H, W), who hears of each call of attention in the pass)"""


@dataclass(frozen=True, kw_only=True)
class Edit:
    """Base of the edits.

    steps : see t2i.attention.site.StepWindow
    sites : a part of their names, or a Sites; within what the edit is made for
    heads : their numbers; None for all
    """

    kinds: ClassVar[tuple[str, ...]] = ("cross", "joint")
    """The kinds of site it is made for."""
    longer_table: ClassVar[bool] = False
    """Whether shares of the run count in a table of one more step, as published for words."""

    reads_only: ClassVar[bool] = False
    """False for every edit; True for probes, which change nothing."""
    edits_latents: ClassVar[bool] = False
    """True for an edit that acts on the latents between passes, and not on attention."""
    looks_ahead: ClassVar[bool] = False
    """True for an edit that calls the denoiser before a step's own pass; see `before_pass`."""

    steps: StepWindow = None
    sites: Sites | str | None = None
    heads: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        check_step_window("steps", self.steps)
        check_heads(self.heads)

    def fits(self, site: Site) -> bool:
        """Whether it is made for the site, and wants it."""
        return site.kind in self.kinds and as_sites(self.sites).matches(site)

    def covers(self, step: int, num_steps: int) -> bool:
        """Whether it acts at this step."""
        return step in steps_in_window(self.steps, num_steps, num_steps + self.longer_table)

    @property
    def does_nothing(self) -> bool:
        """Whether it was asked for nothing, so that nobody should miss its effect."""
        return is_empty_window(self.steps)

    def prompts(self) -> Sequence[tuple[str, int]]:
        """The prompts that it names, under the names of its arguments."""
        return [
            (name, getattr(self, name))
            for name in ("source", "target")
            if getattr(self, name, None) is not None
        ]

    def check(self, prompt_tokens: PromptTokens) -> None:
        """Raise ArgumentError for prompts and words that are not there."""
        named = [prompt for _, prompt in self.prompts()]
        if len(named) != len(set(named)):
            raise ArgumentError(
                f"Got {type(self).__name__} with source={named[0]} and target={named[-1]}: a "
                "prompt is not edited after itself; name two of them."
            )
        for name, prompt in self.prompts():
            check_prompt(name, prompt, prompt_tokens.num_prompts)

    def probes(self) -> Sequence[Probe]:
        """What it reads itself, fresh for a session; for `after_step`."""
        return ()

    def before_pass(
        self, latents_BCHW: Tensor, denoiser_pass: DenoiserPass, look: RunPass
    ) -> Tensor:
        """The latents before a step, one row per picture, as the edit wants them.

        `look` runs the denoiser on latents and tells of its calls of attention, also of some where
        the edit does not fit; `denoiser_pass` is what its passes are: the branch "cond" alone.
        """
        return latents_BCHW

    def after_step(
        self, latents_BCHW: Tensor, denoiser_pass: DenoiserPass, probes: Sequence[Probe]
    ) -> Tensor:
        """The latents after a step, one row per picture, as the edit wants them."""
        return latents_BCHW

    def apply(self, plan: EditPlan, call: AttentionCall) -> None:
        """Say what is wanted of this call of attention."""
        return None

    def cached(self, call: AttentionCall, make: Callable[[], Made]) -> Made:
        """What `make` gives, made once for all sites of a step with as many tokens and heads."""
        moment = (call.denoiser_pass.step, call.denoiser_pass.num_steps)
        return call.prompt_tokens.cached(
            (id(self), call.text_length, call.site.heads), make, moment
        )

    def of_heads(
        self, call: AttentionCall, columns_TT: Tensor | None, kept_T: Tensor
    ) -> tuple[Tensor | None, Tensor]:
        """(1 or N, T, T) and (1 or N, T): other heads keep their own map."""
        if self.heads is None:
            return None if columns_TT is None else columns_TT[None], kept_T[None]
        kept_NT = kept_T.new_ones(call.site.heads, len(kept_T))
        kept_NT[list(self.heads)] = kept_T
        if columns_TT is None:
            return None, kept_NT
        columns_NTT = columns_TT.new_zeros(call.site.heads, *columns_TT.shape)
        columns_NTT[list(self.heads)] = columns_TT
        return columns_NTT, kept_NT
