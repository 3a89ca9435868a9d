"""Driver of a session on any other pipeline or a bare model, through hooks on the denoiser's
calls.

B batch rows, C channels, H W latent size.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from t2i.attention.denoiser_pass import DenoiserPass, build_denoiser_pass
from t2i.attention.hooks.control_networks import CalledControlNetworks, announcing_control_networks
from t2i.attention.hooks.current_pipeline import is_called_inside_other_pipeline
from t2i.attention.hooks.discovery import announcing_running_forward, grid_from_image_ids
from t2i.attention.hooks.driven_session import DrivenSession
from t2i.attention.hooks.encoded_prompts import EncodedTokenRecorder
from t2i.attention.hooks.forward_arguments import bind_arguments
from t2i.attention.hooks.module_hooks import hooking_compiled_calls, running_forward_in_context
from t2i.attention.hooks.shared_hooks import running_control_network
from t2i.attention.hooks.step_tracking import StepTracker
from t2i.errors import AttentionError

_is_repetition: ContextVar[bool] = ContextVar("is_repetition", default=False)
"""True while this thread repeats a pass of a denoiser, which no session takes for its own."""


class DenoiserHookSessionDriver:
    """Driver of an attention session for diffusers' pipelines and for a model alone: hooks on the
    denoiser tell the session when a pass begins and ends.

    Only calls by the session's own pipeline, in the session's thread, are announced. Edits of
    latents are driven by the pipeline's `callback_on_step_end`, see `Session.on_step_end`. With
    ControlNets a pass begins where the first of them is called, before the denoiser.
    """

    def __init__(self, session: DrivenSession, pipeline: Any, root: nn.Module) -> None:
        self.session, self.root = session, root
        self.pipeline = None if isinstance(pipeline, nn.Module) else pipeline
        self.step_tracker = StepTracker(self.pipeline)
        self.encoded_prompts = EncodedTokenRecorder(self.pipeline)
        self._cache_name: str | None = None
        """Name of the pass in a pipeline that computes the branches one by one."""
        self._thread = threading.get_ident()
        self._is_compiled_in_place = root._compiled_call_impl is not None
        self._is_own_call = self._is_announced = False
        self._arguments: Mapping[str, Any] = {}
        """Arguments of the denoiser's running call."""
        self._controls = CalledControlNetworks(self.pipeline)
        self._pass_of_controls: DenoiserPass | None = None
        """The pass that a ControlNet's call has begun, until the denoiser returns."""
        self._announced_controls = ExitStack()

    def attach_within_exit_stack(self, stack: ExitStack) -> None:
        """Put the driver's hooks into the denoiser until the stack is closed."""
        before = self.root.register_forward_pre_hook(self._before, with_kwargs=True)
        after = self.root.register_forward_hook(self._after, always_call=True)
        stack.callback(before.remove)
        stack.callback(after.remove)
        self.encoded_prompts.install_hooks(stack)
        if hasattr(self.root, "cache_context"):
            stack.enter_context(self._watched_cache_context())
        stack.enter_context(hooking_compiled_calls(self.root, self._begin, self._end))
        for network in dict.fromkeys(self._controls.networks.values()):
            calls = partial(self._running_control_network, network)
            stack.enter_context(running_forward_in_context(network, calls))
        stack.callback(self._announced_controls.close)

    @contextmanager
    def _watched_cache_context(self) -> Iterator[None]:
        """Note the name under which a pipeline has the denoiser cache what it computes."""
        root: Any = self.root
        inner, before = root.cache_context, root.__dict__.get("cache_context")

        @contextmanager
        def cache_context(name: str, **kwargs: Any) -> Iterator[None]:
            outer, self._cache_name = self._cache_name, name
            try:
                with inner(name, **kwargs):
                    yield
            finally:
                self._cache_name = outer

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
        if not self._is_compiled_in_place:
            self._begin(module, args, kwargs or {})

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # torch lacks types for it
    def _after(self, module: nn.Module, args: object, output: object) -> None:
        if not self._is_compiled_in_place:
            self._end(module, args, output)

    def _begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if threading.get_ident() != self._thread or _is_repetition.get():
            return
        self._is_own_call = not is_called_inside_other_pipeline(self.pipeline)
        if not self._is_own_call or self._pass_of_controls is not None:
            return
        arguments = bind_arguments(module, args, kwargs)
        self._is_announced = self._has_cond_rows(arguments)
        if not self._is_announced:
            return
        _check_whole_sequence(arguments)
        self._arguments = arguments
        with announcing_running_forward(module, arguments):
            self._begin_pass(arguments, None)

    def _begin_pass(self, arguments: Mapping[str, Any], num_rows: int | None) -> DenoiserPass:
        """Announce a pass to the session, and return it.

        arguments : of the call that begins it
        num_rows : rows of the denoiser's call; None where they are those of the arguments
        """
        tensors = [one for one in arguments.values() if isinstance(one, Tensor) and one.ndim > 1]
        rows = len(tensors[0]) if num_rows is None else num_rows
        step, num_steps = self.step_tracker.advance_to_next_call(arguments)
        branches = self._branches(rows, tensors[0], arguments.get("encoder_hidden_states"))
        own_prompts = self.session.prompts_given_to_attend
        prompts = len(own_prompts) if own_prompts else rows // len(branches)
        denoiser_pass = build_denoiser_pass(rows, branches, prompts, step, num_steps)
        if step == 0:
            self.encoded_prompts.check_prompts_were_encoded(own_prompts)
        is_spatial = tensors[0].ndim == 4
        height, width = tensors[0].shape[-2:]
        size = (height, width) if is_spatial else grid_from_image_ids(arguments)
        input_shapes = (size, *(tuple(one.shape[1:]) for one in tensors))
        self.session.begin_pass(denoiser_pass, None, input_shapes, size)
        return denoiser_pass

    def _end(self, _module: nn.Module, _args: object, output: object) -> None:
        is_own_call = threading.get_ident() == self._thread and self._is_own_call
        if not is_own_call or _is_repetition.get():
            return
        try:
            if output is not None and self._is_announced:
                self.session.end_pass()
                self.session.read_joint_concepts(self._repeat_with_text)
        finally:
            self._arguments = {}
            self._pass_of_controls = None
            self._announced_controls.close()

    @torch.no_grad()
    def _repeat_with_text(self, change_text: Callable[[Tensor], Tensor]) -> None:
        """Call the denoiser again with the arguments of the running call, and another text.

        Raises AttentionError for a denoiser that keeps features from pass to pass, which a
        repetition would replace.
        """
        if getattr(self.root, "is_cache_enabled", False):
            raise AttentionError(
                f"A Concept is read in a further pass of the {type(self.root).__name__}, and its "
                "cache would keep the features of that pass: switch it off with "
                "pipe.transformer.disable_cache()."
            )
        text_BTD = self._arguments["encoder_hidden_states"]
        token = _is_repetition.set(True)
        try:
            self.root(**{**self._arguments, "encoder_hidden_states": change_text(text_BTD)})
        finally:
            _is_repetition.reset(token)

    # ControlNets

    @contextmanager
    def _running_control_network(
        self, network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Iterator[None]:
        """Let the session read and edit the attention of a ControlNet that is called within the
        block; the first call of a pass begins it.
        """
        if threading.get_ident() != self._thread or is_called_inside_other_pipeline(self.pipeline):
            yield
            return
        arguments = bind_arguments(network, args, kwargs)
        is_cond_alone = bool(arguments.get("guess_mode")) and bool(
            getattr(self.pipeline, "do_classifier_free_guidance", False)
        )
        number = self._controls.note_call(network)
        if self._pass_of_controls is None or number is None:
            self._announced_controls.close()  # of a pass that was stopped
            self._controls.begin_pass()
            number = self._controls.note_call(network)
            announced = announcing_control_networks(self.root, self._controls.unwrapped)
            self._announced_controls.enter_context(announced)
            rows = len(arguments["sample"]) * (1 + is_cond_alone)
            self._is_announced = True
            self._pass_of_controls = self._begin_pass(arguments, rows)
        assert number is not None
        branches = ("cond",) if is_cond_alone else self._pass_of_controls.branches
        unwrapped = self._controls.unwrapped[number]
        with (
            announcing_running_forward(unwrapped, arguments),
            running_control_network(number, branches),
        ):
            yield

    def _has_cond_rows(self, arguments: Mapping[str, Any]) -> bool:
        """Return True for a pass with rows of the branch "cond"."""
        if arguments.get("skip_layers") is not None:  # SD3's skip-layer guidance
            return False
        return self._cache_name is None or "cond" in self._cache_name.split("_")

    def _branches(self, rows: int, latents: Tensor, text: object) -> tuple[str, ...]:
        """Return the branches of guidance in the order of their rows."""
        if self._cache_name is not None and "uncond" not in self._cache_name.split("_"):
            return ("cond",)
        guided = getattr(self.pipeline, "do_classifier_free_guidance", None)
        if guided is None:
            prompts = (
                len(self.session.prompts_given_to_attend)
                if self.session.prompts_given_to_attend
                else 1
            )
            guided = rows % (2 * prompts) == 0 and _looks_guided(latents, text)
        if guided and hasattr(self.pipeline, "image_guidance_scale"):  # InstructPix2Pix
            return ("cond", "picture", "uncond")
        branches = ("uncond", "cond") if guided else ("cond",)
        perturbed = bool(getattr(self.pipeline, "do_perturbed_attention_guidance", False))
        return (*branches, "perturbed") if perturbed else branches


def _looks_guided(latents: Tensor, text: object) -> bool:
    """Return True for a batch that holds the same latents twice, each time with other text."""
    if not isinstance(text, Tensor) or len(text) != len(latents) or len(latents) % 2:
        return False
    (first, second), (negative, prompt) = latents.chunk(2), text.chunk(2)
    return torch.equal(first, second) and not torch.equal(negative, prompt)


def _check_whole_sequence(arguments: Mapping[str, Any]) -> None:
    """Raise AttentionError for a call that computes one more token beside a cache."""
    length = getattr(arguments.get("past_key_values"), "get_seq_length", None)
    past = 0 if length is None else int(length())
    if past:
        raise AttentionError(
            f"The model was called for one more token after {past} that it keeps in a cache: a map "
            "would hold that token alone. Generate before the `with` block, and inside call the "
            "model once with what it wrote, model(**inputs, decoder_input_ids=written); or "
            "generate inside with use_cache=False, and the maps are those of the last call."
        )
