"""The client openai, unchanged, against the real server."""

import base64
import io
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from PIL import Image

from tests.server.servers import run_async

FAST = {"steps": 2, "seed": 5}


@pytest.fixture(scope="module")
def client(address: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)


def decode(b64_json: str | None) -> Image.Image:
    assert b64_json is not None
    return Image.open(io.BytesIO(base64.b64decode(b64_json)))


def encode(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture(scope="module")
def apple(client: openai.OpenAI) -> Image.Image:
    answer = client.images.generate(prompt="a red apple", size="64x64", extra_body=FAST)
    assert answer.data is not None
    return decode(answer.data[0].b64_json)


def test_images_have_size_number_and_metadata(client: openai.OpenAI) -> None:
    answer = client.images.generate(
        model="embedded", prompt="a (red apple", n=2, size="64x48", quality="auto", extra_body=FAST
    )
    assert answer.data is not None
    images = [decode(image.b64_json) for image in answer.data]
    assert [image.size for image in images] == [(64, 48), (64, 48)]
    assert answer.size == "64x48"
    assert answer.output_format == "png"
    assert answer.usage is not None
    assert answer.usage.total_tokens == 0
    assert answer.seeds == [5, 6]  # type: ignore[attr-defined]  # of t2i
    assert images[0].info["parameters"].startswith("a (red apple\nSteps: 2")


def test_size_auto_is_the_models_own(client: openai.OpenAI) -> None:
    answer = client.images.generate(prompt="a cat", size="auto", extra_body={"steps": 1})
    assert answer.size == "128x128"


@pytest.mark.parametrize("output_format", ["jpeg", "webp"])
def test_output_formats_have_their_compression_and_metadata(
    client: openai.OpenAI, output_format: Any
) -> None:
    images = []
    for compression in (100, 10):
        answer = client.images.generate(
            prompt="a red apple",
            size="64x64",
            output_format=output_format,
            output_compression=compression,
            extra_body=FAST,
        )
        assert answer.data is not None
        images.append(answer.data[0].b64_json or "")
    picture = decode(images[0])
    assert (picture.format or "").lower() == output_format
    assert b"Steps: 2" in picture.info["exif"].replace(b"\0", b"")
    assert len(images[1]) < 0.7 * len(images[0])


def test_addresses_lead_to_the_image(client: openai.OpenAI, apple: Image.Image) -> None:
    answer = client.images.generate(
        prompt="a red apple", size="64x64", response_format="url", extra_body=FAST
    )
    assert answer.data is not None
    url = answer.data[0].url
    assert url is not None
    image = Image.open(io.BytesIO(httpx.get(url).content))
    assert np.array_equal(np.asarray(image), np.asarray(apple))


def test_stream_sends_previews_then_the_image(client: openai.OpenAI) -> None:
    events = list(
        client.images.generate(
            prompt="a red apple",
            size="64x64",
            stream=True,
            partial_images=2,
            extra_body={"steps": 30, "seed": 5},
        )
    )
    kinds = [event.type.removeprefix("image_generation.") for event in events]
    # A busy machine has no time for the second one.
    assert kinds in (["partial_image"] * 2 + ["completed"], ["partial_image", "completed"])
    indices = [getattr(event, "partial_image_index", None) for event in events]
    assert indices == [*range(len(events) - 1), None]
    assert decode(events[-1].b64_json).size == (64, 64)
    assert decode(events[0].b64_json).size == tuple(map(int, events[0].size.split("x")))


def test_stream_without_previews_sends_one_event(client: openai.OpenAI) -> None:
    events = list(client.images.generate(prompt="a cat", stream=True, extra_body=FAST))
    assert [event.type for event in events] == ["image_generation.completed"]


def test_async_client_draws(address: str) -> None:
    async def draw() -> Any:
        async with openai.AsyncOpenAI(base_url=f"{address}/v1", api_key="none") as client:
            return await client.images.generate(prompt="a cat", size="64x64", extra_body=FAST)

    assert run_async(draw()).size == "64x64"


# edits


def test_transparent_part_of_the_mask_is_edited(client: openai.OpenAI, apple: Image.Image) -> None:
    mask = Image.new("RGBA", apple.size, (0, 0, 0, 255))
    mask.paste((0, 0, 0, 0), (32, 0, 64, 64))
    answer = client.images.edit(
        image=("apple.png", encode(apple)),
        mask=("mask.png", encode(mask)),
        prompt="a green apple",
        extra_body={"steps": 4, "seed": 1},
    )
    assert answer.data is not None
    edited = decode(answer.data[0].b64_json)
    change = np.abs(np.asarray(edited).astype(int) - np.asarray(apple)).mean(axis=(0, 2))
    assert edited.size == apple.size
    assert change[:24].mean() < change[40:].mean() / 2


def test_opaque_picture_is_changed_as_a_whole(client: openai.OpenAI, apple: Image.Image) -> None:
    distances = []
    for strength in (0.25, 1.0):
        answer = client.images.edit(
            image=[io.BytesIO(encode(apple))],
            prompt="a cat",
            n=1,
            extra_body={"steps": 4, "seed": 1, "strength": strength},
        )
        assert answer.data is not None
        edited = np.asarray(decode(answer.data[0].b64_json)).astype(int)
        distances.append(np.abs(edited - np.asarray(apple)).mean())
    assert distances[0] < distances[1]


def test_edits_stream(client: openai.OpenAI, apple: Image.Image) -> None:
    events = list(
        client.images.edit(
            image=encode(apple),
            prompt="a cat",
            stream=True,
            partial_images=1,
            extra_body={"steps": 20, "seed": 1},
        )
    )
    kinds = [event.type for event in events]
    assert kinds == ["image_edit.partial_image", "image_edit.completed"]


# models, refusals


def test_models_are_listed(client: openai.OpenAI, preset_folder: Path) -> None:
    assert {model.id for model in client.models.list()} == {"embedded", str(preset_folder)}
    assert client.models.retrieve("embedded").owned_by == "t2i"
    with pytest.raises(openai.NotFoundError, match="Unknown model 'gpt-image-1'"):
        client.models.retrieve("gpt-image-1")


def test_unknown_model_is_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="Unknown model 'gpt-image-1'") as raised:
        client.images.generate(model="gpt-image-1", prompt="a cat")
    assert (raised.value.code, raised.value.param) == ("model_not_found", "model")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quality": "high"}, "quality='high', which is not done here"),
        ({"background": "transparent"}, "background='transparent', which is not done here"),
        ({"n": 11}, "n: Input should be less than or equal to 10"),
        ({"size": "huge"}, "Got size 'huge': expected width x height"),
        ({"size": "63x63"}, "63"),
        ({"output_format": "gif"}, "output_format='gif': expected png, jpeg, webp"),
        ({"extra_body": {"steps": 0}}, "Got --steps 0"),
        ({"extra_body": {"sampler": "eulre"}}, "Unknown sampler 'eulre'"),
        ({"extra_body": {"cfg": 7}}, "cfg=7: no such field is known"),
    ],
)
def test_what_is_not_done_is_a_bad_request(
    client: openai.OpenAI, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        client.images.generate(prompt="a cat", **options)
    assert message in raised.value.message
    assert raised.value.type == "invalid_request_error"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image": ("a.png", b"none")}, "a.png is no picture we know"),
        ({"image": [b"one", b"two"]}, "Got 2 images to edit: expected one"),
        (
            {"image": encode(Image.new("RGB", (64, 64))), "mask": encode(Image.new("L", (64, 64)))},
            "mask without transparency",
        ),
        (
            {"image": encode(Image.new("RGB", (64, 64))), "input_fidelity": "high"},
            "input_fidelity='high', which is not done here",
        ),
    ],
)
def test_bad_edits_are_bad_requests(
    client: openai.OpenAI, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        client.images.edit(prompt="a cat", **options)
    assert message in raised.value.message


def test_a_failure_while_drawing_ends_the_stream_with_an_error(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {"prompt": "a cat", "size": "60x60", "extra_body": FAST}
    try:
        with pytest.raises(openai.APIError, match="60"):
            list(client.images.generate(**options, stream=True))
    except openai.BadRequestError:  # found before anything was drawn
        pass
