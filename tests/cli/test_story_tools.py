"""Pictures of ComfyUI, InvokeAI and Fooocus."""

import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t2i.cli.metadata.comfyui import find_comfyui_metadata
from t2i.cli.metadata.reading import (
    build_request_from_metadata,
    list_reproduction_differences,
    read_metadata,
)
from t2i.errors import DataError
from tests.cli.carrying import png, with_exif

Nodes = dict[str, dict[str, Any]]


def node(kind: str, **inputs: object) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def plain_graph() -> Nodes:
    return {
        "3": node(
            "KSampler",
            **{"seed": 156680208700286, "steps": 20, "cfg": 8, "denoise": 1},
            **{"sampler_name": "dpmpp_2m", "scheduler": "karras"},
            **{"model": ["4", 0], "positive": ["6", 0], "negative": ["7", 0]},
            latent_image=["5", 0],
        ),
        "4": node("CheckpointLoaderSimple", ckpt_name="v1-5.safetensors"),
        "5": node("EmptyLatentImage", width=512, height=768, batch_size=1),
        "6": node("CLIPTextEncode", text="a cat\nin a hat", clip=["4", 1]),
        "7": node("CLIPTextEncode", text="blurry", clip=["4", 1]),
        "8": node("VAEDecode", samples=["3", 0], vae=["4", 2]),
        "9": node("SaveImage", images=["8", 0], filename_prefix="x"),
    }


def comfyui(path: Path, graph: Nodes) -> Path:
    return png(path, {"prompt": json.dumps(graph)})


def test_a_comfyui_graph_is_followed_from_the_sampler(tmp_path: Path) -> None:
    story = read_metadata(comfyui(tmp_path / "a.png", plain_graph()))
    assert (story.tool, story.prompt, story.negative_prompt) == (
        "ComfyUI",
        "a cat\nin a hat",
        "blurry",
    )
    told = story.settings
    assert (told.num_inference_steps, told.guidance_scale) == (20, 8.0)
    assert (told.sampler, told.seed) == ("dpm++ 2m karras", 156680208700286)
    assert (told.width, told.height, told.model) == (512, 768, "v1-5.safetensors")
    assert story.not_understood == ()
    assert build_request_from_metadata(story)[1] == 156680208700286
    assert (
        "another tool, ComfyUI: it will not be identical"
        in list_reproduction_differences(story, None)[0]
    )


def test_a_comfyui_webp_keeps_its_graph_in_exif(tmp_path: Path) -> None:
    graph = f"prompt:{json.dumps(plain_graph())}"
    path = with_exif(tmp_path / "a.webp", {0x0110: graph, 0x010F: "workflow:{}"}, below=False)
    assert read_metadata(path).prompt == "a cat\nin a hat"


def test_base_and_refiner_of_sdxl_are_one_picture(tmp_path: Path) -> None:
    graph = plain_graph()
    advanced = {"steps": 25, "cfg": 7, "sampler_name": "euler", "scheduler": "normal"}
    links = {"positive": ["6", 0], "negative": ["7", 0]}
    graph["10"] = node(
        *("KSamplerAdvanced",),
        **advanced | links,
        **{"noise_seed": 0, "start_at_step": 20, "latent_image": ["3", 0], "model": ["12", 0]},
    )
    graph["3"] = node(
        *("KSamplerAdvanced",),
        **advanced | links,
        **{"noise_seed": ["11", 0], "start_at_step": 0, "end_at_step": 20},
        **{"latent_image": ["5", 0], "model": ["13", 0]},
    )
    graph["6"] = node("CLIPTextEncodeSDXL", text_g="a cat", text_l="fur", clip=["4", 1])
    graph["11"] = node("PrimitiveInt", value=5)
    graph["12"] = node("CheckpointLoaderSimple", ckpt_name="refiner.safetensors")
    graph["13"] = node("LoraLoader", lora_name="fine.safetensors", model=["4", 0], clip=["4", 1])
    story = read_metadata(comfyui(tmp_path / "a.png", graph))
    assert (story.prompt, story.settings.seed, story.settings.sampler) == ("a cat", 5, "euler")
    assert (story.settings.model, story.settings.width) == ("v1-5.safetensors", 512)
    told = "\n".join(story.not_understood)
    assert "node 10: KSamplerAdvanced samples once more" in told
    assert "node 6: CLIPTextEncodeSDXL reads a second text: fur" in told
    assert 'LoraLoader: {"lora_name": "fine.safetensors"}' in told


def test_a_sampler_in_parts_is_put_together(tmp_path: Path) -> None:
    graph = plain_graph()
    graph["3"] = node(
        *("SamplerCustomAdvanced",),
        **{"noise": ["20", 0], "guider": ["21", 0], "sampler": ["22", 0], "sigmas": ["23", 0]},
        latent_image=["5", 0],
    )
    graph["20"] = node("RandomNoise", noise_seed=9)
    graph["21"] = node("CFGGuider", cfg=3, model=["4", 0], positive=["6", 0], negative=["7", 0])
    graph["22"] = node("KSamplerSelect", sampler_name="euler_ancestral")
    graph["23"] = node("BasicScheduler", steps=12, scheduler="simple", model=["4", 0])
    story = read_metadata(comfyui(tmp_path / "a.png", graph))
    assert (story.prompt, story.negative_prompt) == ("a cat\nin a hat", "blurry")
    told = story.settings
    assert (told.seed, told.num_inference_steps, told.guidance_scale) == (9, 12, 3.0)
    assert told.sampler == "euler a"
    assert story.not_understood == ("schedule: simple",)


def test_what_stands_between_prompt_and_sampler_is_named(tmp_path: Path) -> None:
    graph = plain_graph()
    graph["3"]["inputs"] |= {
        "positive": ["30", 0],
        "negative": ["30", 1],
        "latent_image": ["33", 0],
    }
    graph["3"]["inputs"]["denoise"] = 0.6
    graph["30"] = node(
        "ControlNetApplyAdvanced", positive=["31", 0], negative=["7", 0], image=["34", 0]
    )
    graph["31"] = node("ConditioningCombine", conditioning_1=["6", 0], conditioning_2=["32", 0])
    graph["32"] = node("CLIPTextEncode", text="a dog", clip=["4", 1])
    graph["33"] = node("VAEEncode", pixels=["34", 0], vae=["4", 2])
    graph["34"] = node("LoadImage", image="in.png")
    story = read_metadata(comfyui(tmp_path / "a.png", graph))
    assert (story.prompt, story.negative_prompt) == ("a cat\nin a hat\na dog", "blurry")
    assert story.settings.width is None
    told = "\n".join(story.not_understood)
    for what in (
        "node 30: ControlNetApplyAdvanced changes what the positive prompt does",
        "node 31: ConditioningCombine changes what the positive prompt does",
        "node 34: LoadImage: the picture did not begin from noise",
        "denoise: 0.6",
    ):
        assert what in told


def test_a_comfyui_workflow_without_a_graph_is_read(tmp_path: Path) -> None:
    workflow = {
        "nodes": [
            {
                **{"id": 3, "type": "KSampler"},
                "inputs": [
                    *({"name": "model", "link": 1}, {"name": "positive", "link": 4}),
                    *({"name": "negative", "link": 6}, {"name": "latent_image", "link": 2}),
                    {"name": "seed", "link": None},
                ],
                "widgets_values": [7, "randomize", 20, 8, "euler", "normal", 1],
            },
            {"id": 4, "type": "CheckpointLoaderSimple", "widgets_values": ["v1-5.safetensors"]},
            {"id": 5, "type": "EmptyLatentImage", "widgets_values": [512, 256, 1]},
            {"id": 6, "type": "CLIPTextEncode", "widgets_values": ["a cat"]},
            {"id": 7, "type": "CLIPTextEncode", "widgets_values": ["blurry"]},
        ],
        "links": [
            *([1, 4, 0, 3, 0, "MODEL"], [2, 5, 0, 3, 3, "LATENT"]),
            *([4, 6, 0, 3, 1, "CONDITIONING"], [6, 7, 0, 3, 2, "CONDITIONING"]),
        ],
    }
    story = read_metadata(png(tmp_path / "a.png", {"workflow": json.dumps(workflow)}))
    assert (story.prompt, story.negative_prompt) == ("a cat", "blurry")
    told = story.settings
    assert (told.seed, told.num_inference_steps, told.sampler) == (7, 20, "euler")
    assert (told.width, told.height, told.model) == (512, 256, "v1-5.safetensors")


def test_cycles_in_a_graph_end(tmp_path: Path) -> None:
    graph = plain_graph()
    graph["3"]["inputs"] |= {
        **{"positive": ["40", 0], "negative": ["3", 0], "model": ["42", 0]},
        **{"seed": ["41", 0], "steps": ["3", 0], "latent_image": ["3", 0]},
    }
    graph["40"] = node("ConditioningConcat", conditioning_to=["40", 0], conditioning_from=["43", 0])
    graph["41"] = node("PrimitiveInt", value=["41", 0])
    graph["42"] = node("LoraLoader", lora_name="x", model=["42", 0])
    graph["43"] = node("Reroute", any=["40", 0])
    story = read_metadata(comfyui(tmp_path / "a.png", graph))
    assert (story.prompt, story.negative_prompt) == ("", "")
    told = story.settings
    assert (told.seed, told.num_inference_steps, told.model) == (None, None, None)
    assert (told.guidance_scale, told.sampler) == (8.0, "dpm++ 2m karras")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)
LINKS = st.sampled_from(sorted(plain_graph())).map(lambda name: [name, 0])
INPUTS = [(name, key) for name, entry in plain_graph().items() for key in entry["inputs"]]


@given(st.dictionaries(st.sampled_from(INPUTS), JSON | LINKS, min_size=1, max_size=6))
@settings(max_examples=200, deadline=None)
def test_anything_may_stand_anywhere_in_a_graph(changes: dict[tuple[str, str], Any]) -> None:
    graph = plain_graph()
    for (name, key), value in changes.items():
        graph[name]["inputs"][key] = value
    story = find_comfyui_metadata({"prompt": json.dumps(graph)})
    assert story is not None
    for (name, key), value in changes.items():
        if (name, key) == ("3", "steps") and type(value) is int:
            assert story.settings.num_inference_steps == (value if 1 <= value <= 10_000 else None)
    letters = {
        unicodedata.category(letter)
        for letter in "".join(list_reproduction_differences(story, None))
    }
    assert not letters & {"Cc", "Cs", "Zl", "Zp"}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[1, 2]", "prompt: JSON, but not an object"),
        ("{}", "prompt: JSON, but no graph of ComfyUI"),
        (
            '{"1": {"class_type": "Load\\u001b[2J", "inputs": {}}}',
            r"without a sampler among Load\\u001b",
        ),
        ('{"1": 1e999, "2": NaN}', "no graph of ComfyUI"),
        ("1" * 5000, "prompt: not JSON: a number has 5,000 digits, at most 100 are read"),
        ("a cat", "prompt: not JSON: Expecting value"),
    ],
)
def test_what_is_no_graph_is_refused(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(DataError, match=complaint):
        read_metadata(png(tmp_path / "a.png", {"prompt": text}))


def test_invokeai_3_is_read(tmp_path: Path) -> None:
    metadata = {
        **{"app_version": "5.4.0", "generation_mode": "txt2img", "positive_prompt": "a cat"},
        **{"negative_prompt": "blurry", "width": 512, "height": 768, "seed": 7, "steps": 30},
        **{"cfg_scale": 7.5, "scheduler": "dpmpp_2m_k", "clip_skip": 0, "loras": []},
        "model": {"key": "k", "hash": "blake3:12", "name": "sd-1.5", "base": "sd-1"},
    }
    path = png(tmp_path / "a.png", {"invokeai_metadata": json.dumps(metadata)})
    story = read_metadata(path)
    assert (story.tool, story.prompt, story.negative_prompt) == (
        "InvokeAI 5.4.0",
        "a cat",
        "blurry",
    )
    told = story.settings
    assert (told.sampler, told.seed, told.guidance_scale) == ("dpm++ 2m karras", 7, 7.5)
    assert (told.width, told.height, told.num_inference_steps) == (512, 768, 30)
    assert (told.model, told.model_hash) == ("sd-1.5", "blake3:12")
    assert story.not_understood == ("generation_mode: txt2img",)


def test_a_prompt_that_says_none_is_a_prompt(tmp_path: Path) -> None:
    metadata = json.dumps({"positive_prompt": "None", "negative_prompt": 3})
    story = read_metadata(png(tmp_path / "a.png", {"invokeai_metadata": metadata}))
    assert (story.prompt, story.negative_prompt) == ("None", "")
    assert story.not_understood == ("negative_prompt: 3 (expected text)",)


def test_invokeai_2_is_read(tmp_path: Path) -> None:
    image = {
        "prompt": [{"prompt": "a cat [blurry]", "weight": 1.0}],
        **{"steps": 50, "cfg_scale": 7.5, "height": 512, "width": 640, "seed": 7},
        **{"sampler": "k_euler_a", "type": "txt2img", "seamless": False},
    }
    metadata = {"model_weights": "stable-1.5", "app_version": "2.2.5", "image": image}
    story = read_metadata(png(tmp_path / "a.png", {"sd-metadata": json.dumps(metadata)}))
    assert (story.tool, story.prompt, story.negative_prompt) == (
        "InvokeAI 2.2.5",
        "a cat",
        "blurry",
    )
    assert (story.settings.sampler, story.settings.width) == ("euler a", 640)
    assert story.not_understood == ("type: txt2img",)


def test_the_first_invokeai_is_read(tmp_path: Path) -> None:
    text = '"a "red" cat" -s 50 -S 7 -W 512 -H 640 -C 7.5 -G -A k_lms -f0.75'
    story = read_metadata(png(tmp_path / "a.png", {"Dream": text}))
    assert (story.prompt, story.settings.seed) == ('a "red" cat', 7)
    assert (story.settings.height, story.settings.sampler) == (640, "lms")
    assert story.not_understood == ("-G: given", "-f: 0.75")
    with pytest.raises(DataError, match="Dream: expected a prompt in quotes"):
        read_metadata(png(tmp_path / "b.png", {"Dream": "no quotes"}))


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("-cf 0.75", ("-cf: 0.75",)),
        ("-ft codeformer", ("-ft: codeformer",)),
        ("-fit -f 0.5", ("-fit: given", "-f: 0.5")),
        ("-tm a mug 0.4", ("-tm: a mug 0.4",)),
        ("-c top 64 left 32", ("-c: top 64 left 32",)),
        ("-U 2.0 0.75", ("-U: 2.0 0.75",)),
        ("-save_orig", ("-save_orig: given",)),
        ("-embiggen_tiles 1 3 5", ("-embiggen_tiles: 1 3 5",)),
        ("--embiggen 3 -embiggen 2", ("--embiggen: 3", "-embiggen: 2")),
        ("--hires_fix --perlin=0.2", ("--hires_fix: given", "--perlin: 0.2")),
        ("-c0.5", ("-c: 0.5",)),
        ("-Vcf=1", ("-V: cf=1",)),
        ("-D left -10", ("-D: left -10",)),
    ],
)
def test_options_of_the_first_invokeai_keep_their_names_and_values(
    tmp_path: Path, written: str, expected: tuple[str, ...]
) -> None:
    text = f'"a cat" -s 50 {written} -S7 -C7.5 -Ak_lms'
    story = read_metadata(png(tmp_path / "a.png", {"Dream": text}))
    assert story.not_understood == expected
    told = story.settings
    assert (told.num_inference_steps, told.seed, told.guidance_scale) == (50, 7, 7.5)
    assert told.sampler == "lms"


FOOOCUS = {
    **{"prompt": "a cat", "negative_prompt": "", "styles": "['Fooocus V2']", "steps": 30},
    **{"resolution": "(1152, 896)", "guidance_scale": 4.0, "base_model": "juggernaut.safetensors"},
    **{"base_model_hash": "aeb7e9e689", "sampler": "dpmpp_2m_sde_gpu", "scheduler": "karras"},
    **{"seed": "123", "version": "Fooocus v2.5.5", "metadata_scheme": "fooocus"},
}


def test_fooocus_is_read(tmp_path: Path) -> None:
    texts = {"parameters": json.dumps(FOOOCUS), "fooocus_scheme": "fooocus"}
    fields = {0x9286: texts["parameters"], 0x927C: "fooocus", 0x0131: "Fooocus v2.5.5"}
    for path in (
        png(tmp_path / "a.png", texts),
        png(tmp_path / "b.png", {"parameters": texts["parameters"]}),
        with_exif(tmp_path / "c.jpg", fields, below=False),
    ):
        story = read_metadata(path)
        assert (story.tool, story.prompt) == ("Fooocus v2.5.5", "a cat")
        told = story.settings
        assert (told.width, told.height, told.seed) == (1152, 896, 123)
        assert (told.sampler, told.model_hash) == ("dpm++ 2m sde karras", "aeb7e9e689")
        assert story.not_understood == ("styles: ['Fooocus V2']",)


def test_fooocus_in_the_layout_of_a1111_is_read(tmp_path: Path) -> None:
    text = "a cat\nNegative prompt: blurry\nSteps: 30, Sampler: Euler a, Seed: 123, Size: 1152x896"
    path = png(tmp_path / "a.png", {"parameters": text, "fooocus_scheme": "a1111"})
    story = read_metadata(path)
    assert (story.tool, story.negative_prompt, story.settings.seed) == ("Fooocus", "blurry", 123)


def test_a_prompt_that_begins_with_a_brace_is_not_fooocus(tmp_path: Path) -> None:
    story = read_metadata(png(tmp_path / "a.png", {"parameters": "{a|b} cat\nSteps: 20, Seed: 5"}))
    assert (story.tool, story.prompt, story.not_understood) == ("A1111", "{a|b} cat", ())


@pytest.mark.parametrize(
    ("texts", "complaint"),
    [
        ({"parameters": "{", "fooocus_scheme": "fooocus"}, "parameters: not JSON"),
        ({"parameters": "{}", "fooocus_scheme": "x\x1b"}, r"fooocus_scheme: 'x\\x1b', expected"),
        ({"parameters": '{"sui": 1}'}, "JSON without any value that Fooocus writes"),
        ({"sd-metadata": "{}"}, "sd-metadata: no object 'image'"),
        ({"invokeai_metadata": "[]"}, "invokeai_metadata: JSON, but not an object"),
    ],
)
def test_texts_that_their_tool_did_not_write_are_refused(
    tmp_path: Path, texts: dict[str, str], complaint: str
) -> None:
    with pytest.raises(DataError, match=complaint):
        read_metadata(png(tmp_path / "a.png", texts))
