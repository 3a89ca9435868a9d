"""Jobs through the API: the same pictures and metadata as the command line, and what goes along."""

import io
import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load

import pipelines.text_to_image  # noqa: F401  # libraries set process-wide things when they come
from t2i.cli import main
from tests.server.servers import RunningServer

PROMPT = "a red apple to the left of a cat"
FAST = {"steps": 2, "seed": 7}
PHOTO = "docs/images/car.webp"


def picture(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def by_command(*words: str, out: Path) -> tuple[np.ndarray, dict[str, str]]:
    assert main([*words, "--out", str(out)]) == 0
    image = Image.open(out)
    return np.asarray(image), dict(image.info)


def test_a_job_gives_the_picture_and_the_metadata_of_t2i_generate(
    server: RunningServer, tmp_path: Path
) -> None:
    job = server.run("generate", prompt=PROMPT, negative_prompt="a (dog:1.2)", **FAST)
    data = server.file(job, "seed-7.png")
    words = ["generate", PROMPT, "--negative", "a (dog:1.2)", "--steps", "2", "--seed", "7"]
    pixels, texts = by_command(*words, out=tmp_path / "a.png")
    assert (picture(data) == pixels).all()
    assert Image.open(io.BytesIO(data)).info == texts


def test_a_changed_picture_is_that_of_the_command_line(
    server: RunningServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repo: Path
) -> None:
    photo = tmp_path / "my car.webp"
    photo.write_bytes((repo / PHOTO).read_bytes())
    upload = server.upload(photo)
    request = {"prompt": "a blue car", "image": upload, "strength": 0.5, "steps": 4, "seed": 3}
    job = server.run("generate", **request, width=128, height=128)
    data = server.file(job, "seed-3.png")
    monkeypatch.chdir(tmp_path)
    words = ["generate", "a blue car", "--image", photo.name, "--strength", "0.5", "--steps", "4"]
    words += ["--seed", "3", "--size", "128"]
    pixels, texts = by_command(*words, out=tmp_path / "b.png")
    assert (picture(data) == pixels).all()
    assert Image.open(io.BytesIO(data)).info == texts
    assert str(server.folder) not in json.dumps(job["result"])


def test_an_edit_gives_the_pictures_and_the_metadata_of_t2i_edit(
    server: RunningServer, tmp_path: Path
) -> None:
    prompts = "a cat on a blue background", "a dog on a blue background"
    job = server.run("edit", source_prompt=prompts[0], targets=[prompts[1]], **FAST)
    assert main(["edit", *prompts, "--steps", "2", "--seed", "7", "--out", str(tmp_path)]) == 0
    for name, end in (("source.png", "source"), ("target-1.png", "target")):
        (path,) = tmp_path.glob(f"*-{end}.png")
        data = server.file(job, name)
        assert (picture(data) == np.asarray(Image.open(path))).all()
        assert Image.open(io.BytesIO(data)).info == Image.open(path).info
    distances = job["result"]["data"]["distances"]
    assert len(distances) == 2
    assert all(len(step) == 1 for step in distances)


def test_an_alignment_and_regions_give_the_pictures_of_the_command_that_is_exported(
    server: RunningServer, tmp_path: Path
) -> None:
    prompts = "a cat and a balloon", "a balloon and a big dog"
    by_hand = {"dog": "cat", "big": None, "a#2": "a#1"}
    requests: list[dict[str, Any]] = [
        {"targets": [prompts[1]], "alignment": by_hand, "cross_replace": 0.8},
        {"regions": [{"words": "cat", "box": [0.5, 0.25, 1, 1]}]},
    ]
    for number, request in enumerate(requests):
        request |= {"source_prompt": prompts[0], **FAST}
        job = server.run("edit", **request)
        answer = server.post("/api/v1/export", json={"kind": "edit", "request": request})
        command = shlex.split(answer.json()["command"])[1:]
        assert main([*command, "--out", str(tmp_path / f"{number}.png")]) == 0
        drawn = Image.open(tmp_path / f"{number}-target.png")
        data = server.file(job, "target-1.png")
        assert (picture(data) == np.asarray(drawn)).all()
        assert Image.open(io.BytesIO(data)).info == drawn.info
        if "alignment" in request:
            assert job["result"]["data"]["alignments"] == [
                {
                    "source": ["a#1", "cat", "and", "a#2", "balloon"],
                    "target": ["a#1", "balloon", "and", "a#2", "big", "dog"],
                    "origins": [0, None, 2, 0, None, 1],
                }
            ]
        else:
            assert job["result"]["data"]["alignments"] == [None]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"alignment": {"dgo": "cat"}}, "alignment: 'dgo' is not in any target. Nearest: dog"),
        ({"alignment": {"dog": "a"}}, "alignment: 'a' occurs 2 times in the source"),
        ({"regions": [{"words": "cow", "box": [0, 0, 1, 1]}]}, "regions: 'cow' is in no target"),
    ],
)
def test_words_of_an_edit_that_are_not_there_are_named(
    server: RunningServer, change: dict[str, Any], message: str
) -> None:
    targets = ["a dog and a balloon"]
    job = server.submit("edit", source_prompt="a cat and a balloon", targets=targets, **change)
    failed = server.wait(job["id"])
    assert failed["state"] == "failed"
    assert failed["error"]["type"] == "ArgumentError"
    assert message in failed["error"]["message"]


def test_a_remembered_source_is_edited_by_its_targets_alone(server: RunningServer) -> None:
    prompts = "a cat on a blue background", "a dog on a blue background"
    plain = server.run("generate", prompt=prompts[0], **FAST)
    source = server.run("remember", prompt=prompts[0], words_maps=True, **FAST)
    assert "it/s" not in "".join(server.log)  # no progress bar
    same = [server.file(job, "seed-7.png") for job in (plain, source)]
    assert same[0] == same[1]
    whole = server.run("edit", source_prompt=prompts[0], targets=[prompts[1]], **FAST)
    part = server.run("edit", source=source["id"], targets=[prompts[1]], words_maps=True)
    for name in ("source.png", "target-1.png"):
        one, other = (picture(server.file(job, name)).astype(int) for job in (whole, part))
        assert abs(one - other).max() <= 1  # a smaller batch rounds otherwise
    words = [server.get(f"/api/v1/jobs/{part['id']}/maps?picture={n}").json() for n in (0, 1)]
    assert [[word["text"] for word in one["words"]] for one in words] == [
        ["a", "cat", "on", "blue", "background"],
        ["a", "dog", "on", "blue", "background"],
    ]
    weighted = server.run("edit", source=source["id"], weights={"blue": 3.0}, blend="none")
    assert (
        picture(server.file(weighted, "target-1.png"))
        != picture(server.file(weighted, "source.png"))
    ).any()


def test_an_inverted_photo_is_a_source(server: RunningServer, repo: Path) -> None:
    upload = server.upload(repo / PHOTO)
    source = server.run("invert", image=upload, prompt="a blue car", **FAST)
    known = source["result"]["data"]["inversion"]
    assert known["autoencoder"] > 10
    assert {file["name"] for file in source["result"]["files"]} == {
        "photo.png",
        "reconstruction.png",
    }
    edit = server.run("edit", source=source["id"], targets=["a red car"])
    assert picture(server.file(edit, "target-1.png")).shape == (128, 128, 3)
    seen = server.run("inspect", source=source["id"], words=["car"])
    maps = server.get(f"/api/v1/jobs/{seen['id']}/maps").json()
    assert [word["text"] for word in maps["words"]] == ["car"]


@pytest.mark.parametrize(
    ("target", "method"), [("a red car", "turbo"), ("a blue car and a cat", "direct")]
)
def test_an_edit_of_a_photo_is_that_of_the_command_line(
    server: RunningServer, tmp_path: Path, repo: Path, target: str, method: str
) -> None:
    photo = repo / PHOTO
    job = server.run(
        "edit", image=server.upload(photo), source_prompt="a blue car", targets=[target], **FAST
    )
    done = job["result"]["data"]["request"]["inversion"]["method"]
    assert done.partition(":")[0] == method
    words = ["edit", "--image", str(photo), "a blue car", target, "--steps", "2", "--seed", "7"]
    assert main([*words, "--out", str(tmp_path)]) == 0
    (path,) = tmp_path.glob("*-target.png")
    assert (picture(server.file(job, "target-1.png")) == np.asarray(Image.open(path))).all()


def test_maps_come_as_an_atlas_and_exactly_and_for_each_step(server: RunningServer) -> None:
    request = {"prompt": "a [cat:dog:0.5] and a tree", "words_maps": True, "map_steps": True}
    job = server.run("generate", **request, steps=4, seed=1)
    maps = server.get(f"/api/v1/jobs/{job['id']}/maps").json()
    assert [word["text"] for word in maps["words"]] == ["a", "cat", "and", "tree", "dog"]
    assert [word["absent_steps"] for word in maps["words"]] == [[], [2, 3], [], [], [0, 1]]
    assert maps["words"][1]["tokens"] == [2]
    height, width, steps = maps["height"], maps["width"], maps["steps"]
    assert steps == 4
    atlas = picture(server.file(job, maps["atlas"]))
    assert atlas.dtype == np.uint8
    assert atlas.shape == (5 * height, steps * width)
    exact = load(server.file(job, maps["exact"]))
    assert exact["tree"].shape == (height, width)
    rows = exact["tree/steps"]
    part = atlas[3 * height : 4 * height, width : 2 * width]
    assert abs(part / 255 - rows[1] / rows[1].max()).max() <= 0.5 / 255 + 1e-6
    assert not atlas[height : 2 * height, 2 * width :].any()
    peak = maps["words"][3]["peak"]
    assert {"found", "is_missing"} <= maps["words"][3].keys()
    row, column = np.unravel_index(exact["tree"].argmax(), exact["tree"].shape)
    assert np.allclose(peak, [(column + 0.5) / width, (row + 0.5) / height], atol=1e-4)
    sheet = picture(server.file(job, "steps.png"))
    assert sheet.shape == (128, 4 * 128, 3)
    assert (sheet[:, -128:] == picture(server.file(job, "seed-1.png"))).all()


def test_source_and_target_of_an_edit_have_maps_of_each_step(server: RunningServer) -> None:
    prompt = "a cat and a balloon"
    drawn = server.run("generate", prompt=prompt, map_steps=True, **FAST)
    source = server.run("remember", prompt=prompt, **FAST)
    targets = ["a dog and a balloon"]
    job = server.run("edit", source=source["id"], targets=targets, map_steps=True)
    maps = job["result"]["data"]["maps"]
    assert [maps[number]["steps"] for number in ("0", "1")] == [2, 2]
    own, recorded = (load(server.file(one, "maps.safetensors")) for one in (drawn, job))
    for name in ("cat/steps", "balloon/steps", "cat"):
        np.testing.assert_allclose(recorded[name], own[name], atol=1e-5)
    target = load(server.file(job, "maps-1.safetensors"))
    assert target["dog/steps"].shape == own["cat/steps"].shape
    assert not np.allclose(target["dog/steps"][0], target["dog/steps"][1])


def test_an_inverted_photo_has_maps_and_pictures_of_each_step(
    server: RunningServer, repo: Path
) -> None:
    upload = server.upload(repo / PHOTO)
    source = server.run("invert", image=upload, prompt="a blue car", method="direct", steps=3)
    job = server.run("inspect", source=source["id"], map_steps=True)
    assert job["result"]["data"]["maps"]["0"]["steps"] == 3
    steps = job["result"]["data"]["steps"]
    assert (steps["steps"], steps["width"], steps["height"]) == (3, 128, 128)
    sheet = picture(server.file(job, "steps.png")).astype(int)
    finished = picture(server.file(source, "reconstruction.png")).astype(int)
    errors = [np.abs(sheet[:, k * 128 : (k + 1) * 128] - finished).mean() for k in range(3)]
    # Each step predicts the photo better; the last one is its reconstruction.
    assert errors[2] <= 0.5
    assert errors[2] < errors[1] < errors[0] < 60


def test_words_of_the_negative_prompt_have_maps_of_their_own(server: RunningServer) -> None:
    prompts = {"prompt": "a cat", "negative_prompt": "a (dog:1.2) on a tree"}
    job = server.run("generate", **prompts, words_maps=True, map_steps=True, **FAST)
    words = server.get(f"/api/v1/jobs/{job['id']}/maps").json()["words"]
    told = [(word["text"], word["negative"]) for word in words]
    assert told == [
        *(("a", False), ("cat", False)),
        *(("a", True), ("dog", True), ("on", True), ("tree", True)),
    ]
    assert [word["row"] for word in words] == [*range(6)]
    assert words[3]["tokens"] == [2]
    exact = load(server.file(job, "maps.safetensors"))
    assert exact["negative/dog/steps"].shape == (2, *exact["cat"].shape)
    assert exact["negative/dog"].max() > exact["negative/dog"].min()
    # the same attention is that of a prompt of these words, at the first step from the same noise
    other = {"prompt": prompts["negative_prompt"], "negative_prompt": "a cat"}
    swapped = server.run("generate", **other, words_maps=True, map_steps=True, **FAST)
    theirs = load(server.file(swapped, "maps.safetensors"))
    assert abs(exact["negative/dog/steps"][0] - theirs["dog/steps"][0]).max() < 1e-4
    unguided = server.run("generate", **prompts, words_maps=True, guidance_scale=1.0, **FAST)
    words = server.get(f"/api/v1/jobs/{unguided['id']}/maps").json()["words"]
    assert not any(word["negative"] for word in words)


def test_maps_do_not_change_the_picture(server: RunningServer) -> None:
    plain = server.run("generate", prompt=PROMPT, **FAST)
    probed = server.run("generate", prompt=PROMPT, words_maps=True, **FAST)
    assert server.file(plain, "seed-7.png") == server.file(probed, "seed-7.png")


def test_events_tell_the_states_the_steps_and_what_the_picture_looks_like(
    server: RunningServer,
) -> None:
    job = server.submit("generate", prompt=PROMPT, steps=8, seed=1)
    events: list[tuple[str, dict]] = []
    with server.client as client:
        with client.stream("GET", f"/api/v1/jobs/{job['id']}/events") as stream:
            assert stream.headers["content-type"].startswith("text/event-stream")
            kind = ""
            for line in stream.iter_lines():
                if line.startswith("event: "):
                    kind = line[7:]
                if line.startswith("data: "):
                    events.append((kind, json.loads(line[6:])))
    states = [data["state"] for kind, data in events if kind == "state"]
    assert states[0] in ("queued", "running")
    assert states[-1] == "done"
    assert len([state for state in states if state == "done"]) == 1
    steps = [data["step"] for kind, data in events if kind == "progress"]
    assert steps == sorted(steps)
    assert steps[-1] == 8
    previews = [data for kind, data in events if kind == "preview"]
    assert previews


def test_a_cancelled_job_ends_between_two_steps(server: RunningServer) -> None:
    long = server.submit("generate", prompt=PROMPT, steps=200, seed=1)
    waiting = server.submit("generate", prompt=PROMPT, **FAST)
    assert server.delete(f"/api/v1/jobs/{waiting['id']}").json()["state"] == "cancelled"
    server.delete(f"/api/v1/jobs/{long['id']}")
    ended = server.wait(long["id"])
    assert ended["state"] == "cancelled"
    assert ended["result"] is None
    assert server.run("generate", prompt=PROMPT, **FAST)


def test_several_seeds_count_up_and_are_fixed_when_the_job_is_taken(server: RunningServer) -> None:
    job = server.submit("generate", prompt=PROMPT, steps=1, num=2)
    first = job["seeds"][0]
    assert job["seeds"] == [first, first + 1]
    files = server.wait(job["id"])["result"]["files"]
    assert [file["seed"] for file in files] == job["seeds"]


def test_an_upscaled_picture_is_larger(server: RunningServer) -> None:
    job = server.run("generate", prompt=PROMPT, upscale="1.5:0.5", **FAST)
    assert picture(server.file(job, "seed-7.png")).shape == (192, 192, 3)
