"""Tokens, full queues, options, tasks and lists of the compatible APIs, without a worker."""

from pathlib import Path
from typing import Any

import pytest
import torch

from t2i.adapters.textual_inversion import LearnedWord, write_learned_word
from t2i.errors import ArgumentError, ModelError
from t2i.server.catalogue import Catalogue
from t2i.server.compat.a1111.state.options import OwnerModels
from t2i.server.compat.a1111.state.tasks import MAX_TASKS, Task, TaskRegistry, compute_task_progress
from t2i.server.jobs.job import Job, JobProgress, JobState
from tests.server.conftest import Idle

TOKENS = ("first-secret", "second-secret")


# access


def test_the_token_is_the_password_of_a1111s_clients_and_the_key_of_openais(idle: Idle) -> None:
    client = idle(tokens=TOKENS)
    assert client.get("/sdapi/v1/options").status_code == 401
    assert client.get("/v1/models").status_code == 401
    assert client.get("/sdapi/v1/options", auth=("anybody", TOKENS[0])).status_code == 200
    assert client.get("/sdapi/v1/options", auth=("anybody", "wrong")).status_code == 401
    key = {"authorization": f"Bearer {TOKENS[1]}"}
    assert client.get("/v1/models", headers=key).status_code == 200


def test_without_tokens_any_key_will_do(idle: Idle) -> None:
    headers = {"authorization": "Bearer whatever"}
    assert idle().get("/v1/models", headers=headers).status_code == 200


# a full queue


def test_a_full_queue_says_when_to_try_again(idle: Idle) -> None:
    client = idle(max_queued=1)
    job = {"kind": "generate", "request": {"prompt": "a cat"}}
    assert client.post("/api/v1/jobs", json=job).status_code == 202
    for path in ("/sdapi/v1/txt2img", "/v1/images/generations"):
        answer = client.post(path, json={"prompt": "a cat"})
        assert answer.status_code == 429
        assert int(answer.headers["retry-after"]) >= 1
        assert "wait already" in answer.text


def test_pictures_of_one_request_wait_together_or_not_at_all(idle: Idle) -> None:
    client = idle(max_queued=2)
    job = {"kind": "generate", "request": {"prompt": "a cat"}}
    waiting = client.post("/api/v1/jobs", json=job).json()["id"]
    answer = client.post("/sdapi/v1/txt2img", json={"prompt": "a dog", "n_iter": 2})
    assert answer.status_code == 429
    states = {job["id"]: job["state"] for job in client.get("/api/v1/jobs").json()["jobs"]}
    assert states.pop(waiting) == "queued"
    assert list(states.values()) == ["cancelled"]


def test_all_pictures_of_a_request_count_for_the_bound_of_its_work(idle: Idle) -> None:
    client = idle(max_pixels_x_steps=64 * 64 * 10 * 3)
    body = {"prompt": "a cat", "width": 64, "height": 64, "steps": 10, "n_iter": 4}
    answer = client.post("/sdapi/v1/txt2img", json=body)
    assert answer.status_code == 422
    assert "this server takes up to 122,880" in answer.json()["detail"]


# lists


def test_loras_and_learned_words_are_listed_by_name(idle: Idle, tmp_path: Path) -> None:
    loras, words = tmp_path / "loras", tmp_path / "words"
    (loras / "styles").mkdir(parents=True)
    (loras / "styles" / "ink.safetensors").write_bytes(b"")
    words.mkdir()
    (words / "broken.safetensors").write_bytes(b"no tensors")
    word = LearnedWord({"text_encoder": torch.zeros(2, 8)}, token="<sun>")
    write_learned_word(words / "sun.safetensors", word)
    client = idle(lora_folder=loras, embedding_folder=words)
    (lora,) = client.get("/sdapi/v1/loras").json()
    assert (lora["name"], lora["path"]) == ("styles/ink", "styles/ink.safetensors")
    loaded = client.get("/sdapi/v1/embeddings").json()["loaded"]
    assert list(loaded) == ["sun"]
    assert (loaded["sun"]["vectors"], loaded["sun"]["shape"]) == (2, 8)
    assert str(tmp_path) not in client.get("/sdapi/v1/loras").text


# options


@pytest.fixture
def models() -> OwnerModels:
    models = {"embedded": Path("a"), "owner/name": Path("b")}
    return OwnerModels(Catalogue(models, {}, {}))


def test_each_owner_chooses_a_model(models: OwnerModels) -> None:
    models.set_model_from_options("one", {"sd_model_checkpoint": "owner/name"})
    assert models.read_options("one")["sd_model_checkpoint"] == "owner/name"
    assert models.read_options("two")["sd_model_checkpoint"] == "embedded"
    assert models.check_options_and_find_model("one", {}) == "owner/name"
    assert (
        models.check_options_and_find_model("one", {"sd_model_checkpoint": "embedded"})
        == "embedded"
    )
    assert models.check_options_and_find_model("one", {}) == "owner/name"
    models.set_model_from_options("one", {"samples_format": "png"})
    assert models.read_options("one")["sd_model_checkpoint"] == "owner/name"


def test_options_that_are_fixed_are_refused(models: OwnerModels) -> None:
    models.set_model_from_options("one", {"CLIP_stop_at_last_layers": 1, "sd_vae": "None"})
    with pytest.raises(ArgumentError, match="samples_format='jpg', which is not done here"):
        models.set_model_from_options("one", {"samples_format": "jpg"})
    with pytest.raises(ArgumentError, match="option 'enable_pnginfo', which is not known"):
        models.set_model_from_options("one", {"enable_pnginfo": True})
    with pytest.raises(ArgumentError, match="sd_model_checkpoint=3: expected a model's name"):
        models.set_model_from_options("one", {"sd_model_checkpoint": 3})
    with pytest.raises(ModelError, match="Unknown model 'v1-5'"):
        models.set_model_from_options("one", {"sd_model_checkpoint": "v1-5"})


# tasks


def job(name: str, state: JobState, **values: Any) -> Job:
    return Job(
        id=name,
        kind="generate",
        state=state,
        request={},
        owner="",
        seeds=(1,),
        created=0.0,
        **values,
    )


def test_progress_counts_pictures_and_steps() -> None:
    running = job("b", "running", started=1.0, progress=JobProgress(5, 10, 2.0))
    jobs = {"a": job("a", "done", started=0.5), "b": running, "c": job("c", "queued")}
    found = compute_task_progress(Task("t", "", list(jobs)), jobs.__getitem__)
    assert found.current is running
    assert found.is_running
    assert found.num_ended_jobs == 1
    assert found.fraction == pytest.approx(1.5 / 3)
    assert found.seconds_left == pytest.approx(2.0 + 4.0)  # half a picture, and one more


def test_progress_of_a_task_that_waits_and_of_one_that_is_over() -> None:
    waiting = compute_task_progress(Task("t", "", ["a"]), lambda name: job(name, "queued"))
    assert (waiting.fraction, waiting.seconds_left, waiting.is_running) == (0.0, 0.0, False)
    assert waiting.current is not None
    over = compute_task_progress(Task("t", "", ["a"]), lambda name: job(name, "cancelled"))
    assert (over.fraction, over.current, over.is_running) == (1.0, None, False)


def test_tasks_belong_to_their_owner_and_the_oldest_are_forgotten() -> None:
    registry = TaskRegistry()
    registry.add(Task("t", "one", ["a"]))
    assert registry.find("two", "t") is None
    assert registry.list_active("two") == []
    (task,) = registry.list_active("one")
    task.is_answered = True
    assert registry.list_active("one") == []
    for number in range(MAX_TASKS):
        registry.add(Task(str(number), "one", ["a"]))
    assert registry.find("one", "t") is None
    assert registry.find("one", "0") is not None
