"""Cross-attention until a gate: the cache of T-GATE."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from t2i.attention.hooks.module_hooks import ForwardWrapper, wrapping_forward
from t2i.conditioning.conditioning import Branch, Conditioning
from t2i.denoiser.caches.pass_state import KeptTensor, PassState
from t2i.denoiser.text_key_value_cache import is_text_cross_attention
from t2i.errors import ArgumentError

UNCOND = "uncond"


@dataclass(frozen=True, slots=True)
class GatedCrossAttention:
    """Cache of cross-attention: its outputs are computed until a gate, and reused after it.

    T-GATE, Zhang et al. 2024, https://arxiv.org/abs/2404.02747, Section 4: what is kept of the last
    pass before the gate is the mean of the conditional and the unconditional output. The paper also
    drops guidance there, which here is a choice of its own: "cfg:stop=0.4".
    """

    name: ClassVar[str] = "cross"

    after: int | float = 0.4
    """The gate, the paper's m: number of passes before it, or as a float their share of the run."""

    def __post_init__(self) -> None:
        is_share = isinstance(self.after, float) and 0 < self.after < 1
        if not is_share and not (type(self.after) is int and self.after > 0):
            raise ArgumentError(
                f"Got after={self.after!r}, expected a number of passes from 1 on, such as 10, or "
                "a share of the run between 0 and 1, such as 0.4: the first pass has nothing to "
                "reuse."
            )

    def check_unet(self, unet: nn.Module) -> None:
        """Raise ArgumentError for a denoiser without cross-attention to the text."""
        if not self.list_cached_modules(unet):
            raise ArgumentError(
                f"Got a cache of cross-attention for a {type(unet).__name__} without any that "
                "diffusers' class Attention computes from the text alone. Leave the cache out."
            )

    def list_cached_modules(self, unet: nn.Module) -> Sequence[str]:
        """Return the names of the modules of cross-attention."""
        return [name for name, one in unet.named_modules() if is_text_cross_attention(one)]

    def list_computed_passes(self, called: Sequence[int], num_passes: int) -> Sequence[int]:
        """Return those of the passes `called` that are before the gate; if the last before it is
        not among them, the next one after it.
        """
        gate = int(self.after * num_passes) if isinstance(self.after, float) else self.after
        if gate == 0:
            raise ArgumentError(
                f"Got after={self.after} for a run of {num_passes} passes: its gate is before the "
                "first, which cannot be skipped. Raise it, or take more steps."
            )
        kept = next((number for number in called if number >= gate - 1), num_passes)
        return [number for number in called if number < gate or number == kept]

    @contextmanager
    def installing(self, unet: nn.Module, state: PassState) -> Iterator["GatedCrossAttentionHooks"]:
        """Install hooks on the modules of cross-attention within the block."""
        hooks = GatedCrossAttentionHooks(state)
        with ExitStack() as stack:
            for name in self.list_cached_modules(unet):
                module = unet.get_submodule(name)
                stack.enter_context(wrapping_forward(module, hooks.build_wrapper(name)))
            yield hooks


class GatedCrossAttentionHooks:
    """Hooks of one run on the modules of cross-attention, each of which keeps its output of the
    last pass that computes it.
    """

    def __init__(self, state: PassState) -> None:
        self.state = state
        self.kept: dict[str, KeptTensor] = {}

    def begin_pass(self, conditioning: Conditioning) -> Conditioning:
        """Return the conditioning as it is: layers that are not cut read all of it."""
        return conditioning

    def build_wrapper(self, name: str) -> ForwardWrapper:
        """Return the wrapper of the module of this name."""
        last_pass = max(self.state.computed_passes[name])

        def compute_or_reuse(
            forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> Any:
            state, kept = self.state, self.kept.get(name)
            if kept is not None and state.may_skip(name, kept):
                state.skipped.add(name)
                return kept.join_rows_of(state.branches)
            output = forward(*args, **kwargs)
            if state.is_own_pass and state.number is not None and state.number >= last_pass:
                self.kept[name] = state.keep(average_with_uncond(state.split_rows(output)))
            return output

        return compute_or_reuse


def average_with_uncond(rows_by_branch: Mapping[Branch, Tensor]) -> dict[Branch, Tensor]:
    """Return the mean of each branch's rows and those of "uncond", which itself gets that of
    "cond"; without "uncond" the rows as they are.
    """
    uncond = rows_by_branch.get(UNCOND)
    if uncond is None:
        return dict(rows_by_branch)
    means = {name: (uncond + rows) / 2 for name, rows in rows_by_branch.items()}
    return means | {UNCOND: means["cond"]}
