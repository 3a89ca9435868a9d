"""Keys and values of the text computed once: never a wrong one, and nothing left behind."""

from collections import Counter
from contextlib import contextmanager

import pytest
import torch
from accelerate import cpu_offload
from diffusers.models.attention_processor import Attention
from peft import LoraConfig
from torch.overrides import TorchFunctionMode

from pipelines.text_to_image import TextToImagePipeline
from t2i.conditioning.guidance import ClassifierFree
from t2i.conditioning.guidance_interval import Interval
from t2i.conditioning.perturbed_guidance import PerturbedAttention
from t2i.denoiser.text_key_value_cache import caching_text_keys_values
from t2i.text.prompt import Prompt
from tests.tiny import TEXT_WIDTH, tiny_sd_components, tiny_sdxl_components, tiny_unet

LAYERS = 8
"""Keys and values of the four cross-attentions of tests.tiny.tiny_unet."""


def text(rows=2, seed=0):
    return torch.randn(rows, 16, TEXT_WIDTH, generator=torch.Generator().manual_seed(seed))


def answer(unet, text_BTD):
    torch.manual_seed(3)
    latents_BCHW = torch.randn(len(text_BTD), 4, 8, 8)
    return unet(latents_BCHW, torch.tensor(500), encoder_hidden_states=text_BTD).sample


def projections(unet):
    sites = [m for m in unet.modules() if isinstance(m, Attention) and m.is_cross_attention]
    return [getattr(site, name) for site in sites for name in ("to_k", "to_v")]


class Counting(TorchFunctionMode):
    """Counts the matrix products with these layers' weights, and calls of attention."""

    def __init__(self, layers):
        self.weights = {id(getattr(layer, "base_layer", layer).weight) for layer in layers}
        self.seen = Counter()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.nn.functional.linear and id(args[1]) in self.weights:
            self.seen["projected"] += 1
        if func is torch.nn.functional.scaled_dot_product_attention:
            self.seen["attended"] += 1
        return func(*args, **(kwargs or {}))


@contextmanager
def counted(unet):
    with Counting(projections(unet)) as counting:
        yield counting.seen


@torch.no_grad()
def test_a_text_is_projected_once_and_the_answer_is_the_same():
    unet, text_BTD = tiny_unet(), text()
    plain = answer(unet, text_BTD)
    layers = len(projections(unet))
    with caching_text_keys_values(unet), counted(unet) as seen:
        for _ in range(3):
            assert torch.equal(answer(unet, text_BTD), plain)
    assert layers == LAYERS
    assert seen == {"projected": layers, "attended": 3 * layers}


@torch.no_grad()
def test_a_part_of_the_same_text_is_projected_once_too():
    unet, text_BTD = tiny_unet(), text()
    plain = answer(unet, text_BTD[1:])
    with caching_text_keys_values(unet), counted(unet) as seen:
        for _ in range(3):
            assert torch.equal(answer(unet, text_BTD.chunk(2)[1]), plain)
    assert seen["projected"] == LAYERS


@torch.no_grad()
def test_another_text_is_never_taken_for_the_kept_one():
    unet = tiny_unet()
    plain = [answer(unet, text(seed=seed)) for seed in range(3)]
    with caching_text_keys_values(unet):
        for seed in (0, 1, 2, 1, 0, 0, 2):  # each freed before the next is made
            assert torch.equal(answer(unet, text(seed=seed)), plain[seed])


@torch.no_grad()
def test_a_text_changed_in_place_is_read_again():
    unet, text_BTD = tiny_unet(), text()
    with caching_text_keys_values(unet):
        answer(unet, text_BTD)
        text_BTD.mul_(2)
        inside = answer(unet, text_BTD)
    assert torch.equal(inside, answer(unet, text_BTD))


@pytest.mark.parametrize("change", ["in place", "other memory", "another layer"])
@torch.no_grad()
def test_changed_weights_are_used(change):
    unet, text_BTD = tiny_unet(), text()
    layer = projections(unet)[0]
    with caching_text_keys_values(unet):
        before = answer(unet, text_BTD)
        if change == "in place":
            layer.weight.mul_(3)
        elif change == "other memory":
            layer.weight.data = layer.weight.data * 3
        else:
            layer.weight = torch.nn.Parameter(layer.weight * 3)
        inside = answer(unet, text_BTD)
    assert not torch.equal(inside, before)
    assert torch.equal(inside, answer(unet, text_BTD))


@torch.no_grad()
def test_keys_written_over_by_somebody_are_computed_again():
    unet, text_BTD = tiny_unet(), text()
    plain = answer(unet, text_BTD)
    with caching_text_keys_values(unet):
        answer(unet, text_BTD)
        projections(unet)[0](text_BTD).zero_()
        assert torch.equal(answer(unet, text_BTD), plain)


def test_gradients_reach_text_and_weights_every_time():
    unet, text_BTD = tiny_unet(), text().requires_grad_()
    with caching_text_keys_values(unet):
        with torch.no_grad():
            answer(unet, text_BTD)
        for _ in range(2):
            text_BTD.grad = projections(unet)[0].weight.grad = None
            answer(unet, text_BTD).sum().backward()
            assert text_BTD.grad.abs().sum() > 0
            assert projections(unet)[0].weight.grad.abs().sum() > 0


@pytest.mark.parametrize("made", ["inside", "outside"])
def test_inference_mode_draws_the_same(made):
    unet, text_BTD = tiny_unet(), text()
    with torch.inference_mode():
        if made == "inside":
            text_BTD = text()
        plain = answer(unet, text_BTD)
        with caching_text_keys_values(unet):
            assert torch.equal(answer(unet, text_BTD), plain)
            text_BTD.mul_(2)
            inside = answer(unet, text_BTD)
        assert torch.equal(inside, answer(unet, text_BTD))
        assert not torch.equal(inside, plain)


@torch.no_grad()
def test_what_does_not_fit_is_computed_again():
    unet, text_BTD = tiny_unet(), text()
    plain = answer(unet, text_BTD)
    layers = projections(unet)
    room = layers[0](text_BTD).nbytes + layers[1](text_BTD).nbytes
    with caching_text_keys_values(unet, most_bytes=room), counted(unet) as seen:
        for _ in range(3):
            assert torch.equal(answer(unet, text_BTD), plain)
    assert seen["projected"] == 2 + 3 * (len(layers) - 2)
    with caching_text_keys_values(unet, most_bytes=room), counted(unet) as seen:
        for seed in (0, 0, 1, 1):  # the room of the first text is given back
            answer(unet, text_BTD if seed == 0 else text_BTD + 1)
    assert seen["projected"] < 4 * len(layers)


@torch.no_grad()
def test_autocast_is_not_mixed_up():
    unet, text_BTD = tiny_unet(), text()
    plain = answer(unet, text_BTD)
    with caching_text_keys_values(unet):
        for _ in range(2):
            assert torch.equal(answer(unet, text_BTD), plain)
            with torch.autocast("cpu", torch.bfloat16):
                assert not torch.equal(answer(unet, text_BTD), plain)


def test_keys_that_are_others_at_each_pass_are_not_kept():
    unet = tiny_unet(  # as Kandinsky's: keys of the text beside those of the picture
        addition_embed_type="image",
        encoder_hid_dim_type="image_proj",
        encoder_hid_dim=TEXT_WIDTH,
        down_block_types=("SimpleCrossAttnDownBlock2D", "DownBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("UpBlock2D", "SimpleCrossAttnUpBlock2D"),
    )
    assert any(getattr(module, "is_cross_attention", False) for module in unet.modules())
    with caching_text_keys_values(unet):
        assert not any("forward" in module.__dict__ for module in unet.modules())


@torch.no_grad()
def test_the_model_holds_the_same_objects_afterwards():
    unet = tiny_unet()

    def state():
        return [(*m.__dict__.keys(), id(m.__dict__.get("forward"))) for m in unet.modules()]

    before = state()

    def interrupted():
        with caching_text_keys_values(unet), caching_text_keys_values(unet):
            assert state() != before
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert state() == before


@torch.no_grad()
def test_offloaded_weights_are_fetched_once():
    unet, text_BTD = tiny_unet(), text()
    plain = answer(unet, text_BTD)
    cpu_offload(unet, execution_device="cpu")
    forwards = [layer.forward for layer in projections(unet)]
    with caching_text_keys_values(unet) as own, counted(unet):
        for _ in range(3):
            assert torch.equal(answer(unet, text_BTD), plain)
        kept = [own[layer].output_BTK for layer in projections(unet)]
    assert all(output is not None for output in kept)
    assert all(
        a is b for a, b in zip(forwards, (p.forward for p in projections(unet)), strict=True)
    )


@pytest.mark.parametrize("how", ["torch.compile", "unet.compile", "its forward"])
@torch.no_grad()
def test_a_compiled_model_is_left_alone(how):
    unet = tiny_unet()
    layers = projections(unet)
    if how == "torch.compile":
        unet = torch.compile(unet, backend="eager")
    elif how == "unet.compile":
        unet.compile(backend="eager")
    else:
        unet.forward = torch.compile(unet.forward, backend="eager")
    with caching_text_keys_values(unet):
        assert not any("forward" in layer.__dict__ for layer in layers)


# through a pipeline

CALL = {"num_inference_steps": 4, "guidance_scale": 4.0, "output_type": "latent"}
PROMPT = "a red apple to the left of the cat"


def draw(pipe, prompt=PROMPT, **call):
    pipe.set_progress_bar_config(disable=True)
    seed = torch.Generator().manual_seed(3)
    return pipe(prompt, generator=seed, **CALL | call).images


def without(monkeypatch, pipe, *args, **call):
    """The same picture with every projection computed at every pass."""
    with monkeypatch.context() as patch:
        patch.setattr(
            "pipelines.base.pipeline.caching_text_keys_values",
            lambda unet: caching_text_keys_values(unet, most_bytes=0),
        )
        return draw(pipe, *args, **call)


@pytest.mark.parametrize(
    ("call", "projected"),
    [
        ({}, 1),
        ({"guidance_scale": 1.0}, 1),
        ({"guidance": PerturbedAttention(4.0, sites=("mid", "up_blocks"))}, 1),
        ({"guidance": Interval(ClassifierFree(4.0), stop=0.5)}, 2),
        ({"prompt": Prompt("a [red:blue:0.5] apple")}, 2),
        ({"prompt": Prompt("a [red|blue] apple")}, 4),
    ],
    ids=["guided", "unguided", "PAG", "interval", "a schedule", "alternation"],
)
def test_a_run_projects_its_text_once_for_each_thing_it_says(monkeypatch, call, projected):
    pipe = TextToImagePipeline(**tiny_sd_components())
    plain = without(monkeypatch, pipe, **call)
    with counted(pipe.unet) as seen:
        assert torch.equal(draw(pipe, **call), plain)
    assert seen["projected"] == LAYERS * projected


def test_sdxl_draws_the_same(monkeypatch):
    pipe = TextToImagePipeline(**tiny_sdxl_components())
    plain = without(monkeypatch, pipe)
    with counted(pipe.unet) as seen:
        assert torch.equal(draw(pipe), plain)
    assert seen["projected"] == len(projections(pipe.unet)) == 2 * LAYERS


def test_lora_layers_work_on_top_and_may_change_under_way(monkeypatch):
    pipe = TextToImagePipeline(**tiny_sd_components())
    plain = draw(pipe)
    config = LoraConfig(r=2, target_modules=["to_k", "to_v"], init_lora_weights=False)
    pipe.unet.add_adapter(config, "style")

    def weaker(_pipe, step, _timestep, tensors):
        pipe.unet.set_adapters(["style"], weights=[1.0 - 0.3 * step])
        return tensors

    def fuse(_pipe, step, _timestep, tensors):
        if step == 1:
            pipe.unet.fuse_lora()
        return tensors

    steady = without(monkeypatch, pipe)
    with counted(pipe.unet) as seen:
        assert torch.equal(draw(pipe), steady)
    assert seen["projected"] == LAYERS
    assert not torch.equal(steady, plain)

    half = {"cross_attention_kwargs": {"scale": 0.5}}
    assert torch.equal(draw(pipe, **half), without(monkeypatch, pipe, **half))

    changing = {"callback_on_step_end": weaker}
    drawn = draw(pipe, **changing)
    pipe.unet.set_adapters(["style"], weights=[1.0])
    assert torch.equal(drawn, without(monkeypatch, pipe, **changing))
    assert not torch.equal(drawn, steady)

    pipe.unet.set_adapters(["style"], weights=[1.0])
    fusing = {"callback_on_step_end": fuse}
    drawn = draw(pipe, **fusing)
    pipe.unet.unfuse_lora()
    assert torch.allclose(drawn, steady, atol=1e-5)


def test_a_callback_that_writes_into_the_embeddings_is_heard(monkeypatch):
    pipe = TextToImagePipeline(**tiny_sd_components())

    def shrink(_pipe, _step, _timestep, tensors):
        tensors["prompt_embeds"].mul_(0.5)
        return {}

    call = {"callback_on_step_end": shrink, "callback_on_step_end_tensor_inputs": ["prompt_embeds"]}
    drawn = draw(pipe, **call)
    assert torch.equal(drawn, without(monkeypatch, pipe, **call))
    assert not torch.equal(drawn, draw(pipe))
