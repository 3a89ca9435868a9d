"""State of a pipeline call, which callbacks and other threads read and set on the pipeline."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, ClassVar, overload

from torch import nn

from pipelines.run.exclusive_access import WaitInterruptFlag, holding_locks
from pipelines.run.own_scheduler import using_scheduler_copy
from t2i.conditioning.run_state import Guidance, StepCallback
from t2i.denoiser.offloading import is_offloaded
from t2i.errors import ArgumentError


@dataclass(eq=False, kw_only=True)
class CallState(WaitInterruptFlag):
    """State of one pipeline call: its guidance, attention options, scheduler copies and step
    callbacks, and whether it was interrupted.

    schedulers : name of the part -> the pipeline's scheduler, and the call's own copy
    step_callbacks : those of the pipeline that take part in this call
    progress_label : of the progress bar, instead of the pipeline's own; "" for that
    """

    guidance_scale: float
    guidance_rescale: float = 0.0
    custom_guidance: Guidance | None = None
    clip_skip: int | None = None
    cross_attention_kwargs: Mapping[str, object] | None = None
    interrupt: bool = False
    num_timesteps: int = 0
    schedulers: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    step_callbacks: Sequence[StepCallback] = ()
    progress_label: str = ""


_here: ContextVar[tuple[tuple[object, CallState], ...]] = ContextVar("calls", default=())
"""Running calls of this thread, the innermost last, each with its pipeline."""


@dataclass(frozen=True)
class CallOverrides:
    """Scheduler, further step callbacks and progress label that calls of a pipeline use instead of
    the pipeline's own.

    scheduler : None for the pipeline's own
    """

    scheduler: Any
    step_callbacks: Sequence[StepCallback] = ()
    progress_label: str = ""


_overrides: ContextVar[tuple[tuple[object, CallOverrides], ...]] = ContextVar(
    "overrides", default=()
)
"""Overrides of the calls that this thread begins, each with its pipeline, the newest last."""


class CallStateAttribute:
    """Descriptor of a pipeline attribute that is kept in the state of a call.

    Inside a call, as in its callbacks, it is that call's. Outside, reading returns that of the call
    that began last, and setting it sets every running call.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, pipe: None, owner: object) -> "CallStateAttribute": ...
    @overload
    def __get__(self, pipe: "CallStateMixin", owner: object) -> Any: ...
    def __get__(self, pipe: "CallStateMixin | None", owner: object) -> Any:
        if pipe is None:
            return self
        state = pipe.current_call_state
        if state is None:
            raise AttributeError(f"{type(pipe).__name__} has no {self.name}: nothing was called.")
        return getattr(state, self.name)

    def __set__(self, pipe: "CallStateMixin", value: Any) -> None:
        for state in pipe.list_call_states_to_update():
            setattr(state, self.name, value)


class CallSchedulerAttribute:
    """Descriptor of a pipeline's scheduler; inside a call it is the call's own copy."""

    def __set_name__(self, owner: object, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, pipe: None, owner: object) -> "CallSchedulerAttribute": ...
    @overload
    def __get__(self, pipe: "CallStateMixin", owner: object) -> Any: ...
    def __get__(self, pipe: "CallStateMixin | None", owner: object) -> Any:
        if pipe is None:
            return self
        if self.name not in vars(pipe):
            raise AttributeError(f"{type(pipe).__name__} has no {self.name}.")
        kept = vars(pipe)[self.name]
        state = pipe.innermost_call_state
        shared, own = (
            (None, None) if state is None else state.schedulers.get(self.name, (None,) * 2)
        )
        return own if kept is shared else kept

    def __set__(self, pipe: "CallStateMixin", value: Any) -> None:
        vars(pipe)[self.name] = value


class CallStateMixin:
    """Mixin that gives each call its own state, under diffusers' names for it."""

    scheduler_names: ClassVar[tuple[str, ...]] = ("scheduler",)
    """Names of the schedulers of which each call has its own copy."""

    scheduler = CallSchedulerAttribute()
    _guidance_scale = CallStateAttribute("guidance_scale")
    _guidance_rescale = CallStateAttribute("guidance_rescale")
    _clip_skip = CallStateAttribute("clip_skip")
    _cross_attention_kwargs = CallStateAttribute("cross_attention_kwargs")
    _interrupt = CallStateAttribute("interrupt")
    _num_timesteps = CallStateAttribute("num_timesteps")

    def __init__(self) -> None:
        super().__init__()
        self.step_callbacks: list[StepCallback] = []
        """Step callbacks of every run, called before the user's callback."""
        self._calls: list[CallState] = []
        self._waiting: list[WaitInterruptFlag] = []
        self._last: CallState | None = None

    @abstractmethod
    def build_current_guidance(self) -> Guidance:
        """Return the Guidance of the current call: its own, or one made from its scale."""

    @property
    def guidance_scale(self) -> float:
        """Guidance scale of the current call."""
        scale: float = self._guidance_scale
        return scale

    @property
    def do_classifier_free_guidance(self) -> bool:
        """True if the current call computes an unconditional branch."""
        return "uncond" in self.build_current_guidance().possible_branches

    @property
    def num_timesteps(self) -> int:
        """Number of timesteps of the current call."""
        count: int = self._num_timesteps
        return count

    @property
    def interrupt(self) -> bool:
        """True once `_interrupt` of the pipeline is set, which ends a call early.

        Set by a callback it ends that callback's call; set by another thread it ends every call of
        this pipeline that is running or waiting.
        """
        interrupt: bool = self._interrupt
        return interrupt

    # access to the state

    @property
    def innermost_call_state(self) -> CallState | None:
        """State of this thread's innermost call of this pipeline, or None."""
        return next((state for pipe, state in reversed(_here.get()) if pipe is self), None)

    @property
    def current_call_state(self) -> CallState | None:
        """State of this thread's innermost call, else of the call that began last."""
        under_way = self._calls
        return self.innermost_call_state or (under_way[-1] if under_way else self._last)

    def list_call_states_to_update(self) -> Sequence[WaitInterruptFlag]:
        """Return the call states that an attribute assigned to the pipeline is written to."""
        state = self.innermost_call_state
        if state is not None:
            return [state]
        under_way = [*self._calls, *self._waiting]
        return under_way or [one for one in (self._last,) if one is not None]

    @contextmanager
    def entering_call(self, state: CallState) -> Iterator[CallState]:
        """Make `state` that of the pipeline's current call in this thread, within the block: it
        gets copies of the schedulers and the step callbacks, and offloaded models are locked.

        Where hooks move the models' weights between devices, it first waits until no other
        thread's call uses these models; they are offloaded again at the end.
        """
        pipe: Any = self
        around = [one for its, one in _here.get() if its is self]
        # A call made by a callback is not seen by the step callbacks of the outer call.
        busy = {id(step_callback) for one in around for step_callback in one.step_callbacks}
        state.step_callbacks = [
            step_callback for step_callback in self.step_callbacks if id(step_callback) not in busy
        ]
        overrides = next((own for pipe, own in reversed(_overrides.get()) if pipe is self), None)
        if overrides is not None:
            state.step_callbacks = [*overrides.step_callbacks, *state.step_callbacks]
            state.progress_label = overrides.progress_label
        models = [part for part in vars(self).values() if isinstance(part, nn.Module)]
        with ExitStack() as stack:
            self._calls.append(state)
            stack.callback(self._end, state)
            if any(is_offloaded(model) for model in models):
                stack.enter_context(holding_locks(*models, waiting=state))
            stack.callback(pipe.maybe_free_model_hooks)
            for name in self.scheduler_names:
                shared = vars(self)[name]
                own = None if overrides is None else overrides.scheduler
                if own is not None and name == "scheduler":
                    state.schedulers[name] = (shared, own)
                elif shared is not None:
                    check_scheduler_unused_by_outer_call(shared)
                    state.schedulers[name] = (
                        shared,
                        stack.enter_context(using_scheduler_copy(shared, state)),
                    )
            token = _here.set((*_here.get(), (self, state)))
            stack.callback(_here.reset, token)
            # A call made by a callback runs as the pipeline is, without the overrides.
            stack.callback(_overrides.reset, _overrides.set(()))
            yield state

    @contextmanager
    def overriding_calls(self, overrides: CallOverrides | None) -> Iterator[None]:
        """Run this thread's calls of this pipeline within the block with these overrides, if any.

        The scheduler is used itself, not a copy; the pipeline keeps its own.
        """
        own = () if overrides is None else ((self, overrides),)
        token = _overrides.set((*_overrides.get(), *own))
        try:
            yield
        finally:
            _overrides.reset(token)

    def _end(self, state: CallState) -> None:
        self._calls.remove(state)
        self._last = state

    @contextmanager
    def registering_interruptible_wait(self) -> Iterator[WaitInterruptFlag]:
        """Context manager that registers a call that waits for locks, so that setting `_interrupt`
        ends the wait.
        """
        waiting = WaitInterruptFlag()
        self._waiting.append(waiting)
        try:
            yield waiting
        finally:
            self._waiting.remove(waiting)


def check_scheduler_unused_by_outer_call(scheduler: Any) -> None:
    """Raise ArgumentError where an outer call of this thread steps the same scheduler object."""
    for _, state in _here.get():
        for shared, scheduler_names in state.schedulers.values():
            if scheduler_names is shared is scheduler:
                raise ArgumentError(
                    f"A callback calls a pipeline whose {type(scheduler).__name__} the outer call "
                    "steps: it cannot be copied, because a method of it was replaced or it holds "
                    "a model. Give the inner call a pipeline with another scheduler, or call it "
                    "when the outer one is over."
                )
