"""diffusers' own test mixins for pipelines, and small parts to run ours with under them.

They lie in diffusers' repository, not in its package: `make test-mixins DIFFUSERS=path/to/a/clone`,
with parameterized, requests-mock, scipy and torchsde installed beside.
"""

import importlib.util
import os
import sys
import unittest
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers import DDIMScheduler

from pipelines.image_to_image import ImageToImagePipeline
from pipelines.inpaint import InpaintPipeline
from pipelines.text_to_image import TextToImagePipeline
from tests.tiny import tiny_sd_components, tiny_unet

CLONE = os.environ.get("T2I_DIFFUSERS")
if CLONE is None:
    pytest.skip(
        "needs a clone of diffusers: make test-mixins DIFFUSERS=path", allow_module_level=True
    )


def package(name: str, folder: Path) -> None:
    """Make `folder` importable as `name`: both repositories call their tests `tests`."""
    spec = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None
    assert spec.loader is not None
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)


package("diffusers_tests", Path(CLONE) / "tests")
common = importlib.import_module("diffusers_tests.pipelines.test_pipelines_common")
sets = importlib.import_module("diffusers_tests.pipelines.pipeline_params")


for pipeline in (TextToImagePipeline, ImageToImagePipeline, InpaintPipeline):
    # Where one of the tests looks for the source of encode_prompt.
    setattr(diffusers.pipelines, pipeline.__name__, pipeline)


class Components(
    common.SDFunctionTesterMixin,
    common.IPAdapterTesterMixin,
    common.PipelineLatentTesterMixin,
    common.PipelineKarrasSchedulerTesterMixin,
    common.PipelineTesterMixin,
):
    """The small parts of a Stable Diffusion, and what all pipelines are called with."""

    params = sets.TEXT_TO_IMAGE_PARAMS
    batch_params = sets.TEXT_TO_IMAGE_BATCH_PARAMS
    image_params = sets.TEXT_TO_IMAGE_IMAGE_PARAMS
    image_latents_params = sets.TEXT_TO_IMAGE_IMAGE_PARAMS
    callback_cfg_params = sets.TEXT_TO_IMAGE_CALLBACK_CFG_PARAMS

    def get_dummy_components(self, time_cond_proj_dim: int | None = None) -> dict[str, Any]:
        return {
            **tiny_sd_components(window=77),
            "unet": tiny_unet(time_cond_proj_dim=time_cond_proj_dim),
            "scheduler": DDIMScheduler(
                beta_start=0.00085,
                beta_end=0.012,
                beta_schedule="scaled_linear",
                clip_sample=False,
                set_alpha_to_one=False,
                steps_offset=1,
            ),
            "image_encoder": None,
            "feature_extractor": None,
            "safety_checker": None,
        }

    @unittest.skip("a wrong variant is a ModelError, with diffusers' words in it")
    def test_loading_with_incorrect_variants_raises_error(self) -> None: ...

    @unittest.skip("reads the log for the tokenizer, which ours load themselves")
    def test_save_load_local(self) -> None: ...

    @unittest.skip("parts that a model cannot have are no attributes of ours")
    def test_save_load_optional_components(self) -> None: ...

    def get_dummy_inputs(self, device: str, seed: int = 0) -> dict[str, Any]:
        return {
            "prompt": "a red apple to the left of the cat",
            "generator": torch.Generator(device).manual_seed(seed),
            "num_inference_steps": 2,
            "guidance_scale": 6.0,
            "output_type": "np",
        }
