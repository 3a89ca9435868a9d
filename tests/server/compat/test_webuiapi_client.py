"""The client webuiapi, unchanged, against the real server."""

import base64
import io
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import webuiapi
from PIL import Image

SMALL = {"width": 64, "height": 64, "steps": 2, "seed": 5}


@pytest.fixture(scope="module")
def api(address: str) -> webuiapi.WebUIApi:
    return webuiapi.WebUIApi(baseurl=f"{address}/sdapi/v1")


@pytest.fixture(scope="module")
def apple(api: webuiapi.WebUIApi) -> Image.Image:
    return api.txt2img(prompt="a red apple", **SMALL).image


def pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture.convert("RGB"))


def wait_until(holds: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.02)


# drawing


def test_txt2img_draws_what_the_own_api_draws_bit_for_bit(
    api: webuiapi.WebUIApi, address: str, apple: Image.Image
) -> None:
    request = {"prompt": "a red apple", "sampler": "euler a", "guidance_scale": 7, **SMALL}
    job = httpx.post(f"{address}/api/v1/jobs", json={"kind": "generate", "request": request}).json()
    place = f"{address}/api/v1/jobs/{job['id']}"
    wait_until(lambda: httpx.get(place).json()["state"] == "done")
    (file,) = httpx.get(place).json()["result"]["files"]
    own = Image.open(io.BytesIO(httpx.get(f"{place}/files/{file['name']}").content))
    assert np.array_equal(pixels(own), pixels(apple))
    assert own.info == apple.info


def test_answer_tells_seeds_settings_and_the_job(api: webuiapi.WebUIApi) -> None:
    result = api.txt2img(prompt="a red apple", negative_prompt="blue", n_iter=2, **SMALL)
    info = result.info
    assert info["all_seeds"] == [5, 6]
    assert (info["prompt"], info["negative_prompt"]) == ("a red apple", "blue")
    assert (info["steps"], info["cfg_scale"], info["sampler_name"]) == (2, 7.0, "Euler a")
    assert info["infotexts"] == [image.info["parameters"] for image in result.images]
    assert "Seed: 6" in info["infotexts"][1]
    assert not np.array_equal(*map(pixels, result.images))
    assert result.parameters["prompt"] == "a red apple"
    assert result.parameters["force_task_id"] == info["job_id"] == info["job_ids"][0]
    assert isinstance(result.json["info"], str)


def test_seed_minus_one_is_drawn_and_told(api: webuiapi.WebUIApi) -> None:
    seeds = {
        api.txt2img(prompt="a cat", width=64, height=64, steps=1).info["seed"] for _ in range(2)
    }
    assert len(seeds) == 2
    assert min(seeds) >= 0


def test_hires_fix_enlarges(api: webuiapi.WebUIApi) -> None:
    result = api.txt2img(
        prompt="a cat",
        enable_hr=True,
        hr_upscaler="Lanczos",
        hr_scale=2,
        denoising_strength=0.5,
        **SMALL,
    )
    assert result.image.size == (128, 128)
    assert result.info["denoising_strength"] == 0.5
    assert "Hires upscale: 2" in result.info["infotexts"][0]


def test_send_images_false_sends_none_but_the_job(api: webuiapi.WebUIApi, address: str) -> None:
    result = api.txt2img(prompt="a cat", send_images=False, **SMALL)
    assert result.images == []
    assert httpx.get(f"{address}/api/v1/jobs/{result.info['job_id']}").json()["state"] == "done"


def test_img2img_changes_a_picture(api: webuiapi.WebUIApi, apple: Image.Image) -> None:
    options = {**SMALL, "steps": 4}
    little = api.img2img([apple], prompt="a cat", denoising_strength=0.25, **options)
    much = api.img2img([apple], prompt="a cat", denoising_strength=1, **options)
    distances = [
        np.abs(pixels(result.image).astype(int) - pixels(apple)).mean() for result in (little, much)
    ]
    assert distances[0] < distances[1]
    assert little.info["denoising_strength"] == 0.25
    assert "init_images" not in little.parameters
    sent_back = api.img2img([apple], prompt="a cat", include_init_images=True, **SMALL)
    assert len(sent_back.parameters["init_images"]) == 1


@pytest.mark.parametrize("only_masked", [True, False])
def test_inpainting_changes_the_white_part_alone(
    api: webuiapi.WebUIApi, apple: Image.Image, only_masked: bool
) -> None:
    mask = Image.new("L", apple.size)
    mask.paste(255, (16, 16, 40, 40))
    result = api.img2img(
        [apple],
        mask_image=mask,
        mask_blur=0,
        inpaint_full_res=only_masked,
        prompt="a green apple",
        **SMALL,
    )
    changed = (pixels(result.image) != pixels(apple)).any(axis=2)
    inside = np.asarray(mask) > 0
    assert not changed[~inside].any()
    assert changed[inside].mean() > 0.5
    assert result.image.info["parameters"] == result.info["infotexts"][0]


def test_task_id_is_returned_and_asks_for_the_task(api: webuiapi.WebUIApi, address: str) -> None:
    body = {"prompt": "a cat", "force_task_id": "task(mine)", **SMALL}
    answer = httpx.post(f"{address}/sdapi/v1/txt2img", json=body, timeout=60).json()
    assert answer["parameters"]["force_task_id"] == "task(mine)"
    assert json.loads(answer["info"])["force_task_id"] == "task(mine)"
    place = f"{address}/internal/progress"
    state = httpx.post(place, json={"id_task": "task(mine)"}).json()
    assert (state["completed"], state["active"], state["progress"]) == (True, False, 1.0)
    other = httpx.post(place, json={"id_task": "task(none)"}).json()
    assert (other["completed"], other["active"], other["queued"]) == (False, False, False)


# a running task


class Running:
    """A long txt2img of several pictures in a thread."""

    def __init__(self, api: webuiapi.WebUIApi, **options: Any) -> None:
        self.results: list[webuiapi.WebUIApiResult] = []
        values = {**SMALL, "steps": 1000, **options}
        self.thread = threading.Thread(
            target=lambda: self.results.append(api.txt2img(prompt="a cat", **values))
        )
        self.thread.start()
        wait_until(lambda: api.get_progress()["state"]["sampling_step"] > 0)

    def result(self) -> webuiapi.WebUIApiResult:
        self.thread.join(60)
        (result,) = self.results
        return result


def test_progress_counts_and_interrupt_answers_the_request(api: webuiapi.WebUIApi) -> None:
    assert api.get_progress()["progress"] == 0
    running = Running(api, n_iter=3)
    wait_until(lambda: api.get_progress()["current_image"] is not None)
    progress = api.get_progress()
    assert 0 < progress["progress"] < 1
    assert progress["eta_relative"] > 0
    state = progress["state"]
    assert (state["job_count"], state["job_no"], state["sampling_steps"]) == (3, 0, 1000)
    preview = Image.open(io.BytesIO(base64.b64decode(progress["current_image"])))
    assert preview.mode == "RGB"

    assert api.interrupt() == {}
    result = running.result()
    assert result.images == []
    assert result.info["interrupted"]
    api.util_wait_for_ready(check_interval=0.05)


def test_skip_goes_on_with_the_next_picture(api: webuiapi.WebUIApi) -> None:
    running = Running(api, n_iter=2)
    assert api.skip() is None
    wait_until(lambda: api.get_progress()["state"]["job_no"] == 1)
    wait_until(lambda: api.get_progress()["state"]["sampling_step"] > 0)
    assert api.get_progress()["state"]["skipped"]
    api.interrupt()
    result = running.result()
    assert result.info["skipped"]
    assert result.info["interrupted"]


# what clients ask for at the start


def test_lists_have_the_layout_that_clients_read(
    api: webuiapi.WebUIApi, preset_folder: Path
) -> None:
    assert not api.has_controlnet
    assert set(api.util_get_model_names()) == {"embedded", str(preset_folder)}
    assert {"Euler a", "DPM++ 2M", "DDIM"} <= set(api.util_get_sampler_names())
    assert api.util_get_scheduler_names() == sorted(
        ["automatic", "exponential", "karras", "normal", "uniform"]
    )
    assert [upscaler["name"] for upscaler in api.get_upscalers()] == ["Lanczos"]
    assert api.get_embeddings() == {"loaded": {}, "skipped": {}}
    assert api.get_scripts() == {"txt2img": [], "img2img": []}
    assert api.get_memory()["ram"]["total"] > 0
    assert api.get_cmd_flags()["api"]
    empty = (
        *(api.get_sd_vae, api.get_latent_upscale_modes, api.get_hypernetworks),
        *(api.get_face_restorers, api.get_realesrgan_models, api.get_prompt_styles),
    )
    assert [get() for get in empty] == [[]] * len(empty)
    assert [lora["name"] for lora in api.get_loras()] == ["styles/ink"]
    assert api.refresh_checkpoints() is None


def test_options_choose_the_model_and_refuse_the_rest(api: webuiapi.WebUIApi) -> None:
    assert api.util_get_current_model() == "embedded"
    api.util_set_model("Embeded")
    assert api.set_options(api.get_options()) is None
    unknown = api.set_options({"sd_model_checkpoint": "v1-5"})
    assert "Unknown model 'v1-5'" in unknown["detail"]
    assert (
        "CLIP_stop_at_last_layers=2" in api.set_options({"CLIP_stop_at_last_layers": 2})["detail"]
    )
    assert "option 'jpeg_quality'" in api.set_options({"jpeg_quality": 3})["detail"]


def test_override_settings_choose_the_model_of_a_request(api: webuiapi.WebUIApi) -> None:
    settings = {"sd_model_checkpoint": "embedded", "CLIP_stop_at_last_layers": 1}
    result = api.txt2img(prompt="a cat", override_settings=settings, **SMALL)
    assert result.info["sd_model_name"] == "embedded"
    with pytest.raises(RuntimeError, match=r"Unknown model .*v1-5"):
        api.txt2img(override_settings={"sd_model_checkpoint": "v1-5"}, **SMALL)


def test_png_info_reads_how_a_picture_was_made(api: webuiapi.WebUIApi, apple: Image.Image) -> None:
    result = api.png_info(apple)
    assert result.info == apple.info["parameters"]
    assert result.parameters["Seed"] == "5"
    assert result.parameters["Sampler"] == "Euler a"
    assert set(result.json["items"]) == {"parameters", "t2i"}
    plain = api.png_info(Image.new("RGB", (8, 8)))
    assert (plain.info, plain.parameters) == ("", {})


# refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"controlnet_units": [webuiapi.ControlNetUnit()], "alwayson_scripts": {}},
            "alwayson_scripts with 'ControlNet', which is not done here",
        ),
        ({"sag": webuiapi.Sag(), "alwayson_scripts": {}}, "'Self Attention Guidance'"),
        ({"restore_faces": True}, "restore_faces=True, which is not done here"),
        ({"script_name": "X/Y/Z plot"}, "script_name='X/Y/Z plot', which is not done here"),
        ({"sampler_name": "Eulre"}, "Unknown sampler_name 'Eulre'. Did you mean 'Euler'"),
        ({"steps": 0}, "Got --steps 0: expected a whole number from 1"),
        ({"width": 63}, "63"),
        ({"n_iter": 100_000}, "n_iter x batch_size = 100000: this server lets up to"),
        ({"prompt": "a cat <lora:oil:0.8>"}, "Unknown LoRA 'oil'."),
    ],
)
def test_what_is_not_done_is_refused_by_name(
    api: webuiapi.WebUIApi, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(RuntimeError) as raised:
        api.txt2img(**{**SMALL, **options})
    status, text = raised.value.args
    answer = json.loads(text)
    assert status == 422
    assert answer["error"] == "ArgumentError"
    assert message in answer["detail"]
    assert answer["errors"] == answer["detail"]


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("txt2img", b"{", 400, "The body is not JSON"),
        ("txt2img", {"steps": "many"}, 422, "steps: Input should be a valid integer"),
        ("img2img", {}, 422, "Got 0 init_images: expected one, as base64"),
        ("img2img", {"init_images": ["?"]}, 422, "init_images='?', which is no base64"),
        ("img2img", {"init_images": ["YWJj"]}, 422, "is no picture we know"),
        ("img2img", {"init_images": ["https://a.b/c.png"]}, 422, "loads nothing from other"),
        ("png-info", {"image": ""}, 422, "Got an empty image"),
        ("interrogate", {"image": ""}, 501, "/sdapi/v1/interrogate is not done here"),
        ("extra-single-image", {}, 501, "enable_hr and hr_upscaler=Lanczos"),
    ],
)
def test_bad_bodies_are_answered_in_a1111s_layout(
    address: str, path: str, body: Any, status: int, message: str
) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = httpx.post(
        f"{address}/sdapi/v1/{path}", content=content, headers={"content-type": "application/json"}
    )
    assert answer.status_code == status
    assert message in answer.json()["detail"]
