"""Large pictures of masked requests: checked before they are decoded, and decoded a few at once."""

import base64
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageFile

from t2i.server.compat.a1111.request.bodies import Img2ImgBody
from t2i.server.compat.a1111.request.init_images import paste_into_init_image
from t2i.server.jobs.uploads import MAX_PICTURES_DECODED_AT_ONCE
from tests.server.conftest import Idle

SIDE = 300
"""Pixels of a side; pictures of 64 million take the same way."""


def encode(mode: str, colour: Any, side: int = SIDE) -> bytes:
    stream = io.BytesIO()
    picture = Image.new(mode, (side, side), colour)
    picture.paste(0 if mode != "RGBA" else (0, 0, 0, 0), (0, 0, side // 2, side // 2))
    picture.save(stream, "PNG")
    return stream.getvalue()


def img2img(**values: Any) -> dict[str, Any]:
    picture, mask = (
        base64.b64encode(encode(*one)).decode() for one in (("RGB", "red"), ("L", 255))
    )
    return {"prompt": "a cat", "init_images": [picture], "mask": mask, **values}


@dataclass
class Decodings:
    """Decodings of pictures: how many further ones the server's limit left at each of them."""

    free: list[int] = field(default_factory=list)
    limit: Any = None


@pytest.fixture
def decodings(monkeypatch: pytest.MonkeyPatch) -> Decodings:
    """The decodings since a limit was set."""
    decodings = Decodings()
    load = ImageFile.ImageFile.load

    def record(self: ImageFile.ImageFile) -> Any:
        if self.tile and decodings.limit is not None:  # it is not decoded yet
            decodings.free.append(decodings.limit._value)
        return load(self)

    monkeypatch.setattr(ImageFile.ImageFile, "load", record)
    return decodings


def test_too_much_work_is_refused_before_a_picture_is_decoded(
    idle: Idle, decodings: Decodings
) -> None:
    client = idle(max_pixels_x_steps=SIDE * SIDE * 10)
    decodings.limit = client.app.state.service.uploads.decoding
    answer = client.post("/sdapi/v1/img2img", json=img2img(width=SIDE, height=SIDE, steps=11))
    assert answer.status_code == 422
    assert f"Got {SIDE}x{SIDE} pixels x 11 steps" in answer.json()["detail"]
    answer = client.post(
        "/v1/images/edits",
        data={"prompt": "a cat", "steps": 11, "size": f"{SIDE}x{SIDE}"},
        files={"image": ("a.png", encode("RGB", "red")), "mask": ("b.png", encode("RGBA", "red"))},
    )
    assert answer.status_code == 400
    assert f"Got {SIDE}x{SIDE} pixels x 11 steps" in answer.json()["error"]["message"]
    assert decodings.free == []
    assert list(client.app.state.service.uploads.folder.iterdir()) == []


def test_a_picture_without_a_size_counts_with_its_own(idle: Idle) -> None:
    client = idle(max_pixels_x_steps=SIDE * SIDE * 10)
    expected = f"Got {SIDE}x{SIDE} pixels x 11 steps"
    body = img2img(steps=11, width=None, height=None)
    assert expected in client.post("/sdapi/v1/img2img", json=body).json()["detail"]
    answer = client.post(
        "/v1/images/edits",
        data={"prompt": "a cat", "steps": 11},
        files={"image": ("a.png", encode("RGB", "red"))},
    )
    assert expected in answer.json()["error"]["message"]
    upload = client.post("/api/v1/uploads", files={"file": encode("RGB", "red")}).json()["id"]
    request = {"prompt": "a cat", "image": upload, "strength": 0.5, "steps": 11}
    answer = client.post("/api/v1/jobs", json={"kind": "generate", "request": request})
    assert expected in answer.json()["error"]["message"]
    assert client.get("/api/v1/jobs").json() == {"jobs": []}


def test_pictures_of_masked_requests_are_decoded_under_the_limit(
    idle: Idle, decodings: Decodings
) -> None:
    client = idle(max_queued=0)  # so that A1111's route does not wait for its job
    decodings.limit = client.app.state.service.uploads.decoding
    assert client.post("/sdapi/v1/img2img", json=img2img(steps=2)).status_code == 422
    answer = client.post(
        "/v1/images/edits",
        data={"prompt": "a cat", "steps": 2},
        files={"image": ("a.png", encode("RGB", "red")), "mask": ("b.png", encode("RGBA", "red"))},
    )
    assert answer.status_code == 429
    assert len(decodings.free) >= 8
    assert set(decodings.free) == {MAX_PICTURES_DECODED_AT_ONCE - 1}


def test_the_drawn_part_is_pasted_under_the_limit(
    idle: Idle, decodings: Decodings, tmp_path: Path
) -> None:
    client = idle()
    decodings.limit = client.app.state.service.uploads.decoding
    drawn = tmp_path / "drawn.png"
    drawn.write_bytes(encode("RGB", "blue", 64))
    body = Img2ImgBody(**img2img(inpaint_full_res=False, mask_blur=0, width=SIDE, height=SIDE))
    data = paste_into_init_image(drawn, {"parameters": "x"}, body, client.app.state.service)
    assert set(decodings.free) == {MAX_PICTURES_DECODED_AT_ONCE - 1}
    assert len(decodings.free) == 3
    with Image.open(io.BytesIO(data)) as pasted:
        assert pasted.size == (64, 64)
        assert pasted.text == {"parameters": "x"}  # type: ignore[attr-defined]
