"""Deep blocks every n-th pass: the cache of DeepCache."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from torch import nn

from t2i.attention.hooks.module_hooks import ForwardWrapper, wrapping_forward
from t2i.conditioning.conditioning import Conditioning
from t2i.conditioning.guidance import check_finite_number
from t2i.denoiser.caches.pass_schedules import (
    check_full_passes,
    list_power_passes,
    list_uniform_passes,
)
from t2i.denoiser.caches.pass_state import KeptTensor, PassState
from t2i.denoiser.caches.unet_depth import UNetDepth, find_unet_depth
from t2i.denoiser.families import sd
from t2i.errors import ArgumentError, suggest_choice

SCHEDULES = ("uniform", "power")
MAX_POWER = 10
"""Far above any use: the paper's are 1.2 and 1.4. The search for distinct passes begins there."""


@dataclass(frozen=True, slots=True)
class DeepBlocks:
    """Cache of the deep blocks: they are computed every n-th pass, and reused in between.

    DeepCache, Ma et al. 2023, https://arxiv.org/abs/2312.00858. A cut pass computes the outermost
    `branch` + 1 skip connections of the UNet and the layers that read them; what enters the first
    of these layers from below is that of the last full pass.
    """

    name: ClassVar[str] = "deep"

    every: int = 3
    """The paper's N: a full pass, then N - 1 cut ones."""
    branch: int = 0
    """Outermost skip connections are 0, 1, ...: up to this one cut passes compute; 0 is fastest."""
    schedule: Literal["uniform", "power"] = "uniform"
    """With "power", the paper's non-uniform one, as many full passes are densest at `centre`."""
    centre: float = 0.3
    """Share of the run, the paper's c / T."""
    power: float = 1.4
    """The paper's p."""
    full: tuple[int, ...] = ()
    """Numbers of the full passes, instead of a schedule; later passes are cut."""

    def __post_init__(self) -> None:
        if type(self.every) is not int or self.every < 2:
            raise ArgumentError(
                f"Got every={self.every!r}, expected a whole number from 2 on, such as 3: with "
                "each pass in full a run has no cache."
            )
        if type(self.branch) is not int or self.branch < 0:
            raise ArgumentError(
                f"Got branch={self.branch!r}, expected the number of a skip connection, from 0, "
                "the outermost."
            )
        if self.schedule not in SCHEDULES:
            raise ArgumentError(
                f"Unknown schedule {self.schedule!r}. "
                f"{suggest_choice(str(self.schedule), SCHEDULES)}"
            )
        check_finite_number("centre", self.centre)
        check_finite_number("power", self.power)
        if not 0 <= self.centre < 1:
            raise ArgumentError(
                f"Got centre={self.centre}, expected a share of the run, from 0 to below 1."
            )
        if not 1 < self.power <= MAX_POWER:
            raise ArgumentError(
                f"Got power={self.power}, expected a number above 1, up to {MAX_POWER}, such as "
                "1.4."
            )
        check_full_passes(self.full)

    def check_unet(self, unet: nn.Module) -> None:
        """Raise ArgumentError for a denoiser of other blocks, or that is not so deep."""
        depth = find_unet_depth(unet)
        if self.branch > depth.last_branch:
            raise ArgumentError(
                f"Got branch={self.branch}, but this UNet has {depth.num_skips} skip connections: "
                f"expected 0, which computes least, to {depth.last_branch}."
            )

    def list_cached_modules(self, unet: nn.Module) -> Sequence[str]:
        """Return the names of the modules beyond the branch."""
        return find_unet_depth(unet).list_deeper_modules(self.branch)

    def list_computed_passes(self, called: Sequence[int], num_passes: int) -> Sequence[int]:
        """Return those of the passes `called` that are full ones."""
        if self.full:
            if self.full[-1] >= num_passes:
                raise ArgumentError(
                    f"Got full={'/'.join(map(str, self.full))} for a run of {num_passes} passes, "
                    f"whose last is {num_passes - 1}: leave out the later ones, or take more steps."
                )
            full: Sequence[int] = self.full
        elif self.schedule == "power":
            full = list_power_passes(self.every, self.centre, self.power, num_passes)
        else:
            full = list_uniform_passes(self.every, num_passes)
        return [number for number in called if number in full]

    @contextmanager
    def installing(self, unet: nn.Module, state: PassState) -> Iterator["DeepBlockHooks"]:
        """Install hooks on the modules beyond the branch within the block."""
        hooks = DeepBlockHooks(find_unet_depth(unet), self.branch, state)
        with ExitStack() as stack:
            for name in hooks.modules:
                module = unet.get_submodule(name)
                stack.enter_context(wrapping_forward(module, hooks.build_wrapper(name)))
            yield hooks


class DeepBlockHooks:
    """Hooks of one run on the modules of a UNet beyond a skip connection.

    In a full pass the last of them keeps its output, which the first layer after it reads; in a cut
    pass it returns what was kept, and the others return one channel of what they are given, so that
    diffusers' own forward of the UNet goes on.
    """

    def __init__(self, depth: UNetDepth, branch: int, state: PassState) -> None:
        self.depth, self.branch, self.state = depth, branch, state
        self.modules = depth.list_deeper_modules(branch)
        self.kept: KeptTensor | None = None
        self.is_cut = False
        """True if the pass that began last leaves out the modules."""

    def begin_pass(self, conditioning: Conditioning) -> Conditioning:
        """Decide whether the beginning pass is cut; return its conditioning, if so with zeros in
        place of the residuals of controls at modules that are left out.
        """
        self.is_cut = self.state.may_skip(self.modules[-1], self.kept)
        if not self.is_cut or not any(map(self.is_unused, conditioning.extra)):
            return conditioning
        # One zero a row can be added to a tensor of any size, and changes none.
        extra = {
            name: one.new_zeros(len(one), 1, 1, 1) if self.is_unused(name) else one
            for name, one in conditioning.extra.items()
        }
        return replace(conditioning, extra=extra)

    def is_unused(self, name: str) -> bool:
        """Return True for the name of a residual of controls that is added beyond the branch."""
        if name.startswith(sd.CONTROL_DOWN_PREFIX):
            return int(name.removeprefix(sd.CONTROL_DOWN_PREFIX)) > self.branch
        if name.startswith(sd.ADAPTER_PREFIX):
            number = int(name.removeprefix(sd.ADAPTER_PREFIX))
            return self.depth.find_skip_of_adapter(number) > self.branch
        return name == sd.CONTROL_MID

    def build_wrapper(self, name: str) -> ForwardWrapper:
        """Return the wrapper of the module of this name."""
        is_last, returns_tuple = name == self.modules[-1], ".attentions." in name

        def compute_or_reuse(
            forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> Any:
            state = self.state
            if not (state.is_own_pass and self.is_cut):
                output = forward(*args, **kwargs)
                if is_last and state.is_own_pass:
                    rows = state.split_rows(output[0] if returns_tuple else output)
                    self.kept = state.keep(rows)
                return output
            state.skipped.add(name)
            if is_last:
                assert self.kept is not None
                reused = self.kept.join_rows_of(state.branches)
            else:
                reused = (args[0] if args else kwargs["hidden_states"])[:, :1]
            return (reused,) if returns_tuple else reused

        return compute_or_reuse
