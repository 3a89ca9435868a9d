"""Tiny parts shared by the pipeline tests; read-only: a test that changes a part builds its own."""

import warnings

import pytest

from pipelines.text_to_image import TextToImagePipeline
from tests.tiny import tiny_sd_components, tiny_sd_folder


@pytest.fixture(scope="session")
def components():
    return tiny_sd_components()


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    return tiny_sd_folder(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def pipe(components):
    pipe = TextToImagePipeline(**components)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def poor_replays_are_expected():
    """Random weights reproduce no picture well, and are no warning."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Drawn again from its noise")
        yield
