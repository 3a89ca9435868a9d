"""The attention inside of the ControlNets of diffusers' own pipelines."""

import pytest
import torch
from diffusers import (
    MultiControlNetModel,
    StableDiffusionControlNetImg2ImgPipeline,
    StableDiffusionControlNetInpaintPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionXLControlNetPipeline,
)

from pipelines.text_to_image import TextToImagePipeline
from t2i.attention import Reweight, attend
from t2i.controls.control import Control
from t2i.errors import AttentionError
from tests.pipelines.controls.networks import hint, tiny_controlnet
from tests.tiny import tiny_sd_components, tiny_sdxl_components

PROMPT = "a red cat"
UNSAFE = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
RUN = {
    "prompt": PROMPT,
    "num_inference_steps": 3,
    "guidance_scale": 3.0,
    "output_type": "latent",
    "height": 32,
    "width": 32,
}


@pytest.fixture(scope="module")
def parts():
    return tiny_sd_components()


@pytest.fixture(scope="module")
def nets(parts):
    return [tiny_controlnet(parts["unet"], seed) for seed in (5, 6)]


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def theirs(parts, nets):
    return quiet(StableDiffusionControlNetPipeline(**parts, controlnet=nets[0], **UNSAFE))


@pytest.fixture
def ours(parts):
    return quiet(TextToImagePipeline(**parts))


def draw(pipe, **call):
    return pipe(generator=torch.Generator().manual_seed(3), **(RUN | call)).images


def read(pipe, *sites, prompts=(PROMPT,), **call):
    """Sites of a run, heat maps of "cat" at some of them, and the run's result."""
    with attend(pipe, prompts) as attn:
        maps = [attn.probe("cat", sites=one, convention="mean", raw=True) for one in sites]
        drawn = draw(pipe, **call)
        found = attn.sites()
    return [site.name for site in found], [one.measurements.raw for one in maps], drawn


def assert_alike(ours, theirs):
    for mine, other in zip(ours, theirs, strict=True):
        assert mine
        assert mine.keys() == other.keys()
        for name in mine:
            assert torch.allclose(torch.stack(mine[name]), torch.stack(other[name]), atol=1e-6)


@pytest.mark.parametrize("mode", ["balanced", "guess"])
@pytest.mark.parametrize("guidance_scale", [3.0, 1.0])
def test_sites_and_maps_are_those_of_our_pipelines(ours, theirs, nets, mode, guidance_scale):
    call = {"image": hint(1), "guess_mode": mode == "guess", "guidance_scale": guidance_scale}
    control = Control(nets[0], hint(1), mode=mode)
    plain = draw(theirs, **call)
    names, maps, drawn = read(theirs, None, "control.0", **call)
    assert torch.equal(drawn, plain)
    own = {"controls": [control], "guidance_scale": guidance_scale}
    own_names, own_maps, own_drawn = read(ours, None, "control.0", **own)
    assert torch.equal(own_drawn, plain)
    assert names == own_names
    assert any(name.startswith("control.0/") for name in names)
    assert_alike(own_maps, maps)


@pytest.mark.parametrize("twice", [False, True])
def test_several_controlnets_are_told_apart(parts, ours, nets, twice):
    nets = [nets[0]] * 2 if twice else nets
    theirs = StableDiffusionControlNetPipeline(
        **parts, controlnet=MultiControlNetModel(nets), **UNSAFE
    )
    call = {"image": [hint(1), hint(2)]}
    plain = draw(quiet(theirs), **call)
    names, maps, drawn = read(theirs, "control.0", "control.1", **call)
    assert torch.equal(drawn, plain)
    controls = [Control(net, hint(seed)) for net, seed in zip(nets, (1, 2), strict=True)]
    own_names, own_maps, _ = read(ours, "control.0", "control.1", controls=controls)
    assert names == own_names
    assert_alike(own_maps, maps)


def test_pipelines_with_start_pictures_and_of_sdxl_have_control_sites(parts, nets):
    start = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(9))
    mask = torch.zeros(1, 1, 32, 32)
    mask[..., 8:24, 8:24] = 1
    xl = tiny_sdxl_components()
    for pipe, call in (
        (
            StableDiffusionControlNetImg2ImgPipeline(**parts, controlnet=nets[0], **UNSAFE),
            {"image": start, "control_image": hint(1)},
        ),
        (
            StableDiffusionControlNetInpaintPipeline(**parts, controlnet=nets[0], **UNSAFE),
            {"image": start, "mask_image": mask, "control_image": hint(1)},
        ),
        (
            StableDiffusionXLControlNetPipeline(
                **xl, controlnet=tiny_controlnet(xl["unet"]), add_watermarker=False
            ),
            {"image": hint(1)},
        ),
    ):
        plain = draw(quiet(pipe), **call)
        _, maps, drawn = read(pipe, None, "control", **call)
        assert torch.equal(drawn, plain)
        of_unet, of_network = maps
        assert of_network
        assert {len(one) for one in of_network.values()} == {len(one) for one in of_unet.values()}


def test_an_edit_that_names_a_control_acts_as_in_our_pipelines(ours, theirs, nets):
    def edited(pipe, **call):
        with attend(pipe, [PROMPT]) as attn:
            attn.edit(Reweight(weights={"cat": 6.0}, target=0, sites="control.0"))
            return draw(pipe, **call)

    drawn = edited(theirs, image=hint(1))
    assert torch.equal(drawn, edited(ours, controls=[Control(nets[0], hint(1))]))
    assert not torch.equal(drawn, draw(theirs, image=hint(1)))


def test_a_run_that_stopped_can_be_repeated_in_its_session(theirs, nets):
    plain = draw(theirs, image=hint(1))

    def stop(*_):
        raise RuntimeError("stop")

    with attend(theirs, [PROMPT]) as attn:
        maps = attn.probe("cat", sites="control", raw=True)
        for module in (nets[0].mid_block, theirs.unet.mid_block):
            handle = module.register_forward_hook(stop)
            with pytest.raises(RuntimeError, match="stop"):
                draw(theirs, image=hint(1))
            handle.remove()
        assert torch.equal(draw(theirs, image=hint(1)), plain)
    assert {len(steps) for steps in maps.measurements.raw.values()} == {3}
    assert all("forward" not in vars(module) for module in nets[0].modules())


def test_another_pipeline_of_the_same_network_is_not_read(parts, theirs, nets):
    other = quiet(StableDiffusionControlNetPipeline(**parts, controlnet=nets[0], **UNSAFE))
    session = attend(theirs, [PROMPT])
    session.__enter__().probe("cat", sites="control.0")
    draw(other, image=hint(1))
    with pytest.raises(AttentionError, match="never fired: no picture was made"):
        session.__exit__(None, None, None)


def test_sites_of_a_control_that_a_pipeline_does_not_have_are_refused(theirs):
    with pytest.raises(AttentionError, match="those in the ControlNets of a run"):
        read(theirs, "control.1", image=hint(1))


def test_such_a_pipeline_has_to_run_before_its_sites_are_listed(theirs):
    with (
        attend(theirs, [PROMPT]) as attn,
        pytest.raises(AttentionError, match="make a picture inside"),
    ):
        attn.sites()
