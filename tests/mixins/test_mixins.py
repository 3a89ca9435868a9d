"""Our pipelines under diffusers' own test mixins, see `tests/mixins/components.py`."""

import unittest
from typing import Any

import torch
from diffusers import EulerDiscreteScheduler
from PIL import Image

from pipelines.image_to_image import ImageToImagePipeline
from pipelines.inpaint import InpaintPipeline
from pipelines.text_to_image import TextToImagePipeline
from tests.mixins.components import Components, common, sets
from tests.tiny import tiny_sdxl_components, tiny_unet


class TextToImage(Components, common.PipelineFromPipeTesterMixin, unittest.TestCase):
    pipeline_class = TextToImagePipeline

    @property
    def original_pipeline_class(self) -> Any:
        return common.StableDiffusionPipeline

    @unittest.skip("needs a model of the hub")
    def test_from_pipe_consistent_config(self) -> None: ...


class TextToImageXL(TextToImage):
    callback_cfg_params = TextToImage.callback_cfg_params | {"add_text_embeds", "add_time_ids"}

    @property
    def original_pipeline_class(self) -> Any:
        return common.StableDiffusionXLPipeline

    def get_dummy_components(self, time_cond_proj_dim: int | None = None) -> dict[str, Any]:
        return {
            **tiny_sdxl_components(window=77, time_cond_proj_dim=time_cond_proj_dim),
            "scheduler": EulerDiscreteScheduler(
                beta_start=0.00085,
                beta_end=0.012,
                steps_offset=1,
                beta_schedule="scaled_linear",
                timestep_spacing="leading",
            ),
            "image_encoder": None,
            "feature_extractor": None,
        }


class ImageToImage(Components, unittest.TestCase):
    pipeline_class = ImageToImagePipeline
    params = sets.TEXT_GUIDED_IMAGE_VARIATION_PARAMS - {"height", "width"}
    required_optional_params = common.PipelineTesterMixin.required_optional_params - {"latents"}
    batch_params = sets.TEXT_GUIDED_IMAGE_VARIATION_BATCH_PARAMS
    image_params = sets.IMAGE_TO_IMAGE_IMAGE_PARAMS
    image_latents_params = sets.IMAGE_TO_IMAGE_IMAGE_PARAMS

    def get_dummy_inputs(self, device: str, seed: int = 0) -> dict[str, Any]:
        torch.manual_seed(seed)
        more = {"image": torch.rand(1, 3, 32, 32), "strength": 0.75, "num_inference_steps": 3}
        return super().get_dummy_inputs(device, seed) | more


class Inpaint(Components, unittest.TestCase):
    pipeline_class = InpaintPipeline
    params = sets.TEXT_GUIDED_IMAGE_INPAINTING_PARAMS
    batch_params = sets.TEXT_GUIDED_IMAGE_INPAINTING_BATCH_PARAMS
    image_params = frozenset()
    image_latents_params = frozenset()

    def get_dummy_components(self, time_cond_proj_dim: int | None = None) -> dict[str, Any]:
        unet = tiny_unet(in_channels=9, time_cond_proj_dim=time_cond_proj_dim)
        return super().get_dummy_components() | {"unet": unet}

    def get_dummy_inputs(self, device: str, seed: int = 0) -> dict[str, Any]:
        torch.manual_seed(seed)
        pixels = (torch.rand(32, 32, 3) * 255).byte().numpy()
        mask = Image.new("L", (32, 32))
        mask.paste(255, (8, 8, 24, 24))
        more = {"image": Image.fromarray(pixels), "mask_image": mask}
        return super().get_dummy_inputs(device, seed) | more
