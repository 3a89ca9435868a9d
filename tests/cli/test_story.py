"""Pictures of ours, read back: what to ask for again, and what is different here."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from t2i import __version__
from t2i.cli.metadata.a1111 import parse_a1111
from t2i.cli.metadata.reading import (
    build_request_from_metadata,
    list_reproduction_differences,
    read_metadata,
)
from t2i.cli.metadata.t2i_json import find_t2i_metadata
from t2i.cli.metadata.writing import build_metadata_texts, format_a1111
from t2i.cli.request.input_files import EmbeddingFile, InputFile, InputFileWithScale
from t2i.cli.request.request import MAX_SEED, Request
from t2i.denoiser.sampler_names import SAMPLER_NAMES
from t2i.errors import DataError
from t2i.pictures import save_picture
from tests.cli.carrying import png

DIGEST = "0123456789abcdef" * 4
ASKED = Request(
    prompt="ein Apfel, grün\nNegative prompt: not yet\nSteps: 9, 猫 \U0001f34e",
    negative_prompt='a "dog"\n\nwith: commas,',
    model="models/tiny, v2",
    num_inference_steps=12,
    guidance_scale=4.5,
    sampler="dpm++ 2m karras",
    width=96,
    height=64,
    loras=(
        InputFileWithScale(path="~/a, b.safetensors", scale=-0.5, sha256="f" * 64),
        InputFileWithScale(path="c"),
    ),
    embeddings=(EmbeddingFile(path="d.safetensors", token="<d>"),),
    ip_adapter=InputFile(path="e"),
    image_prompt=InputFileWithScale(path="f.png"),
    image=InputFile(path="g.png"),
    mask=InputFile(path="h.png"),
    strength=0.5,
)


def ours(path: Path, **changes: object) -> Path:
    """A picture of ours whose record says something else."""
    text = build_metadata_texts(ASKED, 7, DIGEST)
    record = json.loads(text["t2i"])
    return png(path, text | {"t2i": json.dumps(record | changes)})


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_every_format_tells_the_whole_request_and_seed(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    save_picture(Image.new("RGB", (96, 64)), path, build_metadata_texts(ASKED, 7, DIGEST))
    story = read_metadata(path)
    assert build_request_from_metadata(story) == (ASKED, 7)
    assert (story.prompt, story.negative_prompt) == (ASKED.prompt, ASKED.negative_prompt)
    assert story.tool == f"t2i {__version__}"
    assert story.settings.model_hash == DIGEST
    assert story.not_understood == ()


words = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
requests = st.builds(
    Request,
    prompt=words,
    negative_prompt=words,
    model=words.filter(lambda name: "\0" not in name),
    num_inference_steps=st.integers(1, 10_000),
    guidance_scale=st.floats(-1e4, 1e4),
    sampler=st.sampled_from(sorted(SAMPLER_NAMES)),
    width=st.integers(1, 8000),
    height=st.integers(1, 8000),
)


@given(requests, st.integers(0, MAX_SEED))
@settings(max_examples=300, deadline=None)
def test_what_is_written_is_read_back(request: Request, seed: int) -> None:
    text = build_metadata_texts(request, seed, DIGEST)
    story = find_t2i_metadata(text)
    assert story is not None
    assert build_request_from_metadata(story) == (request, seed)


@given(requests, st.integers(0, MAX_SEED))
@example(
    Request(
        prompt="a",
        model="a\rb",
        num_inference_steps=1,
        guidance_scale=1.0,
        sampler="ddim",
        width=8,
        height=8,
    ),
    1,
)
@settings(max_examples=300, deadline=None)
def test_the_prompt_text_alone_says_the_same(request: Request, seed: int) -> None:
    # A line "Negative prompt:" begins the negative prompt, in a prompt too, and a carriage return
    # ends a line: the two things it loses.
    prompt = request.prompt.replace("Negative prompt:", "").replace("\r", "")
    negative_prompt = request.negative_prompt.replace("\r", "")
    request = replace(request, prompt=prompt, negative_prompt=negative_prompt)
    story = parse_a1111(format_a1111(request, seed, DIGEST))
    assert (story.prompt, story.negative_prompt) == (prompt, request.negative_prompt)
    told = story.settings
    name = Path(request.model).name
    assert told.model == (name or None)
    asked, again = build_request_from_metadata(story)
    # The text does not say how the prompt was read: it is taken as A1111 would, if it can be.
    assert replace(asked, grammar="plain") == replace(request, model="embedded")
    assert again == seed
    assert told.model_hash == DIGEST[:10]
    assert story.not_understood == ()
    assert story.tool == f"t2i {__version__}"


def test_a_models_own_sampler_is_left_to_the_model(tmp_path: Path) -> None:
    request = replace(ASKED, sampler="DDIMScheduler")
    story = read_metadata(png(tmp_path / "a.png", build_metadata_texts(request, 7, DIGEST)))
    assert story.settings.sampler == "DDIMScheduler"
    assert build_request_from_metadata(story)[0] == replace(ASKED, sampler=None)


def test_other_versions_and_another_model_are_named(tmp_path: Path) -> None:
    versions = {"t2i": "0.0.1", "torch": "1.0\x1b[31m"}
    story = read_metadata(ours(tmp_path / "a.png", libraries=versions))
    first, second, third = list_reproduction_differences(story, "f" * 64)
    assert first == f"made with t2i 0.0.1, here is {__version__}"
    assert second.startswith("made with torch 1.0\\u001b[31m, here is ")
    assert third == "made with model 0123456789, here is ffffffffff"
    assert len(list_reproduction_differences(story, DIGEST)) == 2
    assert (
        list_reproduction_differences(story, None)[2]
        == "made with model 0123456789; the model here is not known"
    )


def test_fields_of_a_newer_t2i_are_named(tmp_path: Path) -> None:
    asked = asdict(ASKED) | {"mood": "calm"}
    story = read_metadata(ours(tmp_path / "a.png", request=asked, place="here"))
    assert build_request_from_metadata(story) == (ASKED, 7)
    assert story.not_understood == ("place: here", "request.mood: calm")


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"version": 2}, "t2i: written in format 2, this t2i reads 1"),
        ({"seed": -1}, r"t2i: seed: .*greater than or equal to 0"),
        ({"seed": "7"}, r"t2i: seed: .*valid integer"),
        ({"request": []}, r"t2i: request: "),
        ({"request": {"prompt": 3}}, r"t2i: request\.prompt: .*valid string"),
        (
            {"request": {"prompt": "x", "num_inference_steps": 10**9}},
            r"t2i: request: Got --steps 1000000000: expected [^.]*\. Look",
        ),
        ({"request": {"prompt": "x", "guidance_scale": 1e999}}, r"t2i: .*finite"),
        ({"request": {"prompt": "x", "loras": [{"path": "a"}] * 40}}, r"Got 40 times --lora: at m"),
        ({"request": {"prompt": "x", "image": {"path": "a\0b"}}}, r"expected the path of a file"),
        (
            {"request": {"prompt": "x", "mask": {"path": "x" * 5000}}},
            r"expected the path of a file",
        ),
        ({"request": {"prompt": "x", "image": {"path": "a", "sha256": "z"}}}, r"64 digits of hex"),
        ({"request": {"prompt": "x", "strength": 1e999}}, r"t2i: .*--strength inf"),
        ({"libraries": {"torch": "x" * 300}}, r"t2i: libraries\.torch: .*at most 200"),
    ],
)
def test_a_record_that_cannot_be_used_is_refused_by_name(
    tmp_path: Path, changes: dict[str, object], complaint: str
) -> None:
    record = json.loads(build_metadata_texts(ASKED, 7, DIGEST)["t2i"]) | changes
    path = png(tmp_path / "a.png", {"t2i": json.dumps(record)})
    with pytest.raises(
        DataError, match=rf"a\.png has no generation metadata that can be read: .*{complaint}"
    ):
        read_metadata(path)


def test_a_broken_record_leaves_the_prompt_text(tmp_path: Path) -> None:
    text = build_metadata_texts(replace(ASKED, prompt="a cat"), 7, DIGEST)
    story = read_metadata(png(tmp_path / "a.png", text | {"t2i": "{"}))
    assert (story.prompt, story.settings.seed) == ("a cat", 7)
    assert story.not_understood[0].startswith("t2i: not JSON")
    assert list_reproduction_differences(story, DIGEST)[0] == (
        f"made by t2i {__version__}, but its full record is missing: it may not be identical"
    )
