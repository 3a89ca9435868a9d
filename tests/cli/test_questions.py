"""Prompts that may not be meant are asked about, on stderr and in JSON, and drawn all the same."""

import json
import re
import tomllib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from t2i.cli.prompt_checks.caption_vocabulary import (
    WORD_PATTERN,
    CaptionVocabulary,
    read_caption_vocabulary,
)
from t2i.cli.prompt_checks.prompt_checks import find_prompt_warnings, find_prompts_file_warnings
from t2i.cli.request.digests import compute_model_digest
from t2i.cli.request.input_files import EmbeddingFile, InputFileWithScale
from t2i.cli.request.request import Request
from t2i.denoiser.loading.model_location import EMBEDDED_MODELS, MODEL_NOTES_FILE
from t2i.errors import ModelError
from t2i.scenes.caption_vocabulary import list_caption_vocabulary_by_category
from t2i.scenes.scenes import SceneDataset, SceneDatasetConfig
from t2i.text.prompt import Prompt
from tests.cli.command import Cli
from train.config.run_config import RunConfig
from train.model_notes import build_model_notes

EMBEDDED_FOLDER = EMBEDDED_MODELS["embedded"]
KNOWN = read_caption_vocabulary(EMBEDDED_FOLDER)


def asked(*prompts: str, **options: object) -> list[str]:
    request = Request(prompt=prompts[0], **{"grammar": "a1111", **options})
    return find_prompt_warnings(request, prompts, "embedded", KNOWN)


@pytest.mark.parametrize(
    "config",
    [
        SceneDatasetConfig(vocabulary=("apple", "cat", "dog", "fish", "star"), max_objects=2),
        SceneDatasetConfig(vocabulary="core", max_objects=3),
        SceneDatasetConfig(vocabulary="all", max_objects=3, stated=0, repainted=0),
        SceneDatasetConfig(vocabulary=("apple", "cat"), max_objects=1),
    ],
    ids=["two", "three", "plain", "one"],
)
def test_what_scenes_can_say_is_what_their_captions_say(config: SceneDatasetConfig) -> None:
    known = CaptionVocabulary(list_caption_vocabulary_by_category(config))
    scenes = SceneDataset(config)
    captions = [scenes.compose_layout(index).caption.text for index in range(3000)]
    assert known.find_unknown_words_with_suggestions(captions) == {}
    if config.vocabulary != "all":  # its rarest words need more captions
        said = {word for caption in captions for word in WORD_PATTERN.findall(caption)}
        assert {*known.words_by_kind["words"]} == said


def test_the_embedded_model_knows_what_it_was_shown() -> None:
    known = read_caption_vocabulary(EMBEDDED_FOLDER)
    assert known is not None
    assert len(known.words_by_kind["objects"]) == 16
    asked_in_card = json.loads((EMBEDDED_FOLDER / MODEL_NOTES_FILE).read_text())["trained"][
        "config"
    ]["samples"]
    assert known.find_unknown_words_with_suggestions(asked_in_card["prompts"]) == {}


def embedded_recipe() -> RunConfig:
    recipe = Path(__file__).parents[2] / "configs/train/embedded.toml"
    return RunConfig.model_validate(tomllib.loads(recipe.read_text()))


def test_a_model_of_scenes_records_what_it_knows_and_another_one_nothing(tmp_path: Path) -> None:
    config = embedded_recipe()
    notes = build_model_notes(config, 1)
    assert len(notes["knows"]["objects"]) == 16
    (tmp_path / MODEL_NOTES_FILE).write_text(json.dumps(notes))
    assert read_caption_vocabulary(tmp_path) == CaptionVocabulary(notes["knows"])
    (tmp_path / MODEL_NOTES_FILE).write_text(json.dumps({"defaults": {"steps": 4}}))
    assert read_caption_vocabulary(tmp_path) is None
    (tmp_path / MODEL_NOTES_FILE).write_text('{"knows": {"words": ["zun"]}}')
    known = read_caption_vocabulary(tmp_path)
    assert known is not None
    assert known.find_unknown_words_with_suggestions(["a Zun"]) == {"a": None}
    (tmp_path / MODEL_NOTES_FILE).write_text('{"knows": {"words": "zun"}}')
    with pytest.raises(ModelError, match=r"t2i\.json: knows\.words: .*array.*Expected .*mend the"):
        read_caption_vocabulary(tmp_path)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a yelow bananna", '"yelow" (did you mean "yellow"?), "bananna" (did you mean "banana"?)'),
        ("A Red APPLE, on a blue background.", None),
        ("a zebra", '"zebra",'),
        ("a lion", '"lion",'),
        ("3 apples", '"3", "apples" (did you mean "apple"?)'),
        ("a (red:1.3) [apple:(zebra:1.2):0.5]", '"zebra",'),
        ("[cat|dog|unicorn] BREAK a star AND a (heart:0.4) :0.5", '"unicorn",'),
        (r"a \(red\) apple", None),
        ("(un:1.2)usual", '"unusual",'),
        ("a " + " ".join(f"word{n}" for n in range(14)), "2 more"),
    ],
)
def test_words_that_the_model_was_not_shown_are_named_with_the_nearest(
    prompt: str, expected: str | None
) -> None:
    found = asked(prompt)
    if expected is None:
        assert found == []
    else:
        (said,) = found
        assert expected in said
        assert said.startswith("The model embedded was not trained on ")
        assert said.endswith("Its vocabulary: t2i models embedded")


def test_syntax_is_no_syntax_where_the_grammar_is_plain() -> None:
    (said,) = asked("a (red:1.3) cat", grammar="plain")
    assert '"1", "3"' in said


def test_the_negative_prompt_is_asked_about_too() -> None:
    assert asked("a cat", negative_prompt="a zebra")[0].startswith("Negative prompt: The model")
    assert asked("a cat", "a cat and a dog") == []
    assert len(asked("a zebra", "a zebra")) == 1


def test_learned_words_are_known_by_whatever_names_them(tmp_path: Path) -> None:
    save_file({"<zun>": torch.zeros(1, 4)}, tmp_path / "a.safetensors")
    save_file({"emb_params": torch.zeros(1, 4)}, tmp_path / "wug.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"\xff" * 20)
    files = (
        EmbeddingFile(path=str(tmp_path / "a.safetensors")),
        EmbeddingFile(path=str(tmp_path / "a.safetensors"), token="<sun>"),
        EmbeddingFile(path=str(tmp_path / "wug.safetensors")),
        EmbeddingFile(path=str(tmp_path / "broken.safetensors")),
    )
    assert asked("a <zun> cat and a <sun> wug, broken", embeddings=files) == []
    (said,) = asked("a <zun> zunflower", embeddings=files)
    assert '"zunflower" (did you mean "sunflower"?)' in said


def test_with_a_lora_no_word_is_asked_about_for_it_may_have_taught_it() -> None:
    assert asked("a sks cat", loras=(InputFileWithScale(path="sks.safetensors"),)) == []


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("apple.png", '`t2i generate "a red apple" --image apple.png`'),
        ("prompts.txt", "Did you mean `t2i generate --prompts prompts.txt`?"),
        ("cat", "Did you mean what is in it"),
    ],
)
def test_a_prompt_that_is_a_file_is_asked_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, hint: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert not any("is a file" in said for said in asked(name))
    Path(name).touch()
    (said,) = asked(name)
    assert said.startswith(f"The prompt {name!r} is a file, and only its name is read.")
    assert hint in said
    Path("house").mkdir()
    assert asked("house") == []


@pytest.mark.parametrize("prompt", ["(a red BREAK apple:1.3)", "[a BREAK cat] BREAK a dog"])
def test_a_break_that_is_a_word_is_asked_about(prompt: str) -> None:
    (said,) = asked(prompt)
    assert said.startswith("BREAK within weighted brackets is an ordinary word")
    assert asked("a red apple BREAK (a cat:1.2)") == []


@pytest.mark.parametrize("prompt", ["", "  \n"])
def test_an_empty_prompt_is_asked_about(prompt: str) -> None:
    (said,) = asked(prompt)
    assert said.startswith("The prompt is empty: was that meant?")


@pytest.mark.parametrize("prompt", ["a" * 5000, "a\0b", "~nobody/x"])
def test_no_prompt_breaks_the_questions(prompt: str, tmp_path: Path) -> None:
    assert all("is a file" not in said for said in asked(prompt, grammar="plain"))


def test_a_model_that_says_nothing_is_asked_nothing() -> None:
    request = Request(prompt="a zebra", grammar="a1111")
    assert find_prompt_warnings(request, ["a zebra"], "other", None) == []


def test_lines_of_a_file_are_asked_about_by_number_and_not_without_end() -> None:
    requests = [(n, Request(prompt=f"a wug{n}", grammar="a1111")) for n in range(1, 31)]
    found = find_prompts_file_warnings(Path("p.txt"), requests, "embedded", KNOWN)
    assert len(found) == 21
    assert found[0].startswith('p.txt:1: The model embedded was not trained on "wug1"')
    assert found[-1] == "p.txt: the same holds for 10 more prompts."


def test_generate_inspect_edit_and_bulk_say_it_on_stderr_and_in_json(cli: Cli) -> None:
    asks = 'was not trained on "yelow" (did you mean "yellow"?)'
    options = ("--steps", "2", "--size", "64", "--seed", "1")
    Path("two.txt").write_text("a red apple\na yelow star\n")
    for words in (
        ("generate", "a yelow star"),
        ("inspect", "a yelow star"),
        ("edit", "a star", "a yelow star"),
        ("generate", "--prompts", "two.txt"),
    ):
        done = cli(*words, *options, "--format", "json")
        assert done.code == 0, done.err
        assert [said for said in done.json()["warnings"] if asks in said], words
        assert f"Warning: {'two.txt:2: ' * ('--prompts' in words)}The model embedded" in done.err
    done = cli("generate", "a red apple", *options, "--format", "json")
    assert done.json()["warnings"] == []
    assert "Warning" not in done.err


def test_every_stretch_that_a_prompt_says_at_some_step_is_in_ever() -> None:
    prompt = Prompt("a [cat:(dog:1.2):5] [x|y z|[p:q:3]] (un:1.1)usual BREAK b AND c :2")
    ever = " ".join(prompt.plain_texts_of_all_steps).split()
    said = {
        word
        for step in range(12)
        for weighted, _ in prompt.texts_at_step(step, 12)
        for text in weighted.section_texts
        for word in text.split()
    }
    assert said == {*ever}


def test_the_page_of_the_embedded_model_lists_what_it_knows_and_so_does_the_command(
    cli: Cli, repo: Path
) -> None:
    assert KNOWN is not None
    pages = [repo / "docs/embedded.md", EMBEDDED_FOLDER / "README.md"]
    told = cli("models", "embedded").out
    document = cli("models", "embedded", "--format", "json").json()
    assert document["knows"] == KNOWN.words_by_kind
    assert document["pixels"] == "128x128"
    assert (document["steps"], document["guidance"]) == (10, 3.0)
    assert document["digest"] == compute_model_digest(EMBEDDED_FOLDER)
    for kind, names in KNOWN.words_by_kind.items():
        listed = " ".join(names) if kind == "words" else ", ".join(names)
        assert listed in told
        assert kind == "words" or all(f"| {listed} |" in page.read_text() for page in pages)


def test_models_tells_of_a_folder_and_refuses_an_unknown_name(cli: Cli, model: Path) -> None:
    told = cli("models", model).out
    assert "its vocabulary is not recorded" in told
    done = cli("models", "embeded")
    assert done.code == 3
    assert "No model 'embeded' here. Did you mean 'embedded'?" in done.err


def test_what_the_pages_and_the_help_draw_with_the_embedded_model_it_knows(repo: Path) -> None:
    assert KNOWN is not None
    places = [repo / "README.md", *repo.glob("docs/*.md"), *repo.glob("t2i/cli/*.py")]
    found = {}
    for place in places:
        for command in re.findall(r"\bt2i (?:generate|inspect|edit) [^\n`]*", place.read_text()):
            if re.search("--(model|lora|embedding|prompts|from)|<lora:|PROMPT", command):
                continue
            others = r"(?<!--sampler )(?<!--method )(?<!--reference )"
            prompts = re.findall(others + r'"([^"{}]* [^"{}]*)"', command)
            if unknown := KNOWN.find_unknown_words_with_suggestions(
                text for prompt in prompts for text in Prompt(prompt).plain_texts_of_all_steps
            ):
                found[command] = unknown
    assert found == {}
