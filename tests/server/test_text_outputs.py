"""A worker encodes a prompt once, also the empty negative prompt that its requests share."""

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from t2i.server.jobs.job import JobResult
from t2i.server.jobs.job_request import GenerateRequest, parse_job_request
from t2i.server.settings import WorkerSettings
from t2i.server.worker.job_worker import JobWorker
from t2i.text.encoders.clip import Clip
from t2i.text.encoders.output_cache import TextOutputCache
from tests.server.jobs_alone import ServerJobs

SMALL = {"width": 64, "height": 64, "steps": 2}
LAYER = "text_encoder.text_model.encoder.layers.0.self_attn.v_proj"
WIDTH = 256


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerJobs]:
    """The jobs of a server with a LoRA of the text encoder and a learned word."""
    folder = tmp_path_factory.mktemp("server")
    generator = torch.Generator().manual_seed(0)
    layers = {
        f"{LAYER}.lora_A.weight": torch.randn(2, WIDTH, generator=generator),
        f"{LAYER}.lora_B.weight": torch.randn(WIDTH, 2, generator=generator),
    }
    (folder / "loras").mkdir()
    save_file(layers, folder / "loras" / "mood.safetensors")
    (folder / "words").mkdir()
    for name in ("sun", "moon"):
        word = {"<word>": torch.randn(1, WIDTH, generator=generator)}
        save_file(word, folder / "words" / f"{name}.safetensors")
    made = ServerJobs(
        folder=folder / "served",
        lora_folder=folder / "loras",
        embedding_folder=folder / "words",
    )
    yield made
    made.state.close()


@pytest.fixture(scope="module")
def worker(jobs: ServerJobs) -> JobWorker:
    return JobWorker(WorkerSettings(models=jobs.state.catalogue.models, preview_share=0))


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Batches of token windows that the text encoder reads."""
    batches: list[int] = []
    run = Clip.run_model

    def count(self: Clip, ids_RW: Any, *others: Any) -> Any:
        batches.append(len(ids_RW))
        return run(self, ids_RW, *others)

    monkeypatch.setattr(Clip, "run_model", count)
    return batches


def draw(
    worker: JobWorker, jobs: ServerJobs, prompt: str, kind: str = "generate", **settings: Any
) -> np.ndarray:
    asked: dict[str, Any] = {"prompt": prompt, "seed": 3, **SMALL, **settings}
    request = GenerateRequest(**asked) if kind == "generate" else parse_job_request(kind, asked)  # type: ignore[arg-type]
    jobs.service.submit(kind, request, "")  # type: ignore[arg-type]
    taken = jobs.dispatcher.take_next(0)
    assert taken is not None
    job = jobs.dispatcher.build_worker_job(taken)
    assert job is not None
    result = worker.run_job(job, lambda _message: None)
    assert isinstance(result, JobResult), result
    jobs.dispatcher.record_result(taken, result)
    return np.asarray(Image.open(io.BytesIO((job.folder / "seed-3.png").read_bytes())))


def test_a_prompt_is_encoded_once_and_its_pictures_are_the_same(
    jobs: ServerJobs, worker: JobWorker, encoded: list[int]
) -> None:
    worker.text_outputs = TextOutputCache(0)
    uncached = draw(worker, jobs, "a cat")
    assert encoded == [1, 1]  # the prompt, and the empty negative prompt
    worker.text_outputs = TextOutputCache()
    encoded.clear()
    assert np.array_equal(draw(worker, jobs, "a cat"), uncached)
    assert encoded == [1, 1]
    assert np.array_equal(draw(worker, jobs, "a cat"), uncached)
    draw(worker, jobs, "a cat", seed=3, guidance_scale=4, sampler="euler")
    assert encoded == [1, 1]
    # The empty negative prompt is that of every request.
    draw(worker, jobs, "a dog")
    assert encoded == [1, 1, 1]
    draw(worker, jobs, "a dog", negative_prompt="a cat")  # as a prompt it was read before
    assert encoded == [1, 1, 1]


def test_loras_and_learned_words_of_the_text_encoder_count(
    jobs: ServerJobs, worker: JobWorker, encoded: list[int]
) -> None:
    # The empty negative prompt has no learned word.
    choices: list[tuple[dict[str, Any], list[int]]] = [
        ({}, [1, 1]),
        ({"loras": [{"name": "mood", "scale": 0.5}]}, [1, 1]),
        ({"loras": [{"name": "mood", "scale": 1.0}]}, [1, 1]),
        ({"embeddings": [{"name": "sun"}]}, [1]),
        ({"embeddings": [{"name": "moon"}]}, [1]),
    ]
    prompt = "a cat and <word>"
    worker.text_outputs = TextOutputCache(0)
    uncached = [draw(worker, jobs, prompt, **choice) for choice, _ in choices]
    assert len({picture.tobytes() for picture in uncached}) == len(choices)
    worker.text_outputs = TextOutputCache()
    for (choice, needed), picture in zip(choices, uncached, strict=True):
        encoded.clear()
        for _ in range(2):
            assert np.array_equal(draw(worker, jobs, prompt, **choice), picture)
        assert encoded == needed, choice
    # Without them the model is what it was.
    encoded.clear()
    assert np.array_equal(draw(worker, jobs, prompt), uncached[0])
    assert encoded == []


def test_jobs_of_other_kinds_find_what_was_encoded(
    jobs: ServerJobs, worker: JobWorker, encoded: list[int]
) -> None:
    worker.text_outputs = TextOutputCache()
    draw(worker, jobs, "a cat", words_maps=True)
    assert encoded == [1, 1]
    draw(worker, jobs, "a cat", kind="inspect")
    assert encoded == [1, 1]
