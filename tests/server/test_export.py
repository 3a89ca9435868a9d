"""The command of any request does what the request asks for, whatever its texts and names are."""

import dataclasses
import shlex
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.main import get_command

import t2i.cli
from t2i.cli.inspected_words import split_words
from t2i.cli.request.control_files import ControlFilesAndSettings, parse_controls
from t2i.cli.request.edit_options import EditOptions, RegionBoxOption, parse_region
from t2i.cli.request.input_files import (
    EmbeddingFile,
    InputFile,
    InputFileWithScale,
    parse_embeddings,
    parse_loras,
)
from t2i.cli.request.reference_files import ReferenceFileAndSettings, parse_references
from t2i.server.api.export import format_command
from t2i.server.catalogue import Catalogue, build_catalogue
from t2i.server.jobs.job_request import (
    AdapterChoice,
    ControlChoice,
    EditRequest,
    EmbeddingChoice,
    GenerateRequest,
    InspectRequest,
    ReferenceChoice,
    RegionChoice,
)
from t2i.server.settings import ServerSettings
from tests.cli.hostile_texts import TEXTS, WINDOWS, WORDS

UPLOAD, OTHER = "A" * 22, "B" * 22
BOX = (0.0, 0.1, 1 / 3, 0.7000000001)
PATHS = WORDS.map(lambda text: Path("/files") / text.lstrip("/"))


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    return build_catalogue(ServerSettings(folder=tmp_path_factory.mktemp("server")))


def read_command(command: str) -> dict[str, Any]:
    """Return what t2i takes from a command line that is typed into a shell."""
    program, name, *words = shlex.split(command)
    assert program == "t2i"
    found: Any = get_command(t2i.cli.app)
    return dict(found.commands[name].make_context(name, words).params)


@given(
    negative=TEXTS,
    lora=st.tuples(PATHS, st.floats(-100, 100)),
    word=st.tuples(PATHS, st.none() | WORDS.map(lambda word: "".join(word.split()) or "<sun>")),
    reference=st.builds(
        ReferenceChoice,
        image=st.just(UPLOAD),
        prompt=TEXTS,
        scale=st.floats(0, 100),
        steps=WINDOWS,
    ),
    network=PATHS,
    control=st.builds(
        ControlChoice,
        name=st.just("net"),
        image=st.just(UPLOAD),
        mask=st.none() | st.just(OTHER),
        scale=st.floats(-100, 100),
        steps=WINDOWS,
        type=st.none() | TEXTS.map(lambda text: text[:50]),
    ),
    words=WORDS.filter(str.strip),
)
@settings(max_examples=60)
def test_a_picture_of_a_command_is_that_of_the_request(
    catalogue: Catalogue,
    negative: str,
    lora: tuple[Path, float],
    word: tuple[Path, str | None],
    reference: ReferenceChoice,
    network: Path,
    control: ControlChoice,
    words: str,
) -> None:
    listed = dataclasses.replace(
        catalogue, loras={"l": lora[0]}, embeddings={"e": word[0]}, controls={"net": network}
    )
    body = GenerateRequest(
        prompt="a cat",
        negative_prompt=negative,
        loras=[AdapterChoice(name="l", scale=lora[1])],
        embeddings=[EmbeddingChoice(name="e", token=word[1])],
        controls=[control],
        reference=reference,
        regions=[RegionChoice(words=words, box=BOX)],
    )
    typed = read_command(format_command(body, listed))
    assert typed["prompt"] == "a cat"
    assert (typed["negative"] or "") == negative
    assert parse_loras(typed["lora"]) == (InputFileWithScale(path=str(lora[0]), scale=lora[1]),)
    assert parse_embeddings(typed["embedding"]) == (
        EmbeddingFile(path=str(word[0]), token=word[1]),
    )
    assert parse_references(typed["reference"]) == (
        ReferenceFileAndSettings(
            picture=InputFile(path="reference.png"),
            prompt=reference.prompt,
            scale=reference.scale,
            steps=reference.steps,
        ),
    )
    assert parse_controls(typed["control"]) == (
        ControlFilesAndSettings(
            model=InputFile(path=str(network)),
            picture=InputFile(path="hint.png"),
            scale=control.scale,
            steps=control.steps,
            mask=None if control.mask is None else InputFile(path="mask.png"),
            type=None if control.type is None else str(control.type),
        ),
    )
    assert [parse_region(text) for text in typed["region"]] == [
        RegionBoxOption(words=words, box=BOX)
    ]


@given(
    weights=st.dictionaries(WORDS, st.floats(-1e6, 1e6), max_size=3),
    alignment=st.dictionaries(WORDS, st.none() | WORDS, max_size=3),
    window=WINDOWS,
)
@settings(max_examples=60)
def test_an_edit_of_a_command_is_that_of_the_request(
    catalogue: Catalogue,
    weights: dict[str, float],
    alignment: dict[str, str | None],
    window: tuple[float, float],
) -> None:
    body = EditRequest(
        source_prompt="a cat",
        targets=["a dog"],
        weights=weights,
        alignment=alignment,
        cross_replace=window,
    )
    typed = read_command(format_command(body, catalogue))
    read = EditOptions.parse(
        typed["weight"] or (), "auto", typed["cross_replace"], None, typed["align"] or ()
    )
    assert read.weights == weights
    assert read.windows == {"cross_replace": window}
    new = {word: "new#1" if origin == "new" else origin for word, origin in alignment.items()}
    assert read.alignment == new


@given(words=st.lists(WORDS, min_size=1, max_size=4, unique=True))
@settings(max_examples=60)
def test_words_of_a_command_are_those_of_the_request(
    catalogue: Catalogue, words: list[str]
) -> None:
    typed = read_command(format_command(InspectRequest(prompt="a cat", words=words), catalogue))
    assert split_words(typed["words"]) == words
