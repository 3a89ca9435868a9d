"""IP-Adapters whose image prompts have as many keys as the text: each attention call of a site is
known by its place in the module's forward.
"""

from itertools import product
from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import IPAdapterAttnProcessor
from diffusers.models.embeddings import IPAdapterPlusImageProjection
from torch import Tensor

from pipelines.text_to_image import TextToImagePipeline
from t2i.attention import Replace, Reweight, attend
from tests.attention.by_hand import Asked, asked, assert_maps
from tests.pipelines.test_adapters import adapter_for
from tests.sweeps import sweep
from tests.tiny import (
    WINDOW,
    diffusers_pipeline,
    tiny_sd_components,
    tiny_sdxl_components,
)

PAIR = ["a red apple", "a red dog"]
SEVERAL_CHUNKS = "a red apple, " * 5  # 30 tokens, two chunks
Adapter = tuple[int, Tensor]
"""Number of tokens of an IP-Adapter-Plus, 0 for other adapters; embeddings of the image prompt."""


def ours_sd1() -> Any:
    return TextToImagePipeline(**tiny_sd_components())


def ours_sdxl() -> Any:
    return TextToImagePipeline(**tiny_sdxl_components())


def diffusers_sd1() -> Any:
    return diffusers_pipeline(tiny_sd_components())


def embeddings(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(5))


def ordinary(images: int) -> Adapter:
    """An adapter with four tokens for each of so many images."""
    return 0, embeddings(2, images, 24)


def plus(tokens: int) -> Adapter:
    """An IP-Adapter-Plus, which encodes its image by attention."""
    return tokens, embeddings(2, 1, 5, 16)


def load(pipe: Any, *adapters: Adapter) -> dict[str, Any]:
    """Load adapters into a pipeline, and return the arguments of calls with their embeddings."""
    width = pipe.unet.config.cross_attention_dim
    pipe.set_progress_bar_config(disable=True)
    pipe.unet._load_ip_adapter_weights([adapter_for(pipe.unet, width) for _ in adapters])
    pipe.set_ip_adapter_scale([0.8] * len(adapters))
    for number, (tokens, _) in enumerate(adapters):
        if tokens:
            pipe.unet.encoder_hid_proj.image_projection_layers[number] = (
                IPAdapterPlusImageProjection(16, width, 8, 1, heads=2, num_queries=tokens)
            )
    return {
        "ip_adapter_image_embeds": [given for _, given in adapters],
        "num_inference_steps": 3,
        "output_type": "latent",
    }


def draw(pipe: Any, call: dict[str, Any], prompt: Any = PAIR[0]) -> Tensor:
    number = 1 if isinstance(prompt, str) else len(prompt)
    noise = [torch.Generator().manual_seed(3) for _ in range(number)]
    return pipe(prompt, generator=noise, **call).images


def use_eager_processors(pipe: Any) -> None:
    """Replace the fused processors by those that ask the module for its scores."""
    for name, fused in pipe.unet.attn_processors.items():
        if hasattr(fused, "to_k_ip"):
            sizes = fused.hidden_size, fused.cross_attention_dim, fused.num_tokens, fused.scale
            eager = IPAdapterAttnProcessor(*sizes)
            eager.load_state_dict(fused.state_dict())
            pipe.unet.get_submodule(name.removesuffix(".processor")).set_processor(eager)


CASES = {
    "four images": (ours_sd1, [ordinary(4)], PAIR[0]),
    "Plus": (ours_sd1, [plus(WINDOW)], PAIR[0]),
    "several": (ours_sd1, [plus(WINDOW), ordinary(1), ordinary(4)], PAIR[0]),
    "two chunks": (ours_sd1, [ordinary(8)], SEVERAL_CHUNKS),
    "Plus, SDXL": (ours_sdxl, [plus(WINDOW)], PAIR[0]),
    "several, SDXL, two chunks": (ours_sdxl, [plus(2 * WINDOW), ordinary(8)], SEVERAL_CHUNKS),
    "diffusers' own pipeline": (diffusers_sd1, [ordinary(4), ordinary(1)], PAIR[0]),
}


@pytest.mark.parametrize(
    ("name", "eager"),
    sweep(
        product(CASES, [False, True]),
        # Eager attention finds the text as the fused one does; chunks count as one text.
        quick=[
            ("four images", False),
            ("Plus", True),
            ("several, SDXL, two chunks", False),
            ("diffusers' own pipeline", False),
        ],
    ),
)
def test_probes_read_the_text_where_an_image_prompt_has_as_many_keys(name, eager):
    make, adapters, prompt = CASES[name]
    pipe = make()
    call = load(pipe, *adapters)
    if eager:
        use_eager_processors(pipe)
    plain = draw(pipe, call, prompt)
    given = {"prompts": [prompt]} if make is diffusers_sd1 else {}
    with attend(pipe, **given) as attn:
        maps = attn.probe("apple")
        assert torch.equal(draw(pipe, call, prompt), plain)
        (keys,) = {site.keys for site in attn.sites() if site.kind == "cross"}
        reads_all = maps["apple"]
    assert keys == (2 * WINDOW if prompt == SEVERAL_CHUNKS else WINDOW)
    assert torch.isfinite(reads_all).all()

    # Image prompts that add zeros leave the queries, and so the maps, as no image prompt does.
    for layer in pipe.unet.modules():
        for values in getattr(layer, "to_v_ip", ()):
            torch.nn.init.zeros_(values.weight)
    found = []
    for scale in (0.8, 0.0):
        pipe.set_ip_adapter_scale([scale] * len(adapters))
        with attend(pipe, **given) as attn:
            maps = attn.probe("apple", "red")
            latents = draw(pipe, call, prompt)
            sites = [site for site in attn.sites() if site.kind == "cross"]
            by_site = [maps.site_map("apple", site.name) for site in sites]
        found.append([latents, maps["apple"], maps["red"], *by_site])
    for with_image_prompts, without in zip(*found, strict=True):
        assert torch.equal(with_image_prompts, without)
    assert not torch.equal(found[0][1], reads_all)


@pytest.mark.parametrize("make", [ours_sd1, ours_sdxl, diffusers_sd1])
def test_maps_beside_an_image_prompt_are_those_of_the_first_call(make):
    pipe = make()
    call = load(pipe, ordinary(4), plus(WINDOW)) | {"height": 32, "width": 48}
    with asked(pipe.unet) as calls:
        draw(pipe, call, PAIR)
    cross = [one for one in calls if one.keys == WINDOW]
    text: list[Asked] = cross[::3]  # of three calls in each module
    with attend(pipe, prompts=PAIR) as attn:
        maps = [attn.probe("apple"), attn.probe("dog", prompt=1)]
        draw(pipe, call, PAIR)
        assert_maps(attn, maps[0], "apple", text, WINDOW, 2, (3,))
        assert_maps(attn, maps[1], "dog", text, WINDOW, 3, (3,))


def test_the_encoder_of_image_prompts_has_no_sites():
    pipe = ours_sd1()
    call = load(pipe, plus(8))
    with attend(pipe) as attn:
        maps = attn.probe("apple")
        draw(pipe, call)
        read = maps.measurements.list_accumulators(0)
        assert {one.site.place for one in read} == {"down", "mid", "up"}
        assert {site.name.split(".")[0] for site in attn.sites()} == {
            "down_blocks",
            "mid_block",
            "up_blocks",
        }


@pytest.mark.parametrize(
    ("make", "eager"),
    sweep(
        product([ours_sd1, ours_sdxl], [False, True]),
        quick=[(ours_sd1, False), (ours_sdxl, True)],
    ),
)
def test_edits_leave_an_image_prompt_of_as_many_keys_alone(make, eager):
    """Equal tokens of an image prompt count once, whatever their number: sixteen are as four."""
    pipe = make()
    width = pipe.unet.config.cross_attention_dim
    made, without_edits = [], []
    for images in (4, 1):
        call = load(pipe, ordinary(images))
        (layer,) = pipe.unet.encoder_hid_proj.image_projection_layers
        four = layer.image_embeds
        with torch.no_grad():  # four equal tokens
            four.weight.copy_(four.weight[:width].repeat(4, 1))
        one = embeddings(2, 1, 24)
        call["ip_adapter_image_embeds"] = [one.repeat(1, images, 1)]
        if eager:
            use_eager_processors(pipe)
        without_edits.append(draw(pipe, call, PAIR))
        with attend(pipe, prompts=PAIR) as attn:
            attn.edit(Replace(source=0, target=1))
            attn.edit(Reweight(target=1, weights={"dog": 3.0}))
            made.append(draw(pipe, call, PAIR))
        pipe.unload_ip_adapter()
    torch.testing.assert_close(without_edits[0], without_edits[1], atol=1e-4, rtol=1e-4)
    difference = (made[0] - made[1]).abs().max()
    effect = (made[0] - without_edits[0]).abs().max()
    assert difference < 1e-4
    assert effect > 100 * difference
