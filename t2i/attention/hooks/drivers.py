"""Who tells a session what pass is under way: our loop, or the calls of the denoiser itself.

B batch rows, C channels, H W latent size, T text tokens.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from t2i.attention.denoiser_pass import DenoiserPass, build_denoiser_pass
from t2i.attention.hooks.current_pipeline import called_by_another
from t2i.attention.hooks.discovery import begun, grid_of, named
from t2i.attention.hooks.encoded_prompts import EncodedPrompts
from t2i.attention.hooks.module_hooks import wrapped_call
from t2i.attention.hooks.step_tracking import StepTracker
from t2i.attention.prompts.prompt_tokenizers import denoiser_of
from t2i.conditioning.run_state import RunState
from t2i.errors import AttentionError
from t2i.text.token_layout import Readable

Denoise = Callable[[Tensor], object]
"""A pass for the branch "cond" alone, of the step that is under way."""


class DrivenSession(Protocol):
    """A session, as its driver sees it."""

    def begin_pass(
        self,
        denoiser_pass: DenoiserPass,
        prompts: Sequence[Readable] | None,
        shape: object,
        size: Any,
    ) -> None: ...
    def end_pass(self) -> None: ...
    def before_pass(
        self, latents_BCHW: Tensor, denoiser_pass: DenoiserPass, denoise: Denoise
    ) -> Tensor: ...
    def after_step(self, latents_BCHW: Tensor) -> Tensor: ...

    prompts: tuple[Readable, ...] | None


class PipelineDriver:
    """Takes part in the runs of a pipeline with step callbacks, as one of them."""

    def __init__(self, session: DrivenSession, pipeline: Any) -> None:
        self.session, self.pipeline = session, pipeline

    def before_pass(self, run: RunState) -> None:
        prompts = run.conditioning.prompts
        branches = run.guidance.branches(run)
        rows = len(run.latents_BCHW) * len(branches)
        denoiser_pass = build_denoiser_pass(
            rows, branches, max(1, len(prompts)), run.step, run.num_steps
        )
        size = tuple(run.latents_BCHW.shape[-2:])
        shape = (size, run.conditioning.text_BTD.shape[1])
        self.session.begin_pass(denoiser_pass, prompts, shape, size)

        def denoise(latents_BCHW: Tensor) -> object:
            assert run.denoise is not None
            return run.denoise(latents_BCHW, run.conditioning.select(("cond",)))

        alone = build_denoiser_pass(
            len(run.latents_BCHW), ("cond",), denoiser_pass.num_prompts, run.step, run.num_steps
        )
        run.latents_BCHW = self.session.before_pass(run.latents_BCHW, alone, denoise)

    def after_step(self, run: RunState) -> None:
        self.session.end_pass()
        run.latents_BCHW = self.session.after_step(run.latents_BCHW)

    def install(self, stack: ExitStack) -> None:
        self.pipeline.step_callbacks.append(self)
        stack.callback(self.pipeline.step_callbacks.remove, self)


class CallbackDriver:
    """Hooks the denoiser of any other pipeline, or a model alone; hears the calls of its own
    pipeline, in its own thread, and no others."""

    def __init__(self, session: DrivenSession, pipeline: Any, root: nn.Module) -> None:
        self.session, self.root = session, root
        self.pipeline = None if isinstance(pipeline, nn.Module) else pipeline
        self.clock = StepTracker(self.pipeline)
        self.prompts_read = EncodedPrompts(self.pipeline)
        self._alone: str | None = None
        """What the pipeline says the pass is for, where it computes the branches one by one."""
        self._thread = threading.get_ident()
        self._wraps = root._compiled_call_impl is not None
        self._own = self._heard = False

    def install(self, stack: ExitStack) -> None:
        before = self.root.register_forward_pre_hook(self._before, with_kwargs=True)
        after = self.root.register_forward_hook(self._after, always_call=True)
        stack.callback(before.remove)
        stack.callback(after.remove)
        self.prompts_read.install(stack)
        if hasattr(self.root, "cache_context"):
            stack.enter_context(self._told_what_for())
        stack.enter_context(wrapped_call(self.root, self._begin, self._end))

    @contextmanager
    def _told_what_for(self) -> Iterator[None]:
        """Hear the name under which a pipeline has the denoiser cache what it computes."""
        root: Any = self.root
        inner, before = root.cache_context, root.__dict__.get("cache_context")

        @contextmanager
        def cache_context(name: str, **kwargs: Any) -> Iterator[None]:
            around, self._alone = self._alone, name
            try:
                with inner(name, **kwargs):
                    yield
            finally:
                self._alone = around

        root.cache_context = cache_context
        try:
            yield
        finally:
            if before is None:
                del root.cache_context
            else:
                root.cache_context = before

    # the hooks

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # torch lacks types for it
    def _before(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None
    ) -> None:
        if not self._wraps:
            self._begin(module, args, kwargs or {})

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # torch lacks types for it
    def _after(self, module: nn.Module, args: object, output: object) -> None:
        if not self._wraps:
            self._end(module, args, output)

    # what they do

    def _begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if threading.get_ident() != self._thread:
            return
        self._own = not called_by_another(self.pipeline)
        if not self._own:
            return
        given = named(module, args, kwargs)
        self._heard = self._for_prompts(given)
        if not self._heard:
            return
        check_whole(given)
        tensors = [one for one in given.values() if isinstance(one, Tensor) and one.ndim > 1]
        rows = len(tensors[0])
        step, num_steps = self.clock.read(given)
        branches = self._branches(rows, tensors[0], given.get("encoder_hidden_states"))
        prompts = len(self.session.prompts) if self.session.prompts else rows // len(branches)
        denoiser_pass = build_denoiser_pass(rows, branches, prompts, step, num_steps)
        if step == 0:
            self.prompts_read.check(self.session.prompts)
        size = tuple(tensors[0].shape[-2:]) if tensors[0].ndim == 4 else grid_of(given)
        shape = (size, *(tuple(one.shape[1:]) for one in tensors))
        with begun(module, given):
            self.session.begin_pass(denoiser_pass, None, shape, size)

    def _end(self, _module: nn.Module, _args: object, output: object) -> None:
        here = threading.get_ident() == self._thread and self._own
        if here and output is not None and self._heard:
            self.session.end_pass()

    def _for_prompts(self, given: Mapping[str, Any]) -> bool:
        """Whether the pass has rows that are told the prompts as they are."""
        if given.get("skip_layers") is not None:  # SD3, to guide away from what it makes without
            return False
        return self._alone is None or "cond" in self._alone.split("_")

    def _branches(self, rows: int, picture: Tensor, text: object) -> tuple[str, ...]:
        """What the rows are told, block after block."""
        if self._alone is not None and "uncond" not in self._alone.split("_"):
            return ("cond",)
        guided = getattr(self.pipeline, "do_classifier_free_guidance", None)
        if guided is None:
            prompts = len(self.session.prompts) if self.session.prompts else 1
            guided = rows % (2 * prompts) == 0 and guided_by_looks(picture, text)
        if guided and hasattr(self.pipeline, "image_guidance_scale"):  # InstructPix2Pix
            return ("cond", "picture", "uncond")
        branches = ("uncond", "cond") if guided else ("cond",)
        perturbed = bool(getattr(self.pipeline, "do_perturbed_attention_guidance", False))
        return (*branches, "perturbed") if perturbed else branches


def guided_by_looks(picture: Tensor, text: object) -> bool:
    """Whether a batch is the same pictures twice, told first one thing and then another."""
    if not isinstance(text, Tensor) or len(text) != len(picture) or len(picture) % 2:
        return False
    (first, second), (negative, prompt) = picture.chunk(2), text.chunk(2)
    return torch.equal(first, second) and not torch.equal(negative, prompt)


def check_whole(given: Mapping[str, Any]) -> None:
    """Raise AttentionError for a call that computes but one more token of a text."""
    length = getattr(given.get("past_key_values"), "get_seq_length", None)
    past = 0 if length is None else int(length())
    if past:
        raise AttentionError(
            f"The model was called for one more token after {past} that it keeps in a cache: a map "
            "would hold that token alone. Generate before the `with` block, and inside call the "
            "model once with what it wrote, model(**inputs, decoder_input_ids=written); or "
            "generate inside with use_cache=False, and the maps are those of the last call."
        )


def root_of(x: Any) -> nn.Module:
    """The denoiser of a pipeline, or the model itself."""
    root = denoiser_of(x)
    if isinstance(root, nn.Module):
        return root
    raise AttentionError(
        f"Got a {type(x).__name__} without unet, transformer or decoder; expected a pipeline, or "
        "the model whose attention is meant: attend(pipe.unet)."
    )
