"""What libraries say of things that are as they should be is not shown; all else is."""

import importlib
import logging
import sys
import warnings
from types import SimpleNamespace

import diffusers
import pytest
import torch
import transformers
from diffusers import AutoencoderTiny, StableDiffusionPipeline

import pipelines  # noqa: F401  # imports nothing else: what it silences, it silences by itself
import t2i
from t2i.library_messages import HARMLESS_MESSAGES, install_log_filters
from tests.tiny import tiny_sd_components, tiny_small_vae, tiny_tokenizer


class Shown(logging.Handler):
    def __init__(self):
        super().__init__(logging.WARNING)
        self.lines = []

    def emit(self, record):
        self.lines.append(record.getMessage())


@pytest.fixture
def shown():
    handler = Shown()
    for name in HARMLESS_MESSAGES:
        logging.getLogger(name).addHandler(handler)
    yield handler.lines
    for name in HARMLESS_MESSAGES:
        logging.getLogger(name).removeHandler(handler)


def silent(name, shown, provoke):
    """What the library says of itself, and what is shown of that."""
    logger = logging.getLogger(name)
    filters, logger.filters = logger.filters, []
    try:
        provoke()
    finally:
        logger.filters = filters
    said = list(shown)
    shown.clear()
    provoke()
    return said, list(shown)


def test_advice_on_torchvision_is_not_shown(shown):
    warn = logging.getLogger("transformers.utils.import_utils").warning

    def provoke():
        # It says so once in a process, when the name is first looked up.
        vars(transformers).pop("CLIPImageProcessor", None)
        type(transformers).__getattr__.__globals__["logger"].warning_once.cache_clear()
        transformers.CLIPImageProcessor  # noqa: B018

    said, after = silent("transformers.utils.import_utils", shown, provoke)
    assert any("requires torchvision (not installed)" in line for line in said)
    assert after == []
    warn("`Llama` requires sentencepiece")
    assert shown == ["`Llama` requires sentencepiece"]


def test_an_empty_list_of_modules_is_not_shown(shown):
    vae = tiny_small_vae()

    def provoke():
        vae.to(torch.float16)

    said, after = silent("diffusers.models.modeling_utils", shown, provoke)
    assert any("should be kept in float32: []" in line for line in said)
    assert after == []


def test_the_small_autoencoder_in_diffusers_own_pipeline_is_not_shown(shown, tmp_path):
    parts = tiny_sd_components() | {"vae": tiny_small_vae()}
    extra = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    StableDiffusionPipeline(**parts, **extra).save_pretrained(tmp_path)

    def provoke():
        StableDiffusionPipeline.from_pretrained(tmp_path, **extra)

    said, after = silent("diffusers.pipelines.pipeline_utils", shown, provoke)
    assert any("Expected types for vae" in line for line in said)
    assert not any("Expected types" in line for line in after)


def test_what_a_small_autoencoder_saves_of_itself_is_not_shown(shown, tmp_path):
    tiny_small_vae().save_pretrained(tmp_path)

    def provoke():
        AutoencoderTiny.from_pretrained(tmp_path)

    said, after = silent("diffusers.configuration_utils", shown, provoke)
    assert any("'block_out_channels'" in line for line in said)
    assert after == []


def test_the_length_of_a_prompt_is_not_shown(shown):
    tokenizer = tiny_tokenizer()

    def provoke():
        tokenizer.deprecation_warnings.clear()
        tokenizer("red apple " * 40)

    said, after = silent("transformers.tokenization_utils_base", shown, provoke)
    assert any("Token indices sequence length is longer" in line for line in said)
    assert after == []


@pytest.mark.parametrize("name", HARMLESS_MESSAGES)
def test_other_lines_of_the_same_libraries_are_shown(shown, name):
    logging.getLogger(name).warning("Some weights were not used: %s", ["a"])
    assert shown == ["Some weights were not used: ['a']"]


def test_loading_in_a_notebook_shows_no_bars_and_leaves_them_switched_on(
    capfd: pytest.CaptureFixture[str],
) -> None:
    libraries = (diffusers.utils.logging, transformers.utils.logging)
    for library in libraries:
        library.enable_progress_bar()
    t2i.load("embedded")
    assert capfd.readouterr() == ("", "")
    assert all(library.is_progress_bar_enabled() for library in libraries)


@pytest.mark.parametrize("dropped", [False, True])
def test_a_notebook_without_widgets_is_not_told_of_them(
    monkeypatch: pytest.MonkeyPatch, dropped: bool
) -> None:
    tqdm = importlib.import_module("tqdm")
    monkeypatch.setattr("tqdm.notebook.IProgress", None)
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: None))
    monkeypatch.setitem(sys.modules, "ipykernel.zmqshell", SimpleNamespace())
    for name in ("auto", "autonotebook"):
        monkeypatch.setattr(tqdm, name, None)
        monkeypatch.delitem(sys.modules, f"tqdm.{name}")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        if dropped:
            install_log_filters()
        importlib.import_module("tqdm.auto")
    told = [line for line in said if "IProgress not found" in str(line.message)]
    assert len(told) == (0 if dropped else 1)
