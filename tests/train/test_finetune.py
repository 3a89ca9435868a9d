"""What each method trains, what it leaves alone, and what it writes."""

import json
from dataclasses import replace
from pathlib import Path

import diffusers
import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file

import t2i
from pipelines.text_to_image import TextToImagePipeline
from t2i.errors import ArgumentError, ModelError
from tests.sweeps import sweep
from tests.train.finetunes import PARTS, finetune_run
from tests.train.runs import accelerator_for
from train.batches.batch_order import ProcessShare
from train.batches.micro_batch import iterate_micro_batches_of_steps
from train.cache.caption_encoding import expand_learned_words_in_caption
from train.loop import TrainingRun, run_training
from train.setup.assembly import assemble_target
from train.targets.finetune import FineTuneTarget

pytestmark = pytest.mark.usefixtures("_own_accelerator")

PROMPT = "a red apple left of the cat"
DRAWN = {"num_inference_steps": 3, "guidance_scale": 2.0, "height": 32, "width": 32}


def fine_tune(
    folder: Path, base: Path, *parts: str, settings: tuple[str, ...] = ()
) -> FineTuneTarget:
    target = assemble_target(finetune_run(folder, base, parts, *settings))[0]
    assert isinstance(target, FineTuneTarget)
    return target


def names(target: FineTuneTarget) -> set[str]:
    return {*target.collect_trained_parameters_by_name()}


def latents(pipe: object, prompt: str = PROMPT) -> torch.Tensor:
    seeded = torch.Generator().manual_seed(1)
    drawn = pipe(prompt, generator=seeded, output_type="latent", **DRAWN)  # type: ignore[operator]
    found: torch.Tensor = drawn.images
    return found


def test_cross_attention_alone_is_its_keys_and_values(tmp_path, base):
    target = fine_tune(tmp_path, base, "cross-attention")
    assert names(target)
    assert all(".attn2.to_k." in name or ".attn2.to_v." in name for name in names(target))


def test_a_lora_that_came_with_the_base_is_not_lost_in_silence(tmp_path, base):
    pipe = TextToImagePipeline.from_pretrained(base)
    pipe.text_encoder.add_adapter(LoraConfig(r=2, target_modules=["q_proj"]))
    pipe.save_pretrained(tmp_path / "with")
    with pytest.raises(ModelError, match=r"with has a LoRA on its text_encoder.*fuse_lora\(\)"):
        fine_tune(tmp_path / "run", tmp_path / "with", "lora")


def test_full_is_every_weight_of_the_unet_and_nothing_else(tmp_path, base):
    target = fine_tune(tmp_path, base, "full")
    assert names(target) == {f"unet.{name}" for name, _ in target.unet.named_parameters()}


@pytest.mark.parametrize(
    "method",
    # "dora" is a LoRA with more weights, "rslora" one of another scale.
    sweep(["lora", "dora", "rslora", "loha", "lokr"], quick=["dora", "loha", "lokr"]),
)
def test_an_adapter_is_all_that_is_trained_and_changes_nothing_at_first(tmp_path, base, method):
    target = fine_tune(tmp_path, base, method)
    kinds = ("lora_", "hada_", "lokr_")
    assert names(target)
    assert all(any(kind in name for kind in kinds) for name in names(target))
    plain = t2i.load(str(base))
    torch.testing.assert_close(latents(target.build_pipeline()), latents(plain), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("part", "told", "expected"),
    [
        ("lora", "rank = 4\nalpha = 2", 0.5),
        ("rslora", "rank = 4\nalpha = 2", 1.0),
    ],
)
def test_an_adapter_weighs_what_its_config_says(tmp_path, base, part, told, expected):
    assert told in PARTS[part]
    target = fine_tune(tmp_path, base, part)
    scales = {
        module.scaling[name]
        for module in target.unet.modules()
        if hasattr(module, "scaling")
        for name in module.scaling
    }
    assert scales == {expected}


def test_only_new_rows_move_and_only_they_are_kept(tmp_path, base):
    config = finetune_run(tmp_path / "a", base, ("words",))
    before = t2i.load(str(base)).text_encoder.state_dict()
    training = TrainingRun(config, tmp_path / "out", accelerator_for(config))
    target = training.target
    assert isinstance(target, FineTuneTarget)
    assert [
        tuple(weight.shape) for weight in target.collect_trained_parameters_by_name().values()
    ] == [(3, 32)]
    started = {
        name: weight.clone() for name, weight in target.collect_trained_parameters_by_name().items()
    }
    assert run_training(config, tmp_path / "out2")
    after = load_file(next((tmp_path / "out2" / "checkpoints").glob("*4/weights.safetensors")))
    assert after.keys() == started.keys()
    (name,) = started
    moved = (after[name] != started[name]).any(dim=1)
    assert moved.tolist() == [True, True, False]  # no caption has <pot>
    table = target.text_encoder.get_input_embeddings()
    known = next(value for name, value in before.items() if "token_embedding" in name)
    assert torch.equal(table.known.weight, known)


def test_a_new_word_starts_as_the_words_it_was_given(tmp_path, base):
    target = fine_tune(tmp_path, base, "words")
    table = target.text_encoder.get_input_embeddings()
    tokenizer = target.components.tokenizer
    ids = tokenizer("red apple", add_special_tokens=False)["input_ids"]
    assert torch.equal(table.vectors[:2].detach(), table.known.weight[ids])
    assert tokenizer.tokenize("<mug> <mug>_1 <pot>") == ["<mug>", "<mug>_1", "<pot>"]
    assert not {"<mug>", "<mug>_1", "<pot>"} & {*tokenizer.tokenize("a<mug>s <pot>1")}


def test_captions_and_prompts_spell_a_word_of_two_vectors_alike(tmp_path, base):
    target = fine_tune(tmp_path, base, "words")
    tokenizer = target.components.tokenizer
    assert (
        expand_learned_words_in_caption("a <mug> left of <pot>", tokenizer)
        == "a <mug> <mug>_1 left of <pot>"
    )
    read_here = target._encode(["a <mug> left"]).text_BTD
    (read_there,) = prompt_embeds(target.build_pipeline(), "a <mug> left")
    assert torch.equal(read_here[0], read_there)
    assert not torch.equal(read_here, target._encode(["a <pot> left"]).text_BTD)


def prompt_embeds(pipe, prompt):
    seen = []

    def look(_pipe, _step, _timestep, tensors):
        seen.append(tensors["prompt_embeds"])
        return {}

    pipe(
        prompt,
        **DRAWN | {"guidance_scale": 1.0, "num_inference_steps": 1},
        callback_on_step_end=look,
        callback_on_step_end_tensor_inputs=["prompt_embeds"],
    )
    return seen[0]


def test_each_part_has_its_own_rate(tmp_path, base):
    target = fine_tune(tmp_path, base, "pivotal")
    assert [group.learning_rate for group in target.build_parameter_groups()] == [1e-2, None, None]
    assert [group.weight_decay for group in target.build_parameter_groups()] == [0.0, None, None]
    grouped = [weight for group in target.build_parameter_groups() for weight in group.parameters]
    assert (
        len({*map(id, grouped)}) == len(grouped) == len(target.collect_trained_parameters_by_name())
    )


# "pivotal" trains a LoRA too.
@pytest.mark.parametrize("method", sweep(["lora", "dora", "pivotal"], quick=["dora", "pivotal"]))
def test_what_is_written_draws_in_diffusers_what_was_trained(tmp_path, base, method):
    config = finetune_run(tmp_path, base, (method,), "export.precision=fp32", "ema.decay=0")
    training = TrainingRun(config, tmp_path / "out", accelerator_for(config))
    for weight in training.target.collect_trained_parameters_by_name().values():
        torch.nn.init.normal_(weight, std=0.05) if weight.dim() > 1 else None
    training.ema.update(training.target.collect_trained_parameters_by_name(), 1)
    training.export()
    prompt = "a <mug> left of <pot>" if method == "pivotal" else PROMPT
    model = tmp_path / "out" / "model"

    pipe = diffusers.StableDiffusionPipeline.from_pretrained(base, safety_checker=None)
    pipe.load_lora_weights(model, weight_name="lora.safetensors")
    if method == "pivotal":
        for word in ("mug", "pot"):
            pipe.load_textual_inversion(model, weight_name=f"{word}.safetensors")
    assert isinstance(training.target, FineTuneTarget)
    ours = latents(training.target.build_pipeline(), prompt)
    torch.testing.assert_close(latents(pipe, prompt), ours, atol=1e-5, rtol=1e-5)
    plain = diffusers.StableDiffusionPipeline.from_pretrained(base, safety_checker=None)
    assert (latents(plain, PROMPT) - ours).abs().max() > 1e-2


def test_own_weights_are_written_as_a_folder_of_diffusers(tmp_path, base):
    config = finetune_run(tmp_path, base, ("full", "words"), "export.precision=fp32")
    assert run_training(config, tmp_path / "out")
    model = tmp_path / "out" / "model"
    assert {"unet", "mug.safetensors", "pot-kohya.safetensors"} <= {p.name for p in model.iterdir()}
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(model)
    average = load_file(next((tmp_path / "out" / "checkpoints").glob("*4/average.safetensors")))
    weights = pipe.unet.state_dict()
    assert all(
        torch.equal(weights[n.removeprefix("unet.")], v) for n, v in average.items() if "unet" in n
    )
    assert "<mug>" not in pipe.tokenizer.get_vocab()
    told = json.loads((model / "t2i.json").read_text())
    assert told["words"] == ["<mug>", "<pot>"]


@pytest.mark.parametrize("parts", [("full",), ("pivotal",)])
def test_sdxl_learns_with_both_its_encoders(tmp_path, base_xl, parts):
    config = finetune_run(tmp_path, base_xl, parts, "train.steps=2")
    assert run_training(config, tmp_path / "out")
    if parts == ("pivotal",):
        found = load_file(tmp_path / "out" / "model" / "mug.safetensors")
        assert {key: value.shape[0] for key, value in found.items()} == {"clip_l": 2, "clip_g": 2}


def test_the_base_models_own_schedule_is_the_objective(tmp_path, base):
    scheduler = t2i.load(str(base)).scheduler
    target = fine_tune(tmp_path, base, "lora")
    told = target.objective.config
    assert told.prediction == scheduler.config["prediction_type"]
    assert told.beta_schedule == scheduler.config["beta_schedule"]
    assert told.beta_end == scheduler.config["beta_end"]
    other = fine_tune(tmp_path / "b", base, "lora", settings=("objective.prediction=v_prediction",))
    assert other.objective.config.prediction == "v_prediction"
    assert other.objective.config.beta_end == told.beta_end


@pytest.mark.parametrize(
    ("parts", "complaint"),
    [
        (
            ("lora", "lora"),
            r"target.parts\[1\].modules: .* already has the adapter of another part",
        ),
        (("full", "cross-attention"), r"target.parts\[0\] and target.parts\[1\] both train"),
        (('[[target.parts]]\nmethod = "lora"\nmodules = ["attn2.to_kk"]',), "matches no module"),
        (('[[target.parts]]\nmethod = "lora"\nmodules = ["conv_norm_out"]',), "no linear or"),
        (('[[target.parts]]\nmethod = "full"\nof = "text_encoder_2"',), "the base model has none"),
        (('[[target.parts]]\nmethod = "words"\nwords = [{word = "cat</w>"}]',), "knows 'cat</w>'"),
        (('[[target.parts]]\nmethod = "words"\nwords = [{word = "cat"}]',), "knows 'cat' already"),
    ],
)
def test_parts_that_cannot_be_trained_are_refused(tmp_path, base, parts, complaint):
    with pytest.raises(ArgumentError, match=complaint):
        fine_tune(tmp_path, base, *parts)


@pytest.mark.parametrize(
    ("table", "complaint"),
    [
        ('[[target.parts]]\nmethod = "lorra"', "target.parts.0"),
        (
            '[[target.parts]]\nmethod = "lora"\nrnak = 4',
            "Unknown key 'target.parts.0.rnak'.*'rank'",
        ),
        ('[[target.parts]]\nmethod = "words"\nwords = [{word = "two words"}]', "no blanks"),
        (
            '[[target.parts]]\nmethod = "words"\nwords = [{word = "a"}, {word = "a"}]',
            "appears twice",
        ),
    ],
)
def test_a_part_that_is_written_wrongly_is_named(tmp_path, base, table, complaint):
    with pytest.raises(ArgumentError, match=complaint):
        finetune_run(tmp_path, base, (table,))


def test_a_masked_place_counts_for_nothing(tmp_path, base):
    config = finetune_run(tmp_path, base, ("lora",))
    training = TrainingRun(config, tmp_path / "out", accelerator_for(config))
    batch = next(
        iterate_micro_batches_of_steps(training.samples, training.order, ProcessShare(), range(1))
    )
    height, width = batch.pixels_BCHW.shape[2:]
    half = torch.ones(2, 1, height, width)
    half[..., : width // 2] = 0
    whole = training.target(batch)
    masked = training.target(replace(batch, loss_mask_B1HW=half))
    other = training.target(replace(batch, loss_mask_B1HW=1 - half))
    torch.testing.assert_close((masked + other) / 2, whole)
    assert not torch.allclose(masked, whole)
    weighed = training.target(replace(batch, weights_B=torch.tensor([0.5, 1.0])))
    torch.testing.assert_close(weighed, whole * torch.tensor([0.5, 1.0]))
