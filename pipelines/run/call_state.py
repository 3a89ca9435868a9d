"""The state of a call, which callbacks and others read and set on its pipeline."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, ClassVar, overload

from torch import nn

from pipelines.run.exclusive_access import Waiting, alone_with, is_offloaded
from pipelines.run.own_scheduler import own
from t2i.conditioning.run_state import Guidance, StepCallback
from t2i.errors import ArgumentError


@dataclass(eq=False, kw_only=True)
class CallState(Waiting):
    """What belongs to one call and to no other.

    schedulers : name of the part -> the pipeline's, and the call's own
    step_callbacks : those of the pipeline that this call sends along
    """

    guidance_scale: float
    guidance_rescale: float = 0.0
    own_guidance: Guidance | None = None
    clip_skip: int | None = None
    cross_attention_kwargs: Mapping[str, object] | None = None
    interrupt: bool = False
    num_timesteps: int = 0
    schedulers: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    step_callbacks: Sequence[StepCallback] = ()


_here: ContextVar[tuple[tuple[object, CallState], ...]] = ContextVar("calls", default=())
"""The calls that this thread is in, the innermost last, each with its pipeline."""


class OfCall:
    """An attribute of a pipeline that belongs to a call: inside one, as in its callbacks, to that
    one. Elsewhere the call that began last is read, and every call under way is set."""

    def __init__(self, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, pipe: None, owner: object) -> "OfCall": ...
    @overload
    def __get__(self, pipe: "UnderWay", owner: object) -> Any: ...
    def __get__(self, pipe: "UnderWay | None", owner: object) -> Any:
        if pipe is None:
            return self
        state = pipe.current
        if state is None:
            raise AttributeError(f"{type(pipe).__name__} has no {self.name}: nothing was called.")
        return getattr(state, self.name)

    def __set__(self, pipe: "UnderWay", value: Any) -> None:
        for state in pipe.meant():
            setattr(state, self.name, value)


class OwnPart:
    """A scheduler of a pipeline; inside a call it is the call's own."""

    def __set_name__(self, owner: object, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, pipe: None, owner: object) -> "OwnPart": ...
    @overload
    def __get__(self, pipe: "UnderWay", owner: object) -> Any: ...
    def __get__(self, pipe: "UnderWay | None", owner: object) -> Any:
        if pipe is None:
            return self
        if self.name not in vars(pipe):
            raise AttributeError(f"{type(pipe).__name__} has no {self.name}.")
        kept = vars(pipe)[self.name]
        state = pipe.here
        shared, own = (
            (None, None) if state is None else state.schedulers.get(self.name, (None,) * 2)
        )
        return own if kept is shared else kept

    def __set__(self, pipe: "UnderWay", value: Any) -> None:
        vars(pipe)[self.name] = value


class UnderWay:
    """Base of our pipelines: a call owns its state, under diffusers' names for it."""

    stepped: ClassVar[tuple[str, ...]] = ("scheduler",)
    """Parts that a call steps, and so has of its own."""

    scheduler = OwnPart()
    _guidance_scale = OfCall("guidance_scale")
    _guidance_rescale = OfCall("guidance_rescale")
    _clip_skip = OfCall("clip_skip")
    _cross_attention_kwargs = OfCall("cross_attention_kwargs")
    _interrupt = OfCall("interrupt")
    _num_timesteps = OfCall("num_timesteps")

    def __init__(self) -> None:
        super().__init__()
        self.step_callbacks: list[StepCallback] = []
        """Sent along with every run, before the user's callback."""
        self._calls: list[CallState] = []
        self._waiting: list[Waiting] = []
        self._last: CallState | None = None

    @abstractmethod
    def guidance(self) -> Guidance:
        """The formula for the current call."""

    @property
    def guidance_scale(self) -> float:
        scale: float = self._guidance_scale
        return scale

    @property
    def do_classifier_free_guidance(self) -> bool:
        return "uncond" in self.guidance().needs

    @property
    def num_timesteps(self) -> int:
        count: int = self._num_timesteps
        return count

    @property
    def interrupt(self) -> bool:
        """Whether a callback has set `_interrupt`, which ends its own call early; set by another
        thread it ends every call of this pipeline that is under way or waits."""
        interrupt: bool = self._interrupt
        return interrupt

    # whose state

    @property
    def here(self) -> CallState | None:
        """Of the call of this pipeline that this thread is in, the innermost."""
        return next((state for pipe, state in reversed(_here.get()) if pipe is self), None)

    @property
    def current(self) -> CallState | None:
        """Of the call that this thread is in; else of the one that began last."""
        under_way = self._calls
        return self.here or (under_way[-1] if under_way else self._last)

    def meant(self) -> Sequence[Waiting]:
        """Whose state is set by whoever sets it on the pipeline now."""
        state = self.here
        if state is not None:
            return [state]
        under_way = [*self._calls, *self._waiting]
        return under_way or [one for one in (self._last,) if one is not None]

    @contextmanager
    def calling(self, state: CallState) -> Iterator[CallState]:
        """Within the block the pipeline is in this call, in this thread.

        Where hooks bring the models' weights and take them away, it waits until no other thread's
        call has these models.
        """
        pipe: Any = self
        around = [one for its, one in _here.get() if its is self]
        # A call made by a callback is not seen by the step callbacks of the outer call.
        busy = {id(step_callback) for one in around for step_callback in one.step_callbacks}
        state.step_callbacks = [
            step_callback for step_callback in self.step_callbacks if id(step_callback) not in busy
        ]
        models = [part for part in vars(self).values() if isinstance(part, nn.Module)]
        with ExitStack() as stack:
            self._calls.append(state)
            stack.callback(self._end, state)
            if any(is_offloaded(model) for model in models):
                stack.enter_context(alone_with(*models, waiting=state))
            stack.callback(pipe.maybe_free_model_hooks)
            for name in self.stepped:
                shared = vars(self)[name]
                if shared is not None:
                    check_free(shared)
                    state.schedulers[name] = (shared, stack.enter_context(own(shared, state)))
            token = _here.set((*_here.get(), (self, state)))
            stack.callback(_here.reset, token)
            yield state

    def _end(self, state: CallState) -> None:
        self._calls.remove(state)
        self._last = state

    @contextmanager
    def waiting(self) -> Iterator[Waiting]:
        """Somebody who waits before a call of this pipeline, and whom `_interrupt` ends."""
        waiting = Waiting()
        self._waiting.append(waiting)
        try:
            yield waiting
        finally:
            self._waiting.remove(waiting)


def check_free(scheduler: Any) -> None:
    """Raise ArgumentError where a call that this one is made from steps the very scheduler."""
    for _, state in _here.get():
        for shared, stepped in state.schedulers.values():
            if stepped is shared is scheduler:
                raise ArgumentError(
                    f"A callback calls a pipeline whose {type(scheduler).__name__} the outer call "
                    "steps: it cannot be copied, because a method of it was replaced or it holds "
                    "a model. Give the inner call a pipeline with another scheduler, or call it "
                    "when the outer one is over."
                )
