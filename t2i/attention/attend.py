"""`attend`: the context manager that reads and edits the attention of a pipeline's runs."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from torch import nn

from t2i.conditioning.run_state import PipelineWithStepCallbacks
from t2i.errors import ArgumentError, AttentionError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from t2i.attention.compute.recorded_rows import RecordedRun
    from t2i.attention.session.session import Session
    from t2i.text.token_windows import EncoderInput


@contextmanager
def attend(
    x: Any,
    prompts: Sequence["EncoderInput"] | None = None,
    *,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    budget: int = 2**30,
    recorded_source: "RecordedRun | None" = None,
) -> Iterator["Session"]:
    """Open a session that reads and edits the attention of everything `x` runs inside the block.

    Parameters
    ----------
    x : one of our pipelines, any of diffusers', or a model whose attention is torch's
    prompts : prompts of the call, in its order; with one of our pipelines they are known without
    tokenizer : tokenizer of a model alone, to find words by
    budget : bytes that probes may keep; checked before the second step
    recorded_source : run of a source that was recorded earlier: it is prompt 0 of the runs inside,
        and the prompts of their batch follow; with our pipelines only

    Raises AttentionError for a probe or an edit that met no site, never acted, or was bypassed.
    Afterwards `x` holds the very same objects as before, also after an exception; maps, `sites()`,
    `explain()` and `report()` of the session can still be used.

    >>> with attend(pipe) as attn:
    ...     maps = attn.probe("cat")
    ...     image = pipe("a cat on a chair").images[0]
    >>> maps.overlay("cat", image)
    """
    # Imported by those who open a session: every pipeline imports this package.
    from t2i.attention.hooks.denoiser_hook_driver import DenoiserHookSessionDriver
    from t2i.attention.hooks.pipeline_driver import PipelineSessionDriver
    from t2i.attention.hooks.shared_hooks import installing_session_hooks
    from t2i.attention.prompts.prompt_tokenizers import find_prompt_tokenizers
    from t2i.attention.session.session import Session
    from t2i.attention.session.session_prompts import SessionPrompts

    is_observable = isinstance(x, PipelineWithStepCallbacks)
    if recorded_source is not None and not is_observable:
        raise ArgumentError(
            f"Got a recorded_source for a {type(x).__name__}, and only our pipelines can continue "
            "one: t2i.load(path), or PromptEditPipeline(...) around the same parts."
        )
    session = Session(
        x,
        SessionPrompts(prompts, find_prompt_tokenizers(x, tokenizer)),
        budget=budget,
        driven_by_callback=not is_observable,
        recorded_source=recorded_source,
    )
    root = _denoiser_or_model(x)
    driver = (
        PipelineSessionDriver(session, x)
        if is_observable
        else DenoiserHookSessionDriver(session, x, root)
    )
    with ExitStack() as stack:
        session.shared_hooks = stack.enter_context(installing_session_hooks(root, session))
        driver.attach_within_exit_stack(stack)
        yield session
        session.check_had_effect()


def _denoiser_or_model(x: Any) -> nn.Module:
    from t2i.attention.prompts.prompt_tokenizers import find_denoiser

    root = find_denoiser(x)
    if isinstance(root, nn.Module):
        return root
    raise AttentionError(
        f"Got a {type(x).__name__} without unet, transformer or decoder; expected a pipeline, or "
        "the model whose attention is meant: attend(pipe.unet)."
    )
