"""Words that are several tokens to the model, as textual inversion learns them."""

import pytest
import torch

from pipelines.text_to_image import TextToImagePipeline
from t2i.attention import attend
from t2i.errors import ArgumentError
from t2i.text.prompt import Prompt
from tests.tiny import diffusers_pipeline, tiny_sd_components

KEYS = 16
PROMPT = "a <toy> left of the sks apple"
PLACES = {"<toy>": (2, 3, 4), "sks": (8, 9), "<toy> left": (2, 3, 4, 5), "apple": (10,)}
"""Along the tokens, behind the one that begins the text: the words become three, and two."""
TOKENS = ["<toy>", "<toy>_1", "<toy>_2", "sks", "sks_1"]


def ours():
    pipe = TextToImagePipeline(**tiny_sd_components(window=KEYS))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def theirs():
    return diffusers_pipeline(tiny_sd_components(window=KEYS))


@pytest.fixture(params=[ours, theirs])
def pipe(request):
    return taught(request.param())


def taught(pipe):
    pipe.tokenizer.add_tokens(TOKENS)
    pipe.text_encoder.resize_token_embeddings(len(pipe.tokenizer))
    return pipe


def draw(pipe, prompt=PROMPT):
    pipe(prompt, num_inference_steps=2, generator=torch.Generator().manual_seed(1))


def session(pipe, prompt=PROMPT):
    return attend(pipe, None if isinstance(pipe, TextToImagePipeline) else [prompt])


def test_a_learned_word_is_all_of_its_tokens_and_moves_those_behind_it(pipe):
    with session(pipe) as attn:
        by_word = attn.probe(*PLACES)
        by_place = attn.probe(*PLACES.values())
        draw(pipe)
    for word, places in PLACES.items():
        assert torch.equal(by_word[word], by_place[str(places)]), word


def test_a_learned_word_that_is_not_there_is_named_as_it_was_asked_for(pipe):
    def look() -> None:
        with session(pipe, "a cat") as attn:
            attn.probe("<toy>")
            draw(pipe, "a cat")

    with pytest.raises(ArgumentError, match=r"^'<toy>' is not in the prompt. Its words: a, cat"):
        look()


def test_a_learned_word_is_found_in_a_prompt_with_weights():
    pipe = taught(ours())
    with attend(pipe) as attn:
        by_word = attn.probe("<toy>", "apple")
        by_place = attn.probe((2, 3, 4), (5,))
        draw(pipe, Prompt("a (<toy>:1.3) apple"))
    assert torch.equal(by_word["<toy>"], by_place["(2, 3, 4)"])
    assert torch.equal(by_word["apple"], by_place["(5,)"])
