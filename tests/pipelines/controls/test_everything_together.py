"""Controls beside LoRAs, an IP-Adapter, edits of attention and probes, in one run."""

import pytest
import torch

from pipelines.prompt_to_prompt.prompt_edit import PromptEditPipeline
from t2i.attention import attend
from t2i.controls.control import Control
from tests.pipelines.controls.networks import hint, tiny_controlnet
from tests.pipelines.test_adapters import adapter_for, lora_of
from tests.tiny import tiny_sd_components

SOURCE, TARGET = "a red cat", "a red dog"


@pytest.fixture(scope="module")
def pipe():
    pipe = PromptEditPipeline(**tiny_sd_components())
    pipe.set_progress_bar_config(disable=True)
    pipe.load_lora_weights({f"unet.{name}": one for name, one in lora_of(pipe.unet, 1).items()})
    return pipe


def test_probes_leave_a_controlled_edit_with_a_lora_as_it_is(pipe):
    controls = [
        Control(tiny_controlnet(pipe.unet, 5), hint(1)),
        Control(tiny_controlnet(pipe.unet, 6), hint(2), 0.5, (0.0, 0.7), "control"),
    ]

    def draw(*some):
        call = {"num_inference_steps": 3, "guidance_scale": 3.0, "output_type": "latent"}
        return pipe(SOURCE, TARGET, seed=3, controls=list(some), **call).images

    plain = draw(*controls)
    with attend(pipe) as attn:
        maps = attn.probe("cat")
        probed = draw(*controls)
        names = {site.name for site in attn.sites()}
    assert torch.equal(probed, plain)
    assert torch.isfinite(torch.as_tensor(maps["cat"])).all()
    # They are those of the UNet: the sites inside of the networks are not among them.
    assert names <= {name for name, _ in pipe.unet.named_modules()}
    for some in ((), controls[:1], controls[1:]):
        assert not torch.equal(draw(*some), plain)


def test_a_guided_run_with_an_image_prompt_takes_controls():
    from pipelines.text_to_image import TextToImagePipeline

    pipe = TextToImagePipeline(**tiny_sd_components())
    pipe.set_progress_bar_config(disable=True)
    pipe.unet._load_ip_adapter_weights([adapter_for(pipe.unet)])
    embeds = [torch.randn(2, 1, 24, generator=torch.Generator().manual_seed(1))]
    control = Control(tiny_controlnet(tiny_sd_components()["unet"]), hint(1))

    def draw(controls):
        call = {"num_inference_steps": 2, "output_type": "latent", "guidance_scale": 3.0}
        seed = torch.Generator().manual_seed(2)
        return pipe(
            SOURCE, ip_adapter_image_embeds=embeds, generator=seed, controls=controls, **call
        ).images

    assert not torch.equal(draw([control]), draw([]))
