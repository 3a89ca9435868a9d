"""A tiny pipeline of its own for each test of an edit."""

import pytest

from pipelines.text_to_image import TextToImagePipeline
from tests.tiny import tiny_sd_components


@pytest.fixture(scope="session")
def components():
    return tiny_sd_components()


@pytest.fixture
def pipe(components):
    pipe = TextToImagePipeline(**components)
    pipe.set_progress_bar_config(disable=True)
    return pipe
