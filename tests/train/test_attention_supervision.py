"""Maps of words are pulled towards the masks of their things while a denoiser learns."""

import re
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from t2i.attention.attend import attend
from t2i.errors import ArgumentError
from tests.train.finetunes import finetune_toml
from tests.train.runs import assert_goes_on_bit_for_bit, tiny_run
from train.batches.batch_order import BatchOrder, ProcessShare
from train.batches.micro_batch import iterate_micro_batches_of_steps
from train.cache.caption_encoding import find_caption_token_spans
from train.config.load_config import load_run_config
from train.config.run_config import RunConfig
from train.data.registry import build_dataset
from train.loop import run_training
from train.objective.attention_supervision import (
    AttentionSupervisionConfig,
    compute_mask_cross_entropy,
    compute_squared_outside_mask_loss,
    compute_word_maps,
    resize_masks_to_site,
    select_supervised_words,
)
from train.setup.assembly import assemble_target
from train.targets.denoising import BaseDenoisingTarget

WEIGHT = "target.attention_weight=0.5"
SDPA = functional.scaled_dot_product_attention


def target_of(config: RunConfig, rows: int = 4):
    target = assemble_target(config)[0]
    assert isinstance(target, BaseDenoisingTarget)
    data = build_dataset(config.data)
    order = BatchOrder([range(len(data))], rows, 1)
    return target.train(), next(
        iterate_micro_batches_of_steps(data, order, ProcessShare(), range(1))
    )


@pytest.fixture
def scenes(tmp_path):
    return lambda *settings: target_of(tiny_run(tmp_path, "target.caption_dropout=0", *settings))


def masked_folder(folder, captions, masks):
    (folder / "masks").mkdir(parents=True)
    for number, caption in enumerate(captions):
        Image.new("RGB", (32, 32), (40 * number, 90, 200)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(caption)
        if number in masks:
            pixels = np.zeros((32, 32), dtype=np.uint8)
            pixels[:16] = 255
            Image.fromarray(pixels).save(folder / "masks" / f"{number}.png")
    return folder


def on_pictures(tmp_path, base, folder, *settings, parts=("lora",)):
    path = finetune_toml(tmp_path, base, *parts)
    subset = f'subsets = [{{folder = "{folder}", masks = "{folder / "masks"}"}}]'
    path.write_text(re.sub("folder = .*", subset, path.read_text(), count=1))
    return load_run_config(path, settings)


# The formulas


def test_a_map_inside_its_mask_costs_nothing_and_an_even_one_what_lies_outside():
    mask_1Q = torch.tensor([[1.0, 1.0, 0.0, 0.0]])
    assert (
        compute_squared_outside_mask_loss(torch.tensor([[0.3, 0.2, 0.0, 0.0]]), mask_1Q).item() == 0
    )
    assert compute_squared_outside_mask_loss(
        torch.full((1, 4), 0.1), mask_1Q
    ).item() == pytest.approx(0.25)
    assert compute_mask_cross_entropy(mask_1Q, mask_1Q).item() < 1e-5
    assert compute_mask_cross_entropy(torch.full((1, 4), 0.5), mask_1Q).item() == pytest.approx(
        np.log(2)
    )


def test_a_mask_at_a_site_is_the_area_it_covers_of_each_place():
    mask_1HW = torch.zeros(1, 4, 4)
    mask_1HW[0, :2, :3] = 1
    assert resize_masks_to_site(mask_1HW, (2, 2)).tolist() == [[1.0, 0.5, 0.0, 0.0]]


# What is read


def test_the_maps_are_those_that_a_probe_reads(scenes):
    target, batch = scenes(WEIGHT)
    level = target.objective.noise_level_at_quantile(torch.linspace(0.1, 0.9, 4))
    supervision = target._supervision(batch, batch.captions, level, 32)
    read = []
    supervision.on_attention = lambda probabilities: read.append(
        (probabilities.inputs, probabilities.site.name)
    )
    supervision._losses.append(torch.zeros(1))
    told = target._build_conditioning(batch, batch.captions)
    noisy_BCHW = target._latents(batch)
    with torch.no_grad(), supervision.supervising_pass(target.unet):
        target.unet(noisy_BCHW, level.timestep_B, told.text_BTD)
    with (
        torch.no_grad(),
        attend(target.unet, batch.captions, tokenizer=target.components.tokenizer) as attn,
    ):
        row = int(supervision.words.row_I[0])
        places = tuple(supervision.words.tokens_IT[0].nonzero().flatten().tolist())
        maps = attn.probe(places, prompt=row, convention="mean")
        target.unet(noisy_BCHW, level.timestep_B, told.text_BTD)
    (call, site), *_ = read
    mine_HW = compute_word_maps(call, supervision.words)[0].view(4, 4) / len(places)
    torch.testing.assert_close(mine_HW, maps.site_map(str(places), site), rtol=0, atol=1e-6)


def test_words_and_masks_belong_together(scenes):
    target, batch = scenes(WEIGHT, "data.length=40")
    level = target.objective.noise_level_at_quantile(torch.linspace(0.1, 0.9, 4))
    words = target._supervision(batch, batch.captions, level, 32).words
    ids_BT = target.components.tokenizer(batch.captions, padding="max_length").input_ids
    number = 0
    for row, spans in enumerate(batch.spans):
        for place, (start, end) in enumerate(spans):
            assert words.row_I[number] == row
            tokens = words.tokens_IT[number].nonzero().flatten().tolist()
            said = target.components.tokenizer.decode([ids_BT[row][token] for token in tokens])
            assert said.replace(" ", "") == batch.captions[row][start:end].replace(" ", "")
            assert torch.equal(words.masks_IHW[number].bool(), batch.masks_BKHW[row, place])
            number += 1
    assert number == len(words.row_I)


def test_a_learned_word_of_several_vectors_has_the_maps_of_all_of_them(tmp_path, base):
    folder = masked_folder(tmp_path / "p", ["a <mug> here"], {0})
    config = on_pictures(tmp_path, base, folder, "data.masked_word=<mug>", parts=("words",))
    target = assemble_target(config)[0]
    where = partial(find_caption_token_spans, target.encoder, target.components.tokenizer)
    assert where("a <mug> here", [(2, 7)]) == ((2, 3),)
    assert where("a <mug> here", [(8, 12)])[0][0] == 4


# The loss


def test_the_weight_multiplies_it_and_nothing_else_changes(scenes):
    plain_B = (target := scenes())[0](target[1])
    weighed = {}
    for weight in (0.25, 0.5):
        target, batch = scenes(f"target.attention_weight={weight}")
        weighed[weight] = target(batch)
    assert (weighed[0.5] > plain_B).all()
    torch.testing.assert_close(weighed[0.5] - plain_B, 2 * (weighed[0.25] - plain_B))


def test_rows_without_words_masks_or_the_wanted_noise_have_no_such_term(scenes):
    target, batch = scenes(WEIGHT)
    plain, _ = scenes()
    nothing = replace(batch, spans=[(), *batch.spans[1:]])
    assert target(nothing)[0] == plain(batch)[0]
    empty = batch.masks_BKHW.clone()
    empty[1] = False
    assert target(replace(batch, masks_BKHW=empty))[1] == plain(batch)[1]
    assert torch.equal(target(replace(batch, masks_BKHW=None)), plain(batch))
    high, _ = scenes(WEIGHT, "target.attention_noise=[0.5, 1.0]")
    timestep_B = torch.tensor(
        plain.list_random_values_for_report(batch)["timestep"], dtype=torch.int64
    )
    noisy_B = plain.objective._alpha2_T[timestep_B] < 0.5
    assert 0 < noisy_B.sum() < 4
    assert torch.equal(high(batch) > plain(batch), noisy_B)
    dropped, _ = scenes(WEIGHT, "target.caption_dropout=1")
    assert torch.equal(dropped(batch), scenes("target.caption_dropout=1")[0](batch))


def test_words_beyond_the_text_are_left_out():
    masks_BKHW = torch.ones(2, 1, 4, 4, dtype=torch.bool)
    wanted_B = torch.tensor([True, True])
    found = select_supervised_words([[(31, 32)], [(40,)]], masks_BKHW, wanted_B, 32)
    assert found.row_I.tolist() == [0]
    assert found.tokens_IT.nonzero().tolist() == [[0, 31]]
    assert select_supervised_words([[(40,)], []], masks_BKHW, wanted_B, 32) is None


def test_what_torch_computes_attention_with_is_back_after_each_step(scenes):
    target, batch = scenes(WEIGHT)
    target(batch)
    assert functional.scaled_dot_product_attention is SDPA
    target.unet.conv_out.forward = lambda _: (_ for _ in ()).throw(RuntimeError("broken"))
    with pytest.raises(RuntimeError, match="broken"):
        target(batch)
    assert functional.scaled_dot_product_attention is SDPA


# A run


def test_maps_come_to_lie_inside_their_masks(scenes):
    def after(weight):
        target, batch = scenes(f"target.attention_weight={weight}")
        optimizer = torch.optim.Adam(target.collect_trained_parameters_by_name().values(), lr=1e-2)
        for _ in range(14):
            optimizer.zero_grad()
            target(batch).mean().backward()
            optimizer.step()
        target.supervision = AttentionSupervisionConfig(
            attention_weight=1, attention_pixel_weight=0
        )
        target.objective.losses = lambda *_: torch.zeros(4)
        with torch.no_grad():
            return target(batch).mean().item()

    assert after(2.0) < 0.7 * after(0.0)


def test_a_supervised_run_goes_on_bit_for_bit(tmp_path):
    assert_goes_on_bit_for_bit(tmp_path, WEIGHT)


def test_a_fine_tune_says_which_pictures_are_not_supervised(tmp_path, base, capsys):
    folder = masked_folder(tmp_path / "p", ["a sks mug", "a sks mug", "a mug"], {0, 2})
    config = on_pictures(
        tmp_path,
        base,
        folder,
        WEIGHT,
        "data.masked_word=sks mug",
        "train.steps=2",
        "data.crop=center",
    )
    assert run_training(config, tmp_path / "out")
    said = capsys.readouterr().err
    assert said.count("without a mask, so without attention supervision: 1 of 3 pictures") == 1
    assert "does not say 'sks mug', so without attention supervision there: 1 picture" in said


# Bad input


@pytest.mark.parametrize(
    ("captions", "masks", "word", "message"),
    [
        (["a mug"], {}, "mug", "no picture has a mask: name a folder of them"),
        (["a mug"], {0}, "cup", "no caption of a masked picture says 'cup': set data.masked_word"),
        (["a mug"], {0}, "", "no caption of a masked picture says 'the trigger'"),
    ],
)
def test_a_run_that_could_supervise_nothing_is_refused(
    tmp_path, base, captions, masks, word, message
):
    folder = masked_folder(tmp_path / "p", captions, masks)
    config = on_pictures(tmp_path, base, folder, WEIGHT, f"data.masked_word={word}")
    with pytest.raises(ArgumentError, match=re.escape(message)):
        run_training(config, tmp_path / "out")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("target.gradient_checkpointing=true", "target.gradient_checkpointing = true makes"),
        ("train.compile=true", "train.compile = true makes that pass another"),
        ("target.attention_noise=[0.8, 0.2]", r"expected two shares, such as \[0.0, 0.8\]"),
        ("target.attention_sites='('", "no regular expression"),
    ],
)
def test_what_cannot_be_supervised_is_refused(tmp_path, setting, message):
    with pytest.raises(ArgumentError, match=message):
        tiny_run(tmp_path, WEIGHT, setting)


def test_sites_that_are_not_there_are_refused_with_those_that_are(scenes):
    target, batch = scenes(WEIGHT, "target.attention_sites=up_blocks.9")
    with pytest.raises(ArgumentError, match=r"'up_blocks.9' fits no cross.*down_blocks.0.*attn2"):
        target(batch)
