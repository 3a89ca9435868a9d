"""Kept outputs of text models: found again for equal windows and an unchanged model only."""

import copy
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from t2i.adapters import Lora, LowRankUpdate, add_lora, remove_lora
from t2i.text.encoders.clip import Clip
from t2i.text.encoders.output_cache import (
    TextOutputCache,
    get_text_output_cache,
    keeping_text_outputs,
)
from t2i.text.encoders.selection import TwoClip, select_text_encoder
from t2i.text.encoders.two_clip import PenultimateClip
from t2i.text.prompt import Prompt
from tests.text.tiny_models import clip, second_clip
from tests.tiny import TEXT_WIDTH

PROMPTS = ["a red apple", "", "cat to the left of dog"]


@pytest.fixture
def encoder() -> Clip:
    tokenizer, model = clip()
    made = select_text_encoder(tokenizer, copy.deepcopy(model))
    assert isinstance(made, Clip)
    return made


@pytest.fixture
def cache() -> Iterator[TextOutputCache]:
    made = TextOutputCache()
    with keeping_text_outputs(made), torch.no_grad():
        yield made


@contextmanager
def counting(cache: TextOutputCache, hits: int, misses: int) -> Iterator[None]:
    before = (cache.hits, cache.misses)
    yield
    assert (cache.hits - before[0], cache.misses - before[1]) == (hits, misses)


def plain(encoder: Any, prompts: list[Any], **options: Any) -> Tensor:
    """The embeddings without the cache."""
    with keeping_text_outputs(TextOutputCache(0)), torch.no_grad():
        return encoder.encode(prompts, **options).text_BTD


def test_what_was_encoded_is_found_again_bit_for_bit(encoder: Clip, cache: TextOutputCache) -> None:
    with counting(cache, 0, 3):
        first = [encoder.encode([prompt]) for prompt in PROMPTS]
    with counting(cache, 3, 0):
        again = [encoder.encode([prompt]) for prompt in PROMPTS]
    for one, other, prompt in zip(first, again, PROMPTS, strict=True):
        assert torch.equal(one.text_BTD, other.text_BTD)
        assert torch.equal(one.text_BTD, plain(encoder, [prompt]))
    # What a caller does to it stays with the caller.
    again[0].text_BTD.zero_()
    first[0].text_BTD.zero_()
    assert torch.equal(encoder.encode(PROMPTS[:1]).text_BTD, plain(encoder, PROMPTS[:1]))


def test_weights_of_words_are_of_the_prompt_and_not_of_the_output(
    encoder: Clip, cache: TextOutputCache
) -> None:
    (weighted,) = [text for text, _ in Prompt("a (red:1.5) apple").texts_at_step(0, 1)]
    encoder.encode(["a red apple"])
    with counting(cache, 1, 0):
        found = encoder.encode([weighted]).text_BTD
    assert torch.equal(found, plain(encoder, [weighted]))
    assert not torch.equal(found, plain(encoder, ["a red apple"]))


def test_another_batch_layer_or_encoder_is_another_output(
    encoder: Clip, cache: TextOutputCache
) -> None:
    other = PenultimateClip(encoder.tokenizer, encoder.model)
    copied = Clip(encoder.tokenizer, copy.deepcopy(encoder.model))
    with counting(cache, 0, 5):
        encoder.encode(["a red apple"])
        encoder.encode(["a red apple", ""])
        encoder.encode(["a red apple"], clip_skip=1)
        other.encode(["a red apple"])
        copied.encode(["a red apple"])
    with counting(cache, 1, 0):  # the second window, which fills the row up, is an empty prompt
        encoder.encode(["a red apple"], chunks=2)


def test_both_encoders_of_sdxl_are_kept(cache: TextOutputCache) -> None:
    both = TwoClip(select_text_encoder(*clip()), select_text_encoder(*second_clip()))
    with counting(cache, 0, 2):
        first = both.encode(["a red apple"])
    with counting(cache, 2, 0):
        again = both.encode(["a red apple"])
    assert torch.equal(first.text_BTD, again.text_BTD)
    assert first.pooled_BD is not None
    assert again.pooled_BD is not None
    assert torch.equal(first.pooled_BD, again.pooled_BD)


def make_lora(model: nn.Module, seed: int) -> Lora:
    generator = torch.Generator().manual_seed(seed)
    (name,) = (n for n, _ in model.named_modules() if n.endswith("layers.0.self_attn.v_proj"))
    down, up = (
        torch.randn(2, TEXT_WIDTH, generator=generator),
        torch.randn(TEXT_WIDTH, 2, generator=generator),
    )
    return Lora({"text_encoder": {name: LowRankUpdate(down=down, up=up, alpha=2.0)}})


def test_loras_are_told_apart_also_where_one_takes_the_place_of_another(
    encoder: Clip, cache: TextOutputCache
) -> None:
    models = {"text_encoder": encoder.model}
    base = encoder.encode(["a red apple"]).text_BTD
    seen: list[Tensor] = []
    for seed in range(4):
        add_lora(models, make_lora(encoder.model, seed), "mine", 0.5)
        with counting(cache, 1, 1):
            found = [encoder.encode(["a red apple"]).text_BTD for _ in range(2)]
        assert torch.equal(*found)
        assert torch.equal(found[0], plain(encoder, ["a red apple"]))
        assert not any(torch.equal(found[0], one) for one in [base, *seen])
        seen.append(found[0])
        remove_lora(models.values(), "mine")
        gc.collect()  # the next one's tensors may lie where these did
    assert torch.equal(encoder.encode(["a red apple"]).text_BTD, base)


def test_the_scale_of_a_lora_counts(encoder: Clip, cache: TextOutputCache) -> None:
    add_lora({"text_encoder": encoder.model}, make_lora(encoder.model, 0), "mine", 0.5)
    encoder.encode(["a red apple"])
    for module in encoder.model.modules():
        if isinstance(getattr(module, "scaling", None), dict):
            module.set_scale("mine", 0.25)  # type: ignore[operator]
    with counting(cache, 0, 1):
        found = encoder.encode(["a red apple"]).text_BTD
    assert torch.equal(found, plain(encoder, ["a red apple"]))


def change_in_place(model: Any) -> None:
    next(iter(model.parameters())).add_(0.5)


def load_other_weights(model: Any) -> None:
    model.load_state_dict({name: value * 1.1 for name, value in model.state_dict().items()})


def replace_the_table(model: Any) -> None:
    table = model.get_input_embeddings()
    other = nn.Embedding(*table.weight.shape)
    other.weight = nn.Parameter(table.weight * 2, requires_grad=False)
    model.set_input_embeddings(other.eval())


@pytest.mark.parametrize("change", [change_in_place, load_other_weights, replace_the_table])
def test_a_changed_model_is_run_again(encoder: Clip, cache: TextOutputCache, change: Any) -> None:
    before = encoder.encode(["a red apple"]).text_BTD
    change(encoder.model)
    with counting(cache, 0, 1):
        found = encoder.encode(["a red apple"]).text_BTD
    assert not torch.equal(found, before)
    assert torch.equal(found, plain(encoder, ["a red apple"]))


def test_a_learned_word_in_the_place_of_another_is_another_word(
    encoder: Clip, cache: TextOutputCache
) -> None:
    table = encoder.model.get_input_embeddings().weight
    for seed in range(2):
        (number,) = encoder.tokenizer("apple", add_special_tokens=False).input_ids
        word = torch.randn(TEXT_WIDTH, generator=torch.Generator().manual_seed(seed))
        table.data[number] = word  # as diffusers' load_textual_inversion does
        with counting(cache, 0, 1):
            found = encoder.encode(["a red apple"]).text_BTD
        assert torch.equal(found, plain(encoder, ["a red apple"]))
        with counting(cache, int(seed > 0), int(seed == 0)):
            encoder.encode(["a cat"])  # has no such word


def test_a_table_that_comes_back_is_known_again(encoder: Clip, cache: TextOutputCache) -> None:
    table = encoder.model.get_input_embeddings()
    encoder.encode(["a red apple"])
    replace_the_table(encoder.model)
    encoder.encode(["a red apple"])
    encoder.model.set_input_embeddings(table)
    with counting(cache, 1, 0):
        encoder.encode(["a red apple"])


def test_what_trains_or_listens_runs_the_model(encoder: Clip, cache: TextOutputCache) -> None:
    encoder.encode(["a red apple"])
    heard: list[object] = []
    inner = next(m for n, m in encoder.model.named_modules() if n.endswith("layers.0"))
    with counting(cache, 0, 0):
        hook = inner.register_forward_hook(lambda *_: heard.append(1))
        encoder.encode(["a red apple"])
        assert heard == [1]
        hook.remove()
        hook = nn.modules.module.register_module_forward_hook(lambda *_: heard.append(1))
        encoder.encode(["a red apple"])
        assert len(heard) > 2
        hook.remove()
        run = encoder.model.forward
        encoder.model.forward = lambda *a, **b: run(*a, **b)  # type: ignore[method-assign]
        encoder.encode(["a red apple"])
        del encoder.model.forward
        encoder.model.train()
        encoder.encode(["a red apple"])
        encoder.model.eval()
        with torch.enable_grad():
            assert encoder.encode(["a red apple"]).text_BTD.requires_grad
    with counting(cache, 1, 0):
        encoder.encode(["a red apple"])


def test_a_table_that_computes_its_rows_is_always_run(
    encoder: Clip, cache: TextOutputCache
) -> None:
    encoder.model.set_input_embeddings(nn.Sequential(encoder.model.get_input_embeddings()).eval())
    with counting(cache, 0, 0):
        found = [encoder.encode(["a red apple"]).text_BTD for _ in range(2)]
    assert torch.equal(*found)


def test_the_output_used_least_recently_goes_first_and_the_budget_holds(encoder: Clip) -> None:
    one = plain(encoder, ["a"]).nbytes
    cache = TextOutputCache(2 * one)
    with keeping_text_outputs(cache), torch.no_grad():
        for prompt in ("a", "red", "a", "apple"):
            encoder.encode([prompt])
        assert cache.num_bytes == 2 * one
        with counting(cache, 2, 0):
            encoder.encode(["a"])
            encoder.encode(["apple"])
        with counting(cache, 0, 2):
            encoder.encode(["red"])
            encoder.encode(["a", "red", "apple"])  # larger than all of it
        assert cache.num_bytes == 2 * one


def test_no_output_is_kept_outside_of_a_block(encoder: Clip) -> None:
    assert get_text_output_cache() is None
    cache = TextOutputCache()
    with pytest.raises(RuntimeError, match="stop"), keeping_text_outputs(cache):
        raise RuntimeError("stop")
    assert get_text_output_cache() is None
