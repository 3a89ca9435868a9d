"""What a fine-tune is not about stays as it was: adapters are held to the model without them."""

import re
from dataclasses import replace

import pytest
import torch

from t2i.errors import ArgumentError
from tests.train.finetunes import finetune_run
from tests.train.runs import train_only
from train.batches.batch_order import BatchOrder, ProcessShare
from train.batches.micro_batch import iterate_micro_batches_of_steps
from train.data.registry import build_dataset
from train.loop import run_training
from train.objective.preservation import OutputPreservationConfig, replace_new_words
from train.setup.assembly import assemble_target
from train.targets.reference_model import ReferenceModel

WEIGHT = "target.preserve_weight=3"
WORDS = "target.preserve_words={ '<mug>' = 'cat' }"
STILL = ("target.caption_dropout=0", "data.flip=false", "data.crop=center")


@pytest.fixture
def tuned(tmp_path, base):
    """A target whose adapter already does something, and a batch."""

    def make(*settings, parts=("lora",)):
        config = finetune_run(tmp_path, base, parts, *STILL, *settings)
        target = assemble_target(config)[0].train()
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for name, weight in sorted(target.collect_trained_parameters_by_name().items()):
                if "lora" in name:
                    weight += 0.3 * torch.randn(weight.shape, generator=generator)
        data = build_dataset(config.data)
        order = BatchOrder(data.group_indices_by_shape(), 2, 1)
        return target, next(iterate_micro_batches_of_steps(data, order, ProcessShare(), range(1)))

    return make


def test_the_class_stands_where_the_new_word_stood():
    words = {"<mug>": "mug", "sks dog": "dog"}
    assert replace_new_words("a <mug> by a sks dog", words) == "a mug by a dog"
    assert replace_new_words("a sks dogma, <mug>s", words) is None
    config = OutputPreservationConfig(preserve_weight=1, preserve_words=words)
    assert config.choose_preserved_caption("red <mug>, <mug>", 0, 0, 0) == "red mug, mug"
    assert config.list_preserved_captions(["a <mug>", "a tree"]) == {"a mug"}


def test_captions_of_ones_own_take_turns_by_step_and_slot():
    config = OutputPreservationConfig(preserve_weight=1, preserve_captions=("a", "b", "c"))
    drawn = [config.choose_preserved_caption("x", 0, step, 0) for step in range(40)]
    assert set(drawn) == {"a", "b", "c"}
    assert drawn == [config.choose_preserved_caption("y", 0, step, 0) for step in range(40)]
    assert config.list_preserved_captions(["x"]) == {"a", "b", "c"}


def test_the_loss_is_how_far_the_adapter_moves_the_other_caption(tuned):
    target, batch = tuned(WEIGHT, WORDS)
    plain, _ = tuned()
    noised = target._add_noise(batch)
    told = target._build_conditioning(
        batch, [caption.replace("<mug>", "cat") for caption in batch.captions]
    )
    with torch.no_grad():
        with_it = target._denoise(noised, told)
        with target._reference.using_base_weights():
            base = target._denoise(noised, told)
    moved_B = (with_it - base).pow(2).flatten(1).mean(1)
    assert (moved_B > 1e-4).all()
    torch.testing.assert_close(target(batch), plain(batch) + 3 * moved_B)


def test_an_adapter_that_does_nothing_yet_costs_nothing(tmp_path, base):
    config = finetune_run(tmp_path, base, ("lora",), WEIGHT, WORDS, *STILL)
    plain = finetune_run(tmp_path, base, ("lora",), *STILL)
    data = build_dataset(config.data)
    batch = next(
        iterate_micro_batches_of_steps(
            data, BatchOrder(data.group_indices_by_shape(), 2, 1), ProcessShare(), range(1)
        )
    )
    assert torch.equal(assemble_target(config)[0](batch), assemble_target(plain)[0](batch))


def test_rows_that_do_not_say_the_word_are_left_alone(tuned):
    target, batch = tuned(WEIGHT, WORDS)
    plain, _ = tuned()
    other = replace(batch, captions=["a tree", *batch.captions[1:]])
    assert target(other)[0] == plain(other)[0]
    assert target(other)[1] > plain(other)[1]


def test_the_gradient_is_that_of_the_adapters_alone_and_they_are_back(tuned):
    target, batch = tuned(WEIGHT, WORDS)
    wanted = set(target.collect_trained_parameters_by_name())
    target(batch).mean().backward()
    assert set(target.collect_trained_parameters_by_name()) == wanted
    assert all(
        weight.grad is not None for weight in target.collect_trained_parameters_by_name().values()
    )
    with pytest.raises(RuntimeError), target._reference.using_base_weights():
        raise RuntimeError
    assert set(target.collect_trained_parameters_by_name()) == wanted


def test_an_adapter_of_the_text_encoder_is_held_too(tuned):
    target, batch = tuned(WEIGHT, WORDS, parts=("text encoder",))
    plain, _ = tuned(parts=("text encoder",))
    assert (target(batch) > plain(batch)).all()


def test_training_moves_other_captions_less(tuned):
    def moved(*settings):
        target, batch = tuned(*settings)
        optimizer = torch.optim.Adam(target.collect_trained_parameters_by_name().values(), lr=1e-2)
        for _ in range(10):
            optimizer.zero_grad()
            target(batch).mean().backward()
            optimizer.step()
        target.config = target.config.model_copy(
            update={"preserve_weight": 1.0, "preserve_words": {"<mug>": "cat"}}
        )
        target._reference = ReferenceModel(target.collect_unet_and_text_encoders(), [])
        with torch.no_grad():
            return target._preservation_losses(batch, target._add_noise(batch)).mean().item()

    assert moved(WEIGHT, WORDS) < 0.5 * moved()


def test_a_run_with_cached_captions_has_the_preserved_ones_too(tmp_path, base, capsys):
    captions = "target.preserve_captions=['a tree', 'a cat']"
    for name, preserved in (("captions", captions), ("words", WORDS)):
        settings = (WEIGHT, preserved, "train.steps=1")
        config = finetune_run(tmp_path / name, base, ("lora",), *settings)
        train_only(config, tmp_path / f"{name}-out")


@pytest.mark.parametrize(
    ("settings", "parts", "message"),
    [
        ((WEIGHT,), ("lora",), "but not what is preserved: give preserve_words"),
        ((WEIGHT, WORDS, "train.compile=true"), ("lora",), "takes what is trained out and puts"),
    ],
)
def test_what_cannot_be_preserved_is_refused(tmp_path, base, settings, parts, message):
    with pytest.raises(ArgumentError, match=re.escape(message)):
        finetune_run(tmp_path, base, parts, *settings)


def test_a_word_that_no_caption_says_is_refused_before_the_run(tmp_path, base):
    words = "target.preserve_words={ '<cup>' = 'cup' }"
    config = finetune_run(tmp_path, base, ("lora",), WEIGHT, words)
    with pytest.raises(
        ArgumentError, match=r"has '<cup>', and no caption says it; the first is 'a <"
    ):
        run_training(config, tmp_path / "out")
