"""`attend`: look into the attention of a pipeline's runs, and edit it."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from transformers import PreTrainedTokenizerBase

from t2i.attention.compute.recorded_rows import RecordedRun
from t2i.attention.hooks.drivers import CallbackDriver, PipelineDriver, root_of
from t2i.attention.hooks.installation import installed
from t2i.attention.prompts.prompt_tokenizers import readers_of
from t2i.attention.session.checks import GIBIBYTE
from t2i.attention.session.session import Session
from t2i.conditioning.run_state import SupportsStepCallbacks
from t2i.text.token_layout import Readable


@contextmanager
def attend(
    x: Any,
    prompts: Sequence[Readable] | None = None,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    budget: int = GIBIBYTE,
    recorded_source: RecordedRun | None = None,
) -> Iterator[Session]:
    """Look into the attention of everything `x` does inside, and edit it.

    Parameters
    ----------
    x : one of our pipelines, any of diffusers', or a model whose attention is torch's
    prompts : of the call, in its order; ours tell them themselves
    tokenizer : of a model alone, to find words by
    budget : bytes that probes may keep, known before step 1
    recorded_source : a recorded run that edits read as prompt 0; the prompts of the call follow it

    Raises AttentionError for a probe or an edit that met no site, never fired, or was bypassed.
    Afterwards `x` holds the very same objects as before, also after an exception; maps, `sites()`,
    `explain()` and `report()` of the session still answer.

    >>> with attend(pipe) as attn:
    ...     maps = attn.probe("cat")
    ...     image = pipe("a cat on a chair").images[0]
    >>> maps.overlay("cat", image)
    """
    session = Session(x, prompts, readers_of(x, tokenizer), budget, recorded_source)
    root = root_of(x)
    ours = isinstance(x, SupportsStepCallbacks)
    driver = PipelineDriver(session, x) if ours else CallbackDriver(session, x, root)
    session.driven_by_callback = not ours
    with ExitStack() as stack:
        session.installation = stack.enter_context(installed(root, session))
        driver.install(stack)
        yield session
        session.finish()
