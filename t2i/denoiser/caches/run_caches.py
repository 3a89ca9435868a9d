"""The caches of one run: installed in its UNet while it runs, and told of each of its passes.

B batch rows, C channels, H W latent size.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from t2i.attention.hooks.compiled import is_compiled
from t2i.conditioning.conditioning import Conditioning
from t2i.conditioning.run_state import RunState, StepCallback
from t2i.denoiser.caches.cache import Cache, CacheHooks
from t2i.denoiser.caches.pass_state import PassState, take_text_snapshot
from t2i.denoiser.caches.registry import (
    CACHES,
    check_are_caches,
    check_caches_go_together,
    format_cache,
)
from t2i.errors import ArgumentError

DenoiseFunction = Callable[[Tensor, Tensor, Conditioning], Tensor]
"""(latents (rows, C, H, W), timestep, conditioning of the rows) -> prediction (rows, C, H, W)."""


class RunCaches(StepCallback):
    """Caches of one run, as a step callback that comes last: it is told when the run's own pass is
    next, and not an extra one.

    They are also what sessions ask which attention calls are left out, see
    t2i.conditioning.run_state.SkippedCalls.
    """

    def __init__(self, caches: Sequence[Cache], unet: nn.Module, num_passes: int) -> None:
        check_caches(caches, unet)
        # Whole blocks first: what another cache leaves out within them depends on their passes.
        order = list(CACHES.values())
        self.caches = sorted(caches, key=lambda cache: order.index(type(cache)))
        self.num_passes = num_passes
        self.num_cut_passes = 0
        self.hooks: list[CacheHooks] = []
        self._computed: dict[str, frozenset[int]] = {}
        for cache in self.caches:
            own: dict[str, frozenset[int]] = {}
            for module in cache.list_cached_modules(unet):
                called = self.list_computed_passes(module)
                own[module] = frozenset(cache.list_computed_passes(called, num_passes))
            self._computed |= own
        self.state = PassState(self._computed)
        self._next: RunState | None = None
        """The run, from before its own pass until that begins."""

    @property
    def description(self) -> str:
        """The caches as the command line takes them."""
        return " and ".join(map(format_cache, self.caches))

    def list_computed_passes(self, module: str) -> Sequence[int]:
        """Return the passes of the run that compute a module of the UNet, by the schedules alone:
        a change of the text lets further ones compute it.
        """
        around = [name for name in self._computed if (module + ".").startswith(name + ".")]
        return [
            number
            for number in range(self.num_passes)
            if all(number in self._computed[name] for name in around)
        ]

    def is_skipped(self, module: str) -> bool:
        """Return True if the last pass left out a module of the UNet."""
        return any((module + ".").startswith(name + ".") for name in self.state.skipped)

    def before_pass(self, run: RunState) -> None:
        """Expect the run's own pass of this step."""
        self._next = run

    @contextmanager
    def entering_pass(self, conditioning: Conditioning) -> Iterator[Conditioning]:
        """Let a pass of these rows run within the block, and yield the conditioning for it."""
        run, self._next = self._next, None
        if run is None:  # an extra pass
            yield conditioning
            return
        state = self.state
        state.number, state.branches = run.step, conditioning.branches
        state.text = take_text_snapshot(run.conditioning)
        state.skipped.clear()
        try:
            for hooks in self.hooks:
                conditioning = hooks.begin_pass(conditioning)
            yield conditioning
        finally:
            state.number = None
            self.num_cut_passes += bool(state.skipped)

    def drop_kept_tensors(self) -> None:
        """Let go of all that was kept of the run's passes: the run state and sessions refer to the
        caches beyond the run.
        """
        self.hooks, self.state.text, self._next = [], None, None


@contextmanager
def caching_passes(
    denoise: DenoiseFunction, unet: Any, run: RunState, caches: Sequence[Cache] | None
) -> Iterator[tuple[DenoiseFunction, list[StepCallback]]]:
    """Install the caches of a run in its UNet within the block; yield `denoise` with them, and the
    step callbacks that have to come after all others of the run.

    Without caches it is `denoise` itself. Warns of a run of which no pass was cut.
    """
    if not caches:
        yield denoise, []
        return
    own = RunCaches(caches, unet, run.num_steps)

    def denoise_with_caches(
        latents_BCHW: Tensor, timestep: Tensor, conditioning: Conditioning
    ) -> Tensor:
        with own.entering_pass(conditioning) as remaining:
            return denoise(latents_BCHW, timestep, remaining)

    with ExitStack() as stack:
        own.hooks = [stack.enter_context(cache.installing(unet, own.state)) for cache in own.caches]
        run.skipped_calls = own
        stack.callback(setattr, run, "skipped_calls", None)
        stack.callback(own.drop_kept_tensors)
        yield denoise_with_caches, [own]
    if own.num_cut_passes == 0 and not run.stop:
        warnings.warn(
            f"The cache {own.description} cut none of the {run.num_steps} passes of the run: "
            "it is too short, or its text changes at each step. Leave the cache out, or take "
            "more steps.",
            stacklevel=2,
        )


def check_caches(caches: object, unet: nn.Module) -> None:
    """Raise ArgumentError for objects that are no caches, two that exclude one another, and a
    denoiser that they do not fit; None is none.
    """
    if caches is None:
        return
    caches = check_are_caches(caches)
    check_caches_go_together(caches)
    if not caches:
        return
    if is_compiled(unet):
        raise ArgumentError(
            "Got a cache for a compiled UNet, of which no part can be left out: leave the cache "
            "out, or load the model without torch.compile."
        )
    for cache in caches:
        cache.check_unet(unet)
