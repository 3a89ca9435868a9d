"""A fine-tune that jumps over the steps of its base model's sampler (consistency distillation)."""

import json
from copy import deepcopy
from dataclasses import replace
from shutil import copytree

import pytest
import torch
from diffusers import DDIMScheduler, LCMScheduler, StableDiffusionPipeline, UNet2DConditionModel

from t2i.denoiser.families import sd
from t2i.errors import ArgumentError
from tests.train.finetunes import finetune_toml, moved, target_of
from tests.train.runs import assert_equal_bit_for_bit, train_only
from train.config.load_config import load_run_config
from train.loop import run_training
from train.objective.consistency import ConsistencyDistillation
from train.objective.objective import NoiseLevel, Objective, ObjectiveConfig
from train.setup.assembly import assemble_target

STEPS = "target.consistency_steps=50"
STILL = ("target.caption_dropout=0", "data.flip=false", "data.crop=center", "ema.decay=0")
SCHEDULES = {
    "epsilon": ObjectiveConfig(prediction="epsilon"),
    "sample": ObjectiveConfig(prediction="sample"),
    "v": ObjectiveConfig(
        prediction="v_prediction", beta_schedule="squaredcos_cap_v2", zero_terminal_snr=True
    ),
}


def normal(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def distilling(tmp_path, base, *settings, parts=("lora",)):
    return load_run_config(finetune_toml(tmp_path, base, *parts), (STEPS, *STILL, *settings))


# The formulas


@pytest.mark.parametrize("config", SCHEDULES.values(), ids=SCHEDULES)
def test_latents_and_noise_are_those_that_the_target_was_made_of(config):
    objective = Objective(config)
    level = objective.noise_level_at_timestep(torch.tensor([0, 400, 998]))
    latents, noise = normal(3, 4, 2, 2, seed=1).float(), normal(3, 4, 2, 2, seed=2).float()
    noisy = objective.add_noise(latents, noise, level)
    output = objective.compute_prediction_target(latents, noise, level)
    found = objective.convert_output_to_latents_and_noise(output, noisy, level)
    torch.testing.assert_close(found, (latents, noise), rtol=1e-3, atol=2e-3)


def test_flow_too_says_what_its_latents_are_made_of():
    objective = Objective(ObjectiveConfig(prediction="flow"))
    level = objective.noise_level_at_quantile(torch.tensor([0.1, 0.7]))
    latents, noise = normal(2, 4, 2, 2, seed=1).float(), normal(2, 4, 2, 2, seed=2).float()
    noisy = objective.add_noise(latents, noise, level)
    found = objective.convert_output_to_latents_and_noise(noise - latents, noisy, level)
    torch.testing.assert_close(found, (latents, noise), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("config", SCHEDULES.values(), ids=SCHEDULES)
def test_a_guided_step_is_that_of_diffusers_ddim(config):
    objective = Objective(config)
    distillation = ConsistencyDistillation(objective, 50)
    scheduler = DDIMScheduler.from_config(
        {**config.build_scheduler_config(), "timestep_spacing": "trailing", "clip_sample": False}
    )
    scheduler.set_timesteps(50)
    for place in (0, 20, 48):
        timestep = scheduler.timesteps[place]
        level = objective.noise_level_at_timestep(timestep.view(1))
        noisy, cond, uncond = (normal(1, 4, 2, 2, seed=seed).float() for seed in (1, 2, 3))
        found = distillation.solve_step(cond, uncond, torch.tensor([3.0]), noisy, level)
        guided = uncond + 3.0 * (cond - uncond)
        if place or config.prediction != "sample":  # pure noise holds no latents to solve for
            expected = scheduler.step(guided, timestep, noisy).prev_sample
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("config", SCHEDULES.values(), ids=SCHEDULES)
def test_the_predicted_end_is_what_diffusers_lcm_scheduler_denoises_to(config):
    objective = Objective(config)
    distillation = ConsistencyDistillation(objective, 50)
    scheduler = LCMScheduler.from_config(config.build_scheduler_config())
    scheduler.set_timesteps(4)
    for timestep in scheduler.timesteps:
        level = objective.noise_level_at_timestep(timestep.view(1))
        noisy, output = normal(1, 4, 2, 2, seed=1).float(), normal(1, 4, 2, 2, seed=2).float()
        found = distillation.predict_end_of_trajectory(output, noisy, level)
        expected = scheduler.step(output, timestep, noisy).denoised
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_without_noise_the_end_is_where_one_stands():
    distillation = ConsistencyDistillation(Objective(SCHEDULES["v"]), 50)
    level = Objective(SCHEDULES["v"]).noise_level_at_timestep(torch.tensor([0]))
    noisy = normal(1, 4, 2, 2, seed=1).float()
    end = distillation.predict_end_of_trajectory(normal(1, 4, 2, 2, seed=2), noisy, level)
    assert torch.equal(end, noisy)


def test_steps_begin_and_end_at_the_timesteps_that_lcm_draws_with():
    distillation = ConsistencyDistillation(Objective(SCHEDULES["v"]), 50)
    level = distillation.noise_level_at_quantile((torch.arange(50) + 0.5) / 50)
    assert level.timestep_B.tolist() == list(range(19, 1000, 20))
    after = distillation.noise_level_after_step(level)
    assert after.timestep_B.tolist() == [0, *range(19, 980, 20)]
    scheduler = LCMScheduler.from_config(SCHEDULES["v"].build_scheduler_config())
    scheduler.set_timesteps(8)
    assert set(scheduler.timesteps.tolist()) <= set(level.timestep_B.tolist())


def test_a_trained_consistency_model_has_the_same_end_along_a_trajectory():
    """For data at one point all trajectories end there, and a student that knows it has no loss."""
    objective = Objective(SCHEDULES["v"])
    distillation = ConsistencyDistillation(objective, 50)
    point, noise = normal(1, 4, 2, 2, seed=1).float(), normal(1, 4, 2, 2, seed=2).float()
    level = objective.noise_level_at_timestep(torch.tensor([599]))
    noisy = objective.add_noise(point, noise, level)

    def exact(noisy, level):  # what predicts the point, whatever it is given
        alpha, sigma = level.alpha_B, level.sigma_B
        return (alpha * noisy - point) / sigma

    output, scale = exact(noisy, level), torch.ones(1)
    stepped = distillation.solve_step(output, output, scale, noisy, level)
    after = distillation.noise_level_after_step(level)
    before = distillation.predict_end_of_trajectory(output, noisy, level)
    behind = distillation.predict_end_of_trajectory(exact(stepped, after), stepped, after)
    assert distillation.compute_losses(before, behind, level).item() < 1e-8
    off = distillation.compute_losses(before, behind + 0.1, level)
    torch.testing.assert_close(off, torch.tensor([0.01]), rtol=1e-3, atol=1e-5)


# The training target


@pytest.mark.parametrize("parts", [("lora",), ("full",), ("pivotal",)], ids=str)
def test_the_loss_is_that_of_two_models_side_by_side(tmp_path, base, parts):
    config = distilling(tmp_path, base, "target.consistency_guidance=[2.0, 6.0]", parts=parts)
    target, batch = target_of(config)
    base_model = deepcopy(target)
    moved(target)
    loss_B = target(batch)
    loss_B.sum().backward()
    gradients = {
        name: weight.grad.clone()
        for name, weight in target.collect_trained_parameters_by_name().items()
        if weight.grad is not None
    }
    target.zero_grad()

    objective = target.objective
    noised = target._add_noise(batch)
    level = noised.level
    after = objective.noise_level_at_timestep((level.timestep_B - 20).clamp(min=0))
    scale = config.target.sample_guidance_scales(config.seed, batch.step, batch.slots)
    assert 2 <= scale.min() < scale.max() <= 6
    rows = scale.view(-1, 1, 1, 1)

    def output(model, noisy, level: NoiseLevel, captions):
        return model.predict(
            noisy, level.timestep_B, model._build_conditioning(batch, list(captions))
        )

    def end(model, noisy, level):
        alpha, sigma = level.alpha_B.view(-1, 1, 1, 1), level.sigma_B.view(-1, 1, 1, 1)
        found = output(model, noisy, level, batch.captions)
        clean = {
            "epsilon": lambda: (noisy - sigma * found) / alpha,
            "v_prediction": lambda: alpha * noisy - sigma * found,
        }[objective.config.prediction]()
        time = 10.0 * level.timestep_B.view(-1, 1, 1, 1)
        skip, out = 0.25 / (time**2 + 0.25), time / (time**2 + 0.25) ** 0.5
        return skip * noisy + out * clean

    with torch.no_grad():
        uncond = output(base_model, noised.noisy_BCHW, level, [""] * len(batch.captions))
        cond = output(base_model, noised.noisy_BCHW, level, batch.captions)
        clean, noise = objective.convert_output_to_latents_and_noise(
            uncond + rows * (cond - uncond), noised.noisy_BCHW, level
        )
        stepped = objective.add_noise(clean, noise, after)
        teacher = end(target, stepped, after)
    student = end(target, noised.noisy_BCHW, level)
    expected_B = (student - teacher).square().mean(dim=(1, 2, 3))
    torch.testing.assert_close(loss_B, expected_B, rtol=1e-4, atol=1e-6)
    expected_B.sum().backward()
    assert gradients
    for name, weight in target.collect_trained_parameters_by_name().items():
        if name in gradients:
            torch.testing.assert_close(gradients[name], weight.grad, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("zeros", [True, False])
def test_sdxl_s_base_model_is_guided_as_its_pipeline_guides(tmp_path, base_xl, zeros):
    """Away from zeros where the folder does not force them for the empty prompt."""
    folder = tmp_path / "xl"
    copytree(base_xl, folder)
    index = json.loads((folder / "model_index.json").read_text())
    index["force_zeros_for_empty_prompt"] = zeros
    (folder / "model_index.json").write_text(json.dumps(index))
    target, batch = target_of(distilling(tmp_path, folder))
    seen = []
    own = target.predict
    target.predict = lambda noisy, time, told: seen.append(told) or own(noisy, time, told)
    target(batch)
    _student, cond, uncond, _teacher = seen
    assert cond.text_BTD.abs().max() > 0
    assert bool(uncond.text_BTD.abs().max() == 0) is zeros
    assert bool(uncond.extra["text_embeds"].abs().max() == 0) is zeros
    assert torch.equal(uncond.extra["time_ids"], cond.extra["time_ids"])


def test_a_unet_that_reads_the_guidance_scale_is_its_own_guided_base(tmp_path, base):
    folder = tmp_path / "guided"
    copytree(base, folder)
    unet = UNet2DConditionModel.from_pretrained(base / "unet")
    guided = UNet2DConditionModel.from_config({**unet.config, "time_cond_proj_dim": 8})
    guided.load_state_dict(unet.state_dict(), strict=False)
    guided.save_pretrained(folder / "unet")
    config = distilling(tmp_path, folder, "target.consistency_guidance=[2.0, 6.0]")
    target, batch = target_of(config)
    seen = []
    own = target.predict
    target.predict = lambda noisy, time, told: seen.append(told) or own(noisy, time, told)
    target(batch)
    scales = config.target.sample_guidance_scales(config.seed, batch.step, batch.slots)
    _student, _cond, _teacher = seen  # no unconditional pass
    for told in seen:
        for row, scale in enumerate(scales.tolist()):
            alone = sd.embed_guidance_scale(scale, 8, told.text_BTD[:1])
            torch.testing.assert_close(told.extra["guidance_embedding"][row], alone[0])
    assert not torch.equal(*seen[0].extra["guidance_embedding"])


def test_a_learned_row_weighs_as_its_loss_mask_says(tmp_path, base):
    target, batch = target_of(distilling(tmp_path, base))
    moved(target)
    height, width = batch.pixels_BCHW.shape[2:]
    none = replace(batch, loss_mask_B1HW=torch.zeros(2, 1, height, width))
    assert torch.equal(target(none), torch.zeros(2))
    everything = replace(batch, loss_mask_B1HW=torch.ones(2, 1, height, width))
    torch.testing.assert_close(target(everything), target(batch))


def test_its_scheduler_is_lcms_with_the_distilled_steps(tmp_path, base):
    target, _ = target_of(distilling(tmp_path, base, "target.consistency_steps=25"))
    scheduler = target.build_scheduler()
    assert isinstance(scheduler, LCMScheduler)
    assert scheduler.config["original_inference_steps"] == 25
    own = assemble_target(load_run_config(finetune_toml(tmp_path, base, "lora"), STILL))[0]
    for key in ("prediction_type", "beta_schedule", "beta_end"):
        assert scheduler.config[key] == own.build_scheduler().config[key]


@pytest.mark.slow
def test_a_distilled_lora_draws_in_diffusers_with_lcms_scheduler(tmp_path, base):
    config = distilling(tmp_path, base, "train.steps=1", "optimizer.learning_rate=0.05")
    run_training(config, tmp_path / "run")
    pipe = StableDiffusionPipeline.from_pretrained(base)
    pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    drawn = []
    for loaded in (False, True):
        if loaded:
            pipe.load_lora_weights(tmp_path / "run/model/lora.safetensors")
        generator = torch.Generator().manual_seed(1)
        drawn.append(
            pipe(
                "a cat",
                num_inference_steps=2,
                guidance_scale=1.0,
                generator=generator,
                output_type="pt",
            ).images
        )
    assert torch.isfinite(drawn[1]).all()
    assert not torch.equal(*drawn)


@pytest.mark.slow
def test_it_resumes_bit_for_bit(tmp_path, base):
    settings = ("rate.decay=none", "target.consistency_guidance=[2.0, 6.0]")
    config = distilling(tmp_path, base, *settings, "train.steps=4")
    whole = train_only(config, tmp_path / "whole")
    train_only(distilling(tmp_path, base, *settings, "train.steps=2"), tmp_path / "halved")
    assert_equal_bit_for_bit(whole, train_only(config, tmp_path / "halved"))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("target.consistency_steps=30", "the 1000 timesteps are no multiple of 30"),
        ("target.consistency_steps=-1", "consistency_steps"),
        ("target.consistency_guidance=[4.0, 2.0]", "the lowest and the highest guidance scale"),
        ("target.consistency_guidance=[0.5, 2.0]", "1 is without guidance"),
        ("target.consistency_guidance=[nan, 2.0]", "consistency_guidance"),
        ("target.preference_beta=50", "set one of the two to 0"),
        ("target.attention_weight=0.1", "set one of the two to 0"),
        ("train.compile=true", "target.consistency_steps takes what is trained out"),
        ("objective.density=logit_normal", "objective.density = 'logit_normal' with"),
        ("objective.weight=min_snr", "objective.weight = 'min_snr' with"),
        ('samples.prompts=["a cat"]', "set samples.steps, as to 4, and samples.guidance_scale"),
    ],
)
def test_what_cannot_be_is_refused_in_words(tmp_path, base, setting, message):
    with pytest.raises(ArgumentError, match=message):
        distilling(tmp_path, base, setting)


def test_sheets_have_no_more_steps_than_are_learned(tmp_path, base):
    sheet = ('samples.prompts=["a cat"]', "samples.guidance_scale=1.0")
    learned = distilling(tmp_path, base, *sheet, "samples.steps=4")
    assert learned.samples.steps == 4
    with pytest.raises(ArgumentError, match="no more steps than are learned"):
        distilling(tmp_path, base, *sheet, "samples.steps=51")


def test_a_flow_model_is_refused():
    flow = Objective(ObjectiveConfig(prediction="flow"))
    with pytest.raises(ArgumentError, match="trained by flow matching"):
        ConsistencyDistillation(flow, 50)
