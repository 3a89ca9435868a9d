"""Filters for log messages and progress bars of third-party libraries."""

import importlib
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

HARMLESS_MESSAGES = {
    # We do without torchvision, and what stands in for it is what we want.
    "transformers.utils.import_utils": r"`\w+` requires torchvision \(not installed\); falling",
    # Said whenever a model is cast, with an empty list of what it is about.
    "diffusers.models.modeling_utils": r"that should be kept in float32: \[\]\.",
    # It adds this one to its own config whenever it is saved.
    "diffusers.configuration_utils": r"'block_out_channels': [^}]*\} were .* to AutoencoderTiny,",
    # StableDiffusionPipeline draws with either autoencoder.
    "diffusers.pipelines.pipeline_utils": r"Expected types for vae: .*, got .*\.AutoencoderTiny'>",
    # Prompts of any length are read, window by window.
    "transformers.tokenization_utils_base": r"Token indices sequence length is longer than",
}
"""Logger of a library -> what it says of things that are as they should be. Everything else that it
says is shown."""


def install_log_filters() -> None:
    """Install filters that drop known harmless log messages of transformers and diffusers."""
    for name in HARMLESS_MESSAGES:
        logging.getLogger(name).addFilter(should_keep_log_record)
    with warnings.catch_warnings():
        # A notebook without ipywidgets shows bars as text and warns of it once, at this import.
        warnings.filterwarnings("ignore", message="IProgress not found")
        importlib.import_module("tqdm.auto")


def should_keep_log_record(record: logging.LogRecord) -> bool:
    """Return False for a log record whose message is one of its logger's HARMLESS_MESSAGES, so that
    the logger drops it; else True.
    """
    return re.search(HARMLESS_MESSAGES[record.name], record.getMessage()) is None


@contextmanager
def quieting_libraries() -> Iterator[None]:
    """Suppress loading bars and advice of transformers and diffusers while the context is open."""
    import transformers

    with muting_warnings_of_library(transformers.utils.logging), hiding_loading_bars():
        yield


@contextmanager
def hiding_loading_bars() -> Iterator[None]:
    """Suppress progress bars of reading weights from disk; download bars stay."""
    import diffusers
    import transformers

    with (
        preserving_hub_bar_setting(),  # transformers switches those of the hub as its own
        hiding_progress_bars_of_library(transformers.utils.logging),
        hiding_progress_bars_of_library(diffusers.utils.logging),
    ):
        yield


@contextmanager
def muting_diffusers_warnings() -> Iterator[None]:
    """Suppress diffusers' warnings while the context is open; exceptions are still raised."""
    from diffusers.utils import logging

    with muting_warnings_of_library(logging):
        yield


@contextmanager
def muting_warnings_of_library(logging: ModuleType) -> Iterator[None]:
    """Set a library's log level to errors while the context is open."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


@contextmanager
def preserving_hub_bar_setting() -> Iterator[None]:
    """Context manager that restores huggingface_hub's setting for progress bars at its end."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars

    disabled = are_progress_bars_disabled()
    try:
        yield
    finally:
        if disabled:
            disable_progress_bars()


@contextmanager
def hiding_progress_bars_of_library(logging: ModuleType) -> Iterator[None]:
    """Disable a library's progress bars while the context is open."""
    wanted = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if wanted:
            logging.enable_progress_bar()
