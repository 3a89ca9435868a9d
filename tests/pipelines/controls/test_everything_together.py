"""Controls beside LoRAs, an IP-Adapter, edits of attention and probes, in one run."""

import copy
from itertools import product

import pytest
import torch
from accelerate import cpu_offload, cpu_offload_with_hook
from peft import LoraConfig
from peft.tuners.lora import LoraLayer

from pipelines.prompt_to_prompt.prompt_edit import PromptEditPipeline
from pipelines.text_to_image import TextToImagePipeline
from t2i.attention import Replace, SelfReplace, WeightWords, attend
from t2i.attention.site import Sites
from t2i.controls.control import Control
from t2i.controls.control_facts import control_to_dict
from tests.attention.test_image_prompt_keys import load, ordinary, plus
from tests.pipelines.controls.networks import hint, tiny_controlnet
from tests.pipelines.test_adapters import lora_of
from tests.sweeps import sweep
from tests.tiny import WINDOW, tiny_sd_components

IP_ADAPTERS = [ordinary(1), plus(WINDOW)]
"""One has as many keys as the text, and encodes its image by attention."""
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
    assert torch.equal(probed, plain)
    assert torch.isfinite(torch.as_tensor(maps["cat"])).all()
    # Sites inside of the networks are read where a probe names them alone.
    read = {name for _, name in maps.measurements.accumulators}
    assert read
    assert read <= {name for name, _ in pipe.unet.named_modules()}
    for some in ((), controls[:1], controls[1:]):
        assert not torch.equal(draw(*some), plain)


# all of it in one run


def with_lora(network, seed=3):
    """The network with a LoRA on its attention."""
    network.add_adapter(
        LoraConfig(r=2, lora_alpha=4, target_modules=["to_k", "to_v"]), adapter_name="own"
    )
    torch.manual_seed(seed)
    for name, weight in network.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.3)
    return network


def as_it_is(model):
    """A model whose weights stay where they are."""


def whole(model):
    """As pipe.enable_model_cpu_offload, which wants an accelerator."""
    cpu_offload_with_hook(model, torch.device("cpu"))


def piecewise(model):
    """As pipe.enable_sequential_cpu_offload."""
    cpu_offload(model, torch.device("cpu"))


def draw_together(pipe, controls, *edits, probes=()):
    """Latents of a source and its edit, and the maps of probes at these sites."""
    embeds = [given.to(pipe.unet.dtype) for _, given in IP_ADAPTERS]
    call = {"num_inference_steps": 3, "guidance_scale": 3.0, "output_type": "latent"}
    noise = [torch.Generator().manual_seed(2) for _ in range(2)]
    with attend(pipe) as attn:
        for edit in edits:
            attn.edit(edit)
        maps = [attn.probe("cat", sites=sites) for sites in probes]
        latents = pipe(
            [SOURCE, TARGET],
            ip_adapter_image_embeds=embeds,
            generator=noise,
            controls=controls,
            **call,
        ).images
    return latents, [one["cat"] for one in maps]


@pytest.mark.parametrize(
    ("offloaded", "dtype"),
    sweep(
        product([as_it_is, whole, piecewise], [torch.float32, torch.bfloat16, torch.float16]),
        # Each way of offloading and each type once; they do not meet in the code.
        quick=[(as_it_is, torch.float32), (whole, torch.bfloat16), (piecewise, torch.float16)],
    ),
)
def test_probes_leave_everything_together_as_it_is(offloaded, dtype):
    pipe = TextToImagePipeline(**tiny_sd_components())
    pipe.set_progress_bar_config(disable=True)
    plain_net, lora_net = tiny_controlnet(pipe.unet, 5), with_lora(tiny_controlnet(pipe.unet, 6))
    pipe.load_lora_weights({f"unet.{name}": one for name, one in lora_of(pipe.unet, 1).items()})
    load(pipe, *IP_ADAPTERS)
    pipe.set_ip_adapter_scale([0.5, 0.3])
    models = (pipe.unet, plain_net, lora_net)
    for model in (*models, pipe.text_encoder):
        model.to(dtype)
    controls = [
        Control(plain_net, hint(1), steps=(0.0, 0.7)),
        Control(lora_net, hint(2), 0.5, mode="control"),
    ]
    edits = [
        Replace(source=0, target=1),
        SelfReplace(source=0, target=1, steps=(0.0, 0.5)),
        WeightWords(target=1, weights={"red": 3.0}, sites="control.1"),
    ]
    resident = draw_together(pipe, controls, *edits)[0]
    for model in models:
        offloaded(model)
    plain = draw_together(pipe, controls, *edits)[0]
    assert torch.equal(plain, resident)
    probed, maps = draw_together(
        pipe, controls, *edits, probes=(None, "control.0", "control.1", Sites(place="up"))
    )
    assert probed.dtype == dtype
    assert torch.equal(probed, plain)
    assert all(torch.isfinite(one).all() for one in maps)
    if dtype is torch.float32 and offloaded is as_it_is:
        # each part of it matters
        without_control_1 = draw_together(pipe, controls[:1], *edits[:2])[0]
        without_control_0 = draw_together(
            pipe,
            controls[1:],
            *edits[:2],
            WeightWords(target=1, weights={"red": 3.0}, sites="control"),
        )[0]
        assert not torch.equal(without_control_1, plain)
        assert not torch.equal(without_control_0, plain)
        for edit in edits:
            rest = [one for one in edits if one is not edit]
            assert not torch.equal(draw_together(pipe, controls, *rest)[0], plain)
        for scales in ([0.0, 0.3], [0.5, 0.0]):
            pipe.set_ip_adapter_scale(scales)
            assert not torch.equal(draw_together(pipe, controls, *edits)[0], plain)
        pipe.set_ip_adapter_scale([0.5, 0.3])
        for model in (pipe.unet, lora_net):
            model.disable_adapters()
            assert not torch.equal(draw_together(pipe, controls, *edits)[0], plain)
            model.enable_adapters()
        assert torch.equal(draw_together(pipe, controls, *edits)[0], plain)


def test_a_lora_on_a_controlnet_is_a_change_of_its_weights():
    pipe = TextToImagePipeline(**tiny_sd_components())
    pipe.set_progress_bar_config(disable=True)
    network = with_lora(tiny_controlnet(pipe.unet))
    merged = copy.deepcopy(network)
    for module in merged.modules():
        if isinstance(module, LoraLayer):
            module.merge()
    call = {"num_inference_steps": 2, "output_type": "latent"}

    def draw(model):
        seed = torch.Generator().manual_seed(2)
        return pipe(SOURCE, generator=seed, controls=[Control(model, hint(1))], **call).images

    free = tiny_controlnet(pipe.unet)
    assert torch.allclose(draw(network), draw(merged), atol=1e-5)
    assert not torch.allclose(draw(network), draw(free), atol=1e-3)
    facts = [control_to_dict(Control(one, hint(1)))["network"] for one in (network, free)]
    assert facts[0] != facts[1]
