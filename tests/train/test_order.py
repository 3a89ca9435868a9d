"""Order, slots, learning rate and average: the parts of a run that are functions of the step."""

import math

import pytest
import torch

from t2i.randomness import derive_generator, derive_seed
from train.batches.batch_order import BatchOrder, list_slots_of_micro_batch
from train.optim.ema import EMA, EMAConfig
from train.optim.learning_rate import LearningRateScheduleConfig, compute_learning_rate_factor


def taken(order: BatchOrder, steps: range) -> list[int]:
    return [sample for step in steps for sample in order.list_example_indices(step)]


def test_every_epoch_is_another_permutation_of_all_samples() -> None:
    places = taken(BatchOrder([range(10)], batch_size=4, seed=1), range(15))
    epochs = [places[10 * epoch : 10 * (epoch + 1)] for epoch in range(6)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({*map(tuple, epochs)}) == 6


def test_an_order_that_starts_in_mid_epoch_is_the_same_order() -> None:
    groups = [range(7), range(20, 25), range(40, 41)]
    whole = [BatchOrder(groups, 3, seed=1).list_example_indices(step) for step in range(30)]
    late = BatchOrder(groups, 3, seed=1)
    assert [late.list_example_indices(step) for step in range(17, 30)] == whole[17:]


def test_a_batch_is_of_one_group_and_every_sample_of_a_group_is_shown_equally_often() -> None:
    groups = [list(range(7)), list(range(20, 25)), [40]]
    order = BatchOrder(groups, 3, seed=2)
    assert order.steps_per_epoch == 3 + 2 + 1
    batches = [order.list_example_indices(step) for step in range(6 * 35)]
    assert all(any(set(batch) <= set(group) for group in groups) for batch in batches)
    for group, turns in zip(groups, (3, 2, 1), strict=True):
        shown = [sample for batch in batches for sample in batch if sample in group]
        counts = {shown.count(sample) for sample in group}
        assert len(shown) == 3 * turns * 35
        assert len(counts) == 1
    assert [40, 40, 40] in batches  # smaller than a batch: it repeats
    assert all(len({*batch}) == 3 for batch in batches[:6] if 40 not in batch and 20 not in batch)


def test_the_groups_take_turns_in_another_order_every_round() -> None:
    order = BatchOrder([range(30), range(100, 130)], 3, seed=3)
    rounds = [
        tuple(
            order.list_example_indices(step)[0] < 100
            for step in range(20 * number, 20 * (number + 1))
        )
        for number in range(4)
    ]
    assert all(sum(turns) == 10 for turns in rounds)
    assert len({*rounds}) == 4


@pytest.mark.parametrize(("ranks", "parts"), [(1, 1), (2, 1), (1, 4), (2, 2), (3, 2)])
def test_ranks_and_parts_fill_every_slot_once(ranks: int, parts: int) -> None:
    filled = [
        slot
        for rank in range(ranks)
        for part in range(parts)
        for slot in list_slots_of_micro_batch(rank, part, batch_size=12, ranks=ranks, parts=parts)
    ]
    assert sorted(filled) == list(range(12))


def test_randomness_is_a_function_of_its_purpose() -> None:
    draw = torch.randn(4, generator=derive_generator(1, 2, 3, "noise"))
    assert torch.equal(draw, torch.randn(4, generator=derive_generator(1, 2, 3, "noise")))
    others = [
        derive_seed(1, 2, 3, "time"),
        derive_seed(1, 2, 4, "noise"),
        derive_seed(1, 23, "noise"),
        derive_seed(12, 3, "noise"),
    ]
    assert len({derive_seed(1, 2, 3, "noise"), *others}) == 5


def test_rate_rises_linearly_then_falls_as_told() -> None:
    config = LearningRateScheduleConfig(warmup=3, decay="linear", decay_share=0.5, floor=0.2)
    values = [compute_learning_rate_factor(step, 10, config) for step in range(11)]
    assert values[:5] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])
    assert values[5:] == pytest.approx([1 - 0.8 * i / 5 for i in range(6)])


def test_cosine_rate_is_half_way_in_the_middle_and_ends_at_its_floor() -> None:
    config = LearningRateScheduleConfig(decay="cosine")
    assert compute_learning_rate_factor(50, 100, config) == pytest.approx(0.5)
    assert compute_learning_rate_factor(25, 100, config) == pytest.approx(
        0.5 + 0.5 * math.cos(math.pi / 4)
    )
    assert compute_learning_rate_factor(100, 100, config) == pytest.approx(0.0, abs=1e-12)


def test_average_follows_its_closed_form_from_the_first_step() -> None:
    weights = {"w": torch.zeros(3)}
    ema = EMA(weights, EMAConfig(decay=0.9))
    expected = torch.zeros(3)
    for step in range(1, 6):
        weights["w"] = torch.full((3,), float(step))
        ema.update(weights, step)
        expected = 0.9 * expected + 0.1 * step
    torch.testing.assert_close(ema.averaged_weights["w"], expected)


def test_warmup_of_the_average_is_asked_for_and_explicit() -> None:
    ema = EMA({"w": torch.zeros(1)}, EMAConfig(decay=0.99, warmup=True))
    assert [ema.compute_exponential_decay(step) for step in (0, 10, 10_000)] == pytest.approx(
        [0.1, 11 / 20, 0.99]
    )


def test_average_in_place_of_the_weights_gives_the_same_weights_back() -> None:
    parameter = torch.nn.Parameter(torch.randn(5))
    before, ema = parameter.detach().clone(), EMA({"w": torch.ones(5)}, EMAConfig())
    with ema.using_averaged_weights({"w": parameter}):
        assert torch.equal(parameter, torch.ones(5))
    assert torch.equal(parameter, before)
