"""Bodies of A1111's API become fields of a job, or are refused by name."""

import pytest

from t2i.denoiser.schedulers import SAMPLERS
from t2i.errors import ArgumentError
from t2i.server.compat.a1111.request.bodies import GenerationBody, Img2ImgBody, Txt2ImgBody
from t2i.server.compat.a1111.request.job_fields import build_img2img_fields, build_txt2img_fields
from t2i.server.compat.a1111.request.neutral_values import (
    NEUTRAL_VALUES_BY_FIELD,
    check_no_unsupported_fields,
)
from t2i.server.compat.a1111.request.sampler_choice import (
    SAMPLER_LABELS,
    choose_sampler,
    format_sampler_as_a1111,
    list_sampler_items,
    list_scheduler_items,
)

# As webuiapi 0.9.17 sends txt2img(prompt="a cat"), all of it.
SENT_BY_WEBUIAPI = {
    "enable_hr": False,
    "hr_scale": 2,
    "hr_upscaler": "Latent",
    "hr_second_pass_steps": 0,
    "hr_resize_x": 0,
    "hr_resize_y": 0,
    "hr_checkpoint_name": None,
    "hr_sampler_name": None,
    "hr_scheduler": None,
    "hr_prompt": "",
    "hr_negative_prompt": "",
    "denoising_strength": 0.7,
    "firstphase_width": 0,
    "firstphase_height": 0,
    "prompt": "a cat",
    "styles": [],
    "seed": -1,
    "subseed": -1,
    "subseed_strength": 0.0,
    "seed_resize_from_h": 0,
    "seed_resize_from_w": 0,
    "batch_size": 1,
    "n_iter": 1,
    "steps": 20,
    "cfg_scale": 7.0,
    "width": 512,
    "height": 512,
    "restore_faces": False,
    "tiling": False,
    "do_not_save_samples": False,
    "do_not_save_grid": False,
    "negative_prompt": "",
    "eta": 1.0,
    "s_churn": 0,
    "s_tmax": 0,
    "s_tmin": 0,
    "s_noise": 1,
    "override_settings": {},
    "override_settings_restore_afterwards": True,
    "sampler_name": "Euler a",
    "scheduler": "automatic",
    "sampler_index": "Euler a",
    "script_name": None,
    "script_args": [],
    "send_images": True,
    "save_images": False,
    "alwayson_scripts": {},
}


def test_defaults_of_webuiapi_become_a_job() -> None:
    fields = build_txt2img_fields(Txt2ImgBody(**SENT_BY_WEBUIAPI), "embedded")
    assert fields == {
        "prompt": "a cat",
        "negative_prompt": "",
        "model": "embedded",
        "steps": 20,
        "guidance_scale": 7.0,
        "sampler": "euler a",
        "width": 512,
        "height": 512,
        "num": 1,
        "grammar": "a1111",
    }


def test_empty_body_leaves_everything_to_the_model() -> None:
    fields = build_txt2img_fields(Txt2ImgBody(), "embedded")
    assert fields == {
        "prompt": "",
        "negative_prompt": "",
        "model": "embedded",
        "num": 1,
        "grammar": "a1111",
    }


def test_null_in_every_field_is_as_an_empty_body() -> None:
    empty = Txt2ImgBody(**dict.fromkeys(Txt2ImgBody.model_fields))
    assert build_txt2img_fields(empty, "m") == build_txt2img_fields(Txt2ImgBody(), "m")


def test_batches_and_seed_become_number_and_first_seed() -> None:
    fields = build_txt2img_fields(Txt2ImgBody(batch_size=2, n_iter=3, seed=7), "embedded")
    assert (fields["num"], fields["seed"]) == (6, 7)
    with pytest.raises(ArgumentError, match="n_iter=0: expected a whole number from 1 on"):
        build_txt2img_fields(Txt2ImgBody(n_iter=0), "embedded")


def test_sampler_index_counts_without_sampler_name() -> None:
    assert build_txt2img_fields(Txt2ImgBody(sampler_index="DDIM"), "m")["sampler"] == "ddim"


ACTING = {
    "styles": ["photo"],
    "subseed_strength": 0.3,
    "seed_resize_from_h": 64,
    "seed_resize_from_w": 64,
    "restore_faces": True,
    "tiling": True,
    "eta": 0.5,
    "s_churn": 1,
    "s_tmin": 1,
    "s_tmax": 5,
    "s_noise": 1.1,
    "s_min_uncond": 1,
    "refiner_checkpoint": "refiner",
    "disable_extra_networks": True,
    "firstpass_image": "iVBO",
    "comments": {"a": 1},
    "infotext": "Steps: 3",
    "script_name": "x/y/z plot",
    "firstphase_width": 64,
    "firstphase_height": 64,
    "latent_mask": "iVBO",
    "mask_round": False,
    "initial_noise_multiplier": 1.1,
}


@pytest.mark.parametrize("name", NEUTRAL_VALUES_BY_FIELD)
def test_each_field_that_is_not_done_is_refused_by_name(name: str) -> None:
    kind = Txt2ImgBody if name in Txt2ImgBody.model_fields else Img2ImgBody
    for neutral in NEUTRAL_VALUES_BY_FIELD[name]:
        if isinstance(neutral, list | dict | str) and neutral != "None":
            continue  # of another type than the field
        check_no_unsupported_fields(kind.model_construct(**{name: neutral}))
    with pytest.raises(ArgumentError, match=f"Got {name}=.*, which is not done here: "):
        check_no_unsupported_fields(kind(**{name: ACTING[name]}))


def test_unknown_fields_are_refused_unless_empty() -> None:
    check_no_unsupported_fields(
        GenerationBody(distilled=None, hr_additional_modules=[], boost=False)
    )
    with pytest.raises(ArgumentError, match=r"Got distilled_cfg_scale=3\.5, .*no such field"):
        check_no_unsupported_fields(GenerationBody(distilled_cfg_scale=3.5))


@pytest.mark.parametrize(
    "scripts",
    [
        {"ControlNet": {"args": []}},
        {"ADetailer": {"args": [False]}},
        {"ADetailer": {"args": [False, {"ad_model": "face"}]}},
        {"ControlNet": {"args": [{"enabled": False, "model": "canny"}]}},
        {"ControlNet": {}},
        {"refiner": {"args": [False, "", 0.8]}},
    ],
)
def test_scripts_that_are_switched_off_are_accepted(scripts: dict[str, object]) -> None:
    check_no_unsupported_fields(GenerationBody(alwayson_scripts=scripts))


@pytest.mark.parametrize(
    "scripts",
    [
        {"ControlNet": {"args": [{"enabled": True, "model": "canny"}]}},
        {"ControlNet": {"args": [{"model": "canny"}]}},
        {"ADetailer": {"args": [True, {"ad_model": "face"}]}},
        {"Self Attention Guidance": {"args": [True, 0.75, 1.0]}},
        {"roop": {"args": ["data:image/png;base64,iVBO", True]}},
    ],
)
def test_scripts_that_would_act_are_refused_by_name(scripts: dict[str, object]) -> None:
    (name,) = scripts
    with pytest.raises(ArgumentError, match=f"alwayson_scripts with '{name}', which is not done"):
        check_no_unsupported_fields(GenerationBody(alwayson_scripts=scripts))


# hires fix


def test_enable_hr_becomes_an_upscaling() -> None:
    body = Txt2ImgBody(enable_hr=True, hr_scale=1.5, hr_upscaler="Lanczos", denoising_strength=0.4)
    assert build_txt2img_fields(body, "m")["upscale"] == "1.5:0.4"
    sized = Txt2ImgBody(enable_hr=True, width=64, height=32, hr_resize_x=96, hr_resize_y=48)
    assert build_txt2img_fields(sized, "m")["upscale"] == "1.5:0.75"
    assert "upscale" not in build_txt2img_fields(Txt2ImgBody(hr_scale=3), "m")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"hr_upscaler": "Latent"}, 'hr_upscaler=.Latent., .*send "hr_upscaler": "Lanczos"'),
        ({"hr_second_pass_steps": 7, "steps": 9}, "hr_second_pass_steps=7, .*both passes take"),
        ({"hr_prompt": "a dog"}, "hr_prompt='a dog', .*drawn as the first one"),
        ({"hr_sampler_name": "DDIM", "sampler_name": "Euler"}, "hr_sampler_name='DDIM'"),
        ({"hr_resize_x": 96}, "hr_resize_x=96 and hr_resize_y=0 without width and height"),
        (
            {"width": 64, "height": 64, "hr_resize_x": 96, "hr_resize_y": 128},
            "hr_resize_x=96 and hr_resize_y=128 for a picture of 64x64",
        ),
    ],
)
def test_hires_settings_that_are_not_done_are_refused(
    values: dict[str, object], message: str
) -> None:
    with pytest.raises(ArgumentError, match=message):
        build_txt2img_fields(Txt2ImgBody(enable_hr=True, **values), "m")


def test_img2img_has_a_strength() -> None:
    assert build_img2img_fields(Img2ImgBody(denoising_strength=0.3), "m")["strength"] == 0.3
    assert build_img2img_fields(Img2ImgBody(), "m")["strength"] == 0.75


def test_learned_words_of_the_server_act_where_their_names_stand_in_a_prompt() -> None:
    body = Txt2ImgBody(prompt="a cat, (ink:1.2)", negative_prompt="bad-hands")
    names = ("styles/ink", "bad-hands", "bad", "hands", "inkling")
    assert build_txt2img_fields(body, "m", names)["embeddings"] == [
        {"name": "styles/ink", "token": "ink"},
        {"name": "bad-hands", "token": "bad-hands"},
    ]


# samplers


@pytest.mark.parametrize(
    ("name", "scheduler", "sampler"),
    [
        ("Euler a", "automatic", "euler a"),
        ("Euler", "Karras", "euler karras"),
        ("k_euler_ancestral", None, "euler a"),
        ("DPM++ 2M", "Automatic", "dpm++ 2m karras"),
        ("DPM++ 2M", "uniform", "dpm++ 2m"),
        ("DPM++ 2M Karras", "automatic", "dpm++ 2m karras"),
        ("DPM++ 2M Karras", "karras", "dpm++ 2m karras"),
        ("DPM++ 3M SDE", None, "dpm++ 3m sde exponential"),
        ("DPM2 a", "automatic", "dpm2 a"),
        (None, None, None),
        ("", "normal", None),
    ],
)
def test_sampler_and_scheduler_choose_ours(
    name: str | None, scheduler: str | None, sampler: str | None
) -> None:
    assert choose_sampler(name, scheduler) == sampler


@pytest.mark.parametrize(
    ("name", "scheduler", "message"),
    [
        ("DPM adaptive", None, "Unknown sampler_name 'DPM adaptive'"),
        ("Eulre", None, "Did you mean 'Euler'"),
        ("Euler", "SGM Uniform", "scheduler='SGM Uniform', which is not done here"),
        ("DPM++ 2M Karras", "exponential", "they name different spacings"),
        ("DDIM", "karras", "sampler_name='DDIM', which has no other spacing"),
        (None, "karras", "without sampler_name: name the sampler too"),
    ],
)
def test_samplers_that_are_not_done_are_refused(
    name: str | None, scheduler: str | None, message: str
) -> None:
    with pytest.raises(ArgumentError, match=message):
        choose_sampler(name, scheduler)


def test_every_listed_pair_of_sampler_and_scheduler_is_one_of_ours() -> None:
    assert set(SAMPLER_LABELS) == {
        name for name in SAMPLERS if format_sampler_as_a1111(name) == SAMPLER_LABELS.get(name)
    }
    for sampler in list_sampler_items():
        names = [str(sampler["name"]), *sampler["aliases"]]
        chosen = {choose_sampler(name, "automatic") for name in names}
        assert len(chosen) == 1
        assert chosen <= set(SAMPLERS)
    for scheduler in list_scheduler_items():
        assert choose_sampler("Euler", str(scheduler["name"])) in SAMPLERS
        assert choose_sampler("Euler", str(scheduler["label"])) in SAMPLERS
