"""Words and phrases to the tokens that stand for them."""

import pytest

from t2i.errors import ArgumentError
from t2i.text.encoders.selection import TwoClip, select_text_encoder
from t2i.text.prompt import Prompt
from t2i.text.word_spans import find_token_spans, find_word_token_positions
from tests.text.tiny_models import MODELS, clip, second_clip
from tests.tiny import WINDOW


@pytest.fixture(scope="module")
def encoder():
    return select_text_encoder(*clip())


@pytest.mark.parametrize(
    ("prompt", "word", "expected"),
    [
        ("a red apple", "red", (2,)),
        ("a red apple", "red apple", (2, 3)),
        ("a red  apple", "red apple", (2, 3)),
        ("a zebra", "zebra", (2, 3, 4, 5, 6)),
        ("a red apple, cat", "apple", (3,)),
        ("a red apple, cat", "apple,", (3, 4)),
        ("a red apple, cat", ",", (4,)),
        ("a Red Apple", "rED", (2,)),
        ("red cat, red dog", "red", (1, 4)),
        ("left of the dog", "of the", (2, 3)),
    ],
)
def test_words_are_found_by_their_letters(encoder, prompt, word, expected):
    assert find_word_token_positions(encoder, prompt, [word]) == {word: expected}


def test_words_are_whole(encoder):
    assert find_token_spans(encoder, "the dogs, dog, dog", ["dog"])["dog"] == ((6,), (8,))
    with pytest.raises(ArgumentError, match="'pic' is not in the prompt"):
        find_word_token_positions(encoder, "picture", ["pic"])


def test_repeated_words_are_spans_of_their_own(encoder):
    assert find_token_spans(encoder, "red cat, red dog", ["red", "dog"]) == {
        "red": ((1,), (4,)),
        "dog": ((5,),),
    }


@pytest.mark.parametrize(("which", "expected"), [(0, (1,)), (1, (4,)), (-1, (4,))])
def test_one_of_several_occurrences_can_be_chosen(encoder, which, expected):
    assert find_word_token_positions(encoder, "red cat, red dog", ["red"], which=which) == {
        "red": expected
    }


def test_an_occurrence_that_is_not_there_is_refused(encoder):
    with pytest.raises(ArgumentError, match="which=2, but 'red' stands in the prompt 2 times"):
        find_word_token_positions(encoder, "red cat, red dog", ["red"], which=2)
    with pytest.raises(ArgumentError, match="which=-2, but 'cat' stands in the prompt once"):
        find_word_token_positions(encoder, "red cat, red dog", ["cat"], which=-2)


def test_tokens_count_through_all_windows(encoder):
    prompt = "cat " * 14 + "dog red"
    assert find_word_token_positions(encoder, prompt, ["dog", "red"]) == {
        "dog": (WINDOW + 1,),
        "red": (WINDOW + 2,),
    }
    # A phrase that a cut divides has tokens in both.
    assert find_word_token_positions(encoder, prompt, ["cat dog"])["cat dog"] == (14, WINDOW + 1)


def test_weighted_prompts_are_read_without_their_syntax(encoder):
    prompt = Prompt("a (red:1.3) [cat:dog:0.5] BREAK the (blue) dog")
    first, later = (prompt.texts_at_step(step, 20)[0][0] for step in (0, 19))
    assert find_word_token_positions(encoder, first, ["red cat", "blue", "dog"]) == {
        "red cat": (2, 3),
        "blue": (WINDOW + 2,),
        "dog": (WINDOW + 3,),
    }
    assert find_word_token_positions(encoder, later, ["dog"]) == {"dog": (3, WINDOW + 3)}


@pytest.mark.parametrize("family", MODELS)
def test_every_family_finds_the_tokens_of_a_word(family):
    encoder = select_text_encoder(*MODELS[family]())
    ids = encoder.tokenize(["a red apple, cat"]).ids_RW[0]
    places = find_word_token_positions(encoder, "a red apple, cat", ["apple"])["apple"]
    # Subword signs and spaces apart, the tokens spell the word and no more.
    spelled = "".join(encoder.tokenizer.convert_ids_to_tokens(ids[list(places)].tolist()))
    for sign in ("</w>", "##", "\u2581", "\u0120"):
        spelled = spelled.replace(sign, "")
    assert spelled == "apple"


def test_a_tokenizer_alone_serves_where_its_windows_are_the_models(encoder):
    prompt = "cat " * 14 + "dog"
    assert find_word_token_positions(
        encoder.tokenizer, prompt, ["dog"]
    ) == find_word_token_positions(encoder, prompt, ["dog"])


def test_two_clips_share_their_words():
    both = TwoClip(select_text_encoder(*clip()), select_text_encoder(*second_clip()))
    assert find_word_token_positions(both, "a red cat", ["red"]) == {"red": (2,)}


def test_scripts_without_spaces_have_words_too():
    encoder = select_text_encoder(*MODELS["gpt2"]())
    prompt = "\u4e00\u53ea\u9ed1\u732b"  # "a black cat"
    assert len(find_word_token_positions(encoder, prompt, ["\u732b"])["\u732b"]) == 3  # three bytes
    with pytest.raises(ArgumentError, match="is not in the prompt"):
        find_word_token_positions(encoder, prompt, ["\u72d7"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["bycicle"], "'bycicle' is not in the prompt. Nearest: Bicycle"),
        (["zzz"], "'zzz' is not in the prompt. Its words: a, red, Bicycle, door"),
        ([" "], "' ' where a word"),
        ("red", "string 'red' where a list of words"),
    ],
)
def test_words_that_cannot_be_found_are_refused(encoder, words, message):
    with pytest.raises(ArgumentError, match=message):
        find_word_token_positions(encoder, "a red Bicycle, a red door", words)


def test_an_empty_prompt_has_no_words(encoder):
    with pytest.raises(ArgumentError, match=r"'cat' is not in the prompt. Its words: none"):
        find_word_token_positions(encoder, "", ["cat"])
