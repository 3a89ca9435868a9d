"""Who tells a session what pass is under way: our loop, or the calls of the denoiser itself.

B batch rows, C channels, H W latent size, T text tokens.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from t2i.attention.discovery import named
from t2i.attention.rows import Pass, pass_of
from t2i.attention.said import Reader
from t2i.conditioning.run import Run
from t2i.errors import AttentionError
from t2i.text.encoder import text_encoder
from t2i.text.layout import Readable


class Driven(Protocol):
    """A session, as its driver sees it."""

    def begin_pass(
        self, passing: Pass, prompts: Sequence[Readable] | None, shape: object, size: Any
    ) -> None: ...
    def end_pass(self) -> None: ...
    def after_step(self, latents_BCHW: Tensor) -> Tensor: ...

    prompts: tuple[Readable, ...] | None


class Visiting:
    """Takes part in the runs of one of our pipelines, as one of its visitors."""

    needs_callback = False

    def __init__(self, session: Driven, pipeline: Any) -> None:
        self.session, self.pipeline = session, pipeline

    def before_pass(self, run: Run) -> None:
        prompts = run.conditioning.prompts
        branches = run.guidance.branches(run)
        rows = len(run.latents_BCHW) * len(branches)
        passing = pass_of(rows, branches, max(1, len(prompts)), run.step, run.num_steps)
        size = tuple(run.latents_BCHW.shape[-2:])
        shape = (size, run.conditioning.text_BTD.shape[1])
        self.session.begin_pass(passing, prompts, shape, size)

    def after_step(self, run: Run) -> None:
        self.session.end_pass()
        run.latents_BCHW = self.session.after_step(run.latents_BCHW)

    def install(self, stack: ExitStack) -> None:
        self.pipeline.visitors.append(self)
        stack.callback(self.pipeline.visitors.remove, self)


class Overhearing:
    """Hooks the denoiser of any other pipeline, or a model alone."""

    needs_callback = True

    def __init__(self, session: Driven, pipeline: Any, root: nn.Module) -> None:
        self.session, self.pipeline, self.root = session, pipeline, root
        self._calls = 0

    def install(self, stack: ExitStack) -> None:
        before = self.root.register_forward_pre_hook(self._before, with_kwargs=True)
        after = self.root.register_forward_hook(self._after, always_call=True)
        stack.callback(before.remove)
        stack.callback(after.remove)

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = named(module, args, kwargs)
        tensors = [one for one in given.values() if isinstance(one, Tensor) and one.ndim > 1]
        rows = len(tensors[0])
        step, num_steps = self._step(given)
        branches = ("uncond", "cond") if self._guided(rows) else ("cond",)
        prompts = len(self.session.prompts) if self.session.prompts else rows // len(branches)
        passing = pass_of(rows, branches, prompts, step, num_steps)
        shape = tuple(tuple(one.shape[1:]) for one in tensors)
        size = tuple(tensors[0].shape[-2:]) if tensors[0].ndim == 4 else None
        self.session.begin_pass(passing, None, shape, size)

    def _after(self, _module: nn.Module, _args: object, output: object) -> None:
        if output is not None:
            self.session.end_pass()

    def _guided(self, rows: int) -> bool:
        """Whether the first half of the batch is told the negative prompt."""
        if self.pipeline is None:
            return False
        guided = bool(getattr(self.pipeline, "do_classifier_free_guidance", False))
        prompts = len(self.session.prompts) if self.session.prompts else 1
        return guided and rows % (2 * prompts) == 0

    def _step(self, given: Mapping[str, Any]) -> tuple[int, int]:
        scheduler = getattr(self.pipeline, "scheduler", None)
        timesteps = getattr(scheduler, "timesteps", None)
        if scheduler is None or not isinstance(timesteps, Tensor):
            return 0, 1
        index = getattr(scheduler, "step_index", None)
        first = getattr(scheduler, "begin_index", None) or 0
        if hasattr(scheduler, "step_index"):
            return int(first if index is None else index), len(timesteps)
        timestep = torch.as_tensor(given["timestep"]).flatten()[0]
        found = (timesteps == timestep.to(timesteps.device)).nonzero().flatten()
        if len(found) == 0:
            raise AttentionError(
                f"The denoiser was called at timestep {timestep.item()}, which is none of its "
                "scheduler's: attend() cannot tell the step."
            )
        return int(found[0]), len(timesteps)


def readers_of(x: Any, tokenizer: Any) -> tuple[Reader, ...]:
    """What turns the prompts of a pipeline into tokens, in the order of the text."""
    if tokenizer is not None:
        return (Reader(tokenizer),)
    if hasattr(x, "visitors"):  # ours; the second of two encoders stands in the same places
        parts = [(x.tokenizer, x.text_encoder), (x.tokenizer_2, x.text_encoder_2)]
        return tuple(Reader(text_encoder(*part)) for part in parts if part[0] is not None)[:1]
    own = [getattr(x, name, None) for name in ("tokenizer", "tokenizer_2", "tokenizer_3")]
    if own[2] is not None:  # SD3: two CLIPs side by side, then T5
        window = int(own[0].model_max_length)
        return (Reader(own[0], 0, window), Reader(own[2], window))
    if own[1] is not None and hasattr(x, "transformer"):  # Flux is told what T5 read
        return (Reader(own[1]),)
    return () if own[0] is None else (Reader(own[0]),)


def root_of(x: Any) -> nn.Module:
    """The denoiser of a pipeline, or the model itself."""
    if isinstance(x, nn.Module):
        return x
    for name in ("unet", "transformer"):
        part = getattr(x, name, None)
        if isinstance(part, nn.Module):
            return part
    raise AttentionError(
        f"Got a {type(x).__name__} without unet or transformer; expected a pipeline, or the model "
        "whose attention is meant: attend(pipe.unet)."
    )
