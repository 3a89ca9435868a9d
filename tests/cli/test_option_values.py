"""Values of options with files and settings are read as they are written, whatever is in them."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from t2i.cli.inspected_words import Retry, format_words, parse_retry, split_words
from t2i.cli.option_parsing.option_values import format_number, quote_part
from t2i.cli.request.control_files import ControlFilesAndSettings, parse_control, parse_controls
from t2i.cli.request.edit_options import (
    RegionBoxOption,
    format_alignment,
    format_region,
    format_word_weight,
    parse_alignment,
    parse_region,
    parse_word_weights,
)
from t2i.cli.request.image_prompt_files import (
    ImagePromptFiles,
    parse_ip_adapter,
    parse_ip_adapters,
)
from t2i.cli.request.input_files import (
    EmbeddingFile,
    InputFile,
    InputFileWithScale,
    parse_embeddings,
    parse_file_with_scale,
    parse_loras,
    split_values,
)
from t2i.cli.request.reference_files import (
    ReferenceFileAndSettings,
    parse_reference,
    parse_references,
)
from t2i.cli.request.upscaling import Upscale, parse_upscale
from t2i.errors import ArgumentError
from tests.cli.hostile_texts import FILES, TEXTS, WINDOWS, WORDS

SCALES = st.floats(-100, 100)
OPTIONAL_FILES = st.none() | FILES
BOXES = st.sampled_from([(0.0, 0.0, 0.5, 1.0), (1 / 3, 0.1, 2 / 3, 0.7000000001)])
HARD = 'a cat, scale=2: "x", steps=0-0.1,prompt=b'


def reads(parse: Callable[[str], Any], value: Any) -> None:
    assert parse(value.option_value) == value, value.option_value


@given(
    st.builds(
        ReferenceFileAndSettings,
        picture=FILES,
        prompt=TEXTS,
        scale=st.floats(0, 100),
        steps=WINDOWS,
    )
)
@example(ReferenceFileAndSettings(picture=InputFile(path="a.png"), prompt=HARD))
@example(ReferenceFileAndSettings(picture=InputFile(path="a:scale=2.png"), prompt='"x"'))
@example(ReferenceFileAndSettings(picture=InputFile(path="none"), scale=0.123456789))
def test_a_reference_is_read_as_it_is_written(value: ReferenceFileAndSettings) -> None:
    reads(parse_reference, value)
    assert parse_references([value.option_value]) == (value,)


@given(
    st.builds(
        ControlFilesAndSettings,
        model=FILES,
        picture=FILES,
        scale=SCALES,
        steps=WINDOWS,
        mode=st.sampled_from(["balanced", "guess"]),
        mask=OPTIONAL_FILES,
        blocks=st.none()
        | st.lists(WORDS.map(lambda word: word.replace("+", "_")), min_size=1).map(tuple),
        type=st.none() | TEXTS,
    )
)
def test_a_control_is_read_as_it_is_written(value: ControlFilesAndSettings) -> None:
    reads(parse_control, value)
    assert parse_controls([value.option_value]) == (value,)


@given(
    st.builds(
        ImagePromptFiles,
        adapter=FILES,
        picture=FILES,
        scale=SCALES | st.sampled_from(["style+layout*0.5", "a,mask=b", '"up"']),
        mask=OPTIONAL_FILES,
    ),
    FILES,
)
def test_an_image_prompt_is_read_as_it_is_written(value: ImagePromptFiles, file: InputFile) -> None:
    reads(parse_ip_adapter, value)
    alone, prompts = parse_ip_adapters([quote_part(file.path), value.option_value])
    assert (alone, prompts) == (file, (value,))


@given(st.builds(InputFileWithScale, path=FILES.map(lambda file: file.path), scale=SCALES))
def test_a_lora_is_read_as_it_is_written(value: InputFileWithScale) -> None:
    reads(parse_file_with_scale, value)
    assert parse_loras([value.option_value]) == (value,)


@given(
    st.builds(
        EmbeddingFile,
        path=FILES.map(lambda file: file.path),
        token=st.none() | WORDS.map(lambda word: "".join(word.split()) or "<sun>"),
    )
)
@example(EmbeddingFile(path="none"))
@example(EmbeddingFile(path="a:b", token="sun/hat"))
def test_a_learned_word_is_read_as_it_is_written(value: EmbeddingFile) -> None:
    assert parse_embeddings([value.option_value]) == (value,)


@given(WORDS.filter(str.strip), BOXES)
def test_a_region_is_read_as_it_is_written(words: str, box: tuple[float, ...]) -> None:
    region = RegionBoxOption(words=words, box=box)  # type: ignore[arg-type]
    assert parse_region(format_region(region)) == region


@given(st.dictionaries(WORDS, st.floats(-1e9, 1e9)))
def test_weights_are_read_as_they_are_written(weights: dict[str, float]) -> None:
    assert parse_word_weights([format_word_weight(*one) for one in weights.items()]) == weights


@given(st.dictionaries(WORDS, st.none() | WORDS, min_size=1))
def test_an_alignment_is_read_as_it_is_written(alignment: dict[str, str | None]) -> None:
    meant = {word: "new#1" if origin == "new" else origin for word, origin in alignment.items()}
    assert parse_alignment([format_alignment(alignment)]) == meant


@given(st.lists(WORDS, min_size=1, unique=True), st.integers(1, 100))
def test_words_are_read_as_they_are_written(words: list[str], num: int) -> None:
    assert split_words([format_words(words)]) == words
    reads(parse_retry, Retry(num=num, words=tuple(words)))


@given(st.floats(1.01, 4), st.floats(0.001, 1))
def test_an_upscaling_is_read_as_it_is_written(factor: float, strength: float) -> None:
    reads(parse_upscale, Upscale(factor=factor, strength=strength))


@given(st.lists(WORDS, min_size=1))
def test_a_cell_of_several_values_is_split_outside_quotes(words: list[str]) -> None:
    assert split_values("; ".join(map(quote_part, words))) == [*map(quote_part, words)]


@given(st.floats(allow_nan=False))
@settings(max_examples=300)
def test_a_number_is_read_as_it_is_written(value: float) -> None:
    text = format_number(value)
    assert float(text) == value
    assert "e" not in text


def test_what_needs_no_quotes_has_none_and_typed_commas_are_of_the_prompt() -> None:
    plain = "a.png:scale=1,steps=0-1,prompt=a red cat"
    assert parse_reference(plain).option_value == plain
    typed = parse_reference('a.png:prompt=a sign: "stop", red, scale=2')
    assert (typed.prompt, typed.scale) == ('a sign: "stop", red', 2)
    assert parse_file_with_scale("C:/my loras/a.safetensors") == InputFileWithScale(
        path="C:/my loras/a.safetensors"
    )


@pytest.mark.parametrize(
    ("parse", "text", "words"),
    [
        (parse_reference, 'a.png:prompt="stop" it says', "--reference with '\"stop\" it says': a"),
        (parse_reference, '"a.png', "--reference with '\"a.png': a text that begins"),
        (parse_control, 'net:"edges.png', "--control with '\"edges.png': a text that begins"),
        (parse_region, '"cat:0,0,1,1', "--region with '\"cat': a text that begins"),
    ],
)
def test_a_quoted_text_without_an_end_is_named(
    parse: Callable[[str], object], text: str, words: str
) -> None:
    with pytest.raises(ArgumentError, match=re.escape(words)):
        parse(text)
