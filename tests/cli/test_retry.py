"""`t2i generate --retry`: a picture is drawn again while a thing that it names is missing."""

import json
import shlex
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.text_to_image import TextToImagePipeline
from t2i.attention.probes.presence import PresenceFit, compute_attention_fingerprint
from t2i.cli.bulk.prompts_file import read_prompts_file
from t2i.cli.generation import single_request
from t2i.cli.generation.retried_image import (
    DrawnSeed,
    RetriedImage,
    generate_with_retries,
    list_seeds_to_try,
)
from t2i.cli.inspected_words import Retry, parse_retry
from t2i.cli.request.request import MAX_SEED, Request
from t2i.denoiser.loading.model_location import PRESENCE_FILE
from t2i.errors import ArgumentError, DataError
from tests.cli.command import PROMPT, Cli, pixels, text_of

SetThreshold = Callable[[float], object]


@cache
def fingerprint(model: Path) -> str:
    return compute_attention_fingerprint(TextToImagePipeline.from_pretrained(model))


@pytest.fixture
def threshold(model: Path) -> Iterator[SetThreshold]:
    """Gives the tiny model a fit that calls a thing missing below a probability."""
    path = model / PRESENCE_FILE
    term = {"mean": 0.0, "deviation": 1.0, "weight": 1.0}

    def write(below: float, weights: str = "") -> None:
        regression = {"terms": {"top": term}, "intercept": 0.0, "threshold": below}
        fit = PresenceFit.model_validate(
            {
                "weights": weights or fingerprint(model),
                "conventions": {"default": regression},
                "words": ["apple", "cat", "dog"],
            }
        )
        path.write_text(fit.model_dump_json(), "utf-8")

    yield write
    path.unlink(missing_ok=True)


def probabilities(draws: list[dict[str, Any]], word: str) -> list[float]:
    return [draw["found"][word] for draw in draws]


def test_a_picture_in_which_everything_is_found_is_drawn_once(
    generate: Cli, threshold: SetThreshold
) -> None:
    threshold(0.0)
    done = generate("--seed", "7", "--retry", "3", "--format", "json").json()
    (picture,) = done["pictures"]
    assert picture["seed"] == 7
    (draw,) = picture["draws"]
    assert (draw["seed"], draw["missing"], [*draw["found"]]) == (7, [], ["apple", "cat"])


def test_the_best_of_all_draws_is_kept_and_made_again_by_its_own_metadata(
    generate: Cli, cli: Cli, threshold: SetThreshold
) -> None:
    threshold(1.0)  # nothing is ever found
    done = generate("--seed", "7", "--retry", "2:cat", "--out", "best.png")
    assert done.code == 0, done.err
    record = json.loads(text_of(Path("best.png"))["t2i"])
    draws = record["draws"]
    assert [draw["seed"] for draw in draws] == [7, 8, 9]
    assert all(draw["missing"] == ["cat"] for draw in draws)
    found = probabilities(draws, "cat")
    best = draws[found.index(max(found))]["seed"]
    assert record["seed"] == best
    assert f"kept seed {best}, still without cat" in done.err
    plain = generate("--seed", str(best), "--out", "plain.png")
    again = cli("generate", "--from", "best.png", "--out", "again.png")
    assert plain.code == again.code == 0
    assert np.array_equal(pixels(Path("best.png")), pixels(Path("plain.png")))
    assert np.array_equal(pixels(Path("again.png")), pixels(Path("plain.png")))
    assert "draws" not in json.loads(text_of(Path("again.png"))["t2i"])
    assert cli("show", "best.png").code == 0


def test_every_draw_reads_the_reference_picture(
    generate: Cli, threshold: SetThreshold, photo: Path
) -> None:
    """The probes of a retry and the recorded reference are two sessions on one model."""
    threshold(1.0)
    reference = ("--reference", str(photo))
    done = generate("--seed", "7", "--retry", "1:cat", *reference, "--out", "best.png")
    assert done.code == 0, done.err
    assert done.err.count("The reference photo.png") == 1
    seed = str(json.loads(text_of(Path("best.png"))["t2i"])["seed"])
    generate("--seed", seed, *reference, "--out", "alone.png")
    assert np.array_equal(pixels(Path("best.png")), pixels(Path("alone.png")))
    generate("--seed", seed, "--out", "without.png")
    assert not np.array_equal(pixels(Path("best.png")), pixels(Path("without.png")))


def test_drawing_ends_with_the_first_seed_at_which_nothing_is_missing(
    generate: Cli, threshold: SetThreshold
) -> None:
    threshold(1.0)
    options = ("--retry", "5:cat", "--format", "json")
    (picture,) = generate("--seed", "7", *options).json()["pictures"]
    found = probabilities(picture["draws"], "cat")
    first = next(n for n in range(1, 6) if found[n] > found[n - 1])
    threshold((found[first] + found[first - 1]) / 2)
    (picture,) = generate("--seed", str(7 + first - 1), *options).json()["pictures"]
    assert [draw["seed"] for draw in picture["draws"]] == [7 + first - 1, 7 + first]
    assert picture["seed"] == 7 + first
    assert picture["draws"][-1]["missing"] == []


def test_pictures_of_one_command_do_not_share_seeds(generate: Cli, threshold: SetThreshold) -> None:
    threshold(1.0)
    done = generate("--seed", "7", "--num", "2", "--retry", "1:cat", "--format", "json").json()
    seeds = [[draw["seed"] for draw in picture["draws"]] for picture in done["pictures"]]
    assert seeds == [[7, 9], [8, 10]]


def test_a_sheet_says_how_its_pictures_are_drawn_again(
    generate: Cli, cli: Cli, threshold: SetThreshold
) -> None:
    threshold(1.0)
    options = ("--seed", "7", "--num", "2", "--retry", "2:cat", "--grid", "--format", "json")
    done = generate(*options).json()
    sheet, kept = Path(done["grid"]), [picture["seed"] for picture in done["pictures"]]
    assert kept != [7, 8]
    shown = cli("show", sheet, "--format", "json").json()
    assert shown["again"].endswith(f"{sheet} --seed 7 --num 2 --retry 2:cat --grid")
    assert f"Seed: {kept[0]}," in text_of(sheet)["parameters"]
    refused = cli("generate", "--from", sheet)
    assert "of the seeds 7 to 8, or of those that --retry chose instead" in refused.err


def test_the_lines_of_a_file_are_drawn_again_and_the_index_says_so(
    cli: Cli, model: Path, threshold: SetThreshold
) -> None:
    threshold(1.0)
    lines = [{"prompt": PROMPT}, {"prompt": "a dog", "seed": 20}, {"prompt": "blue"}]
    lines += [{"prompt": "a cat", "task": "inspect"}]
    Path("p.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    command = ("generate", "--prompts", "p.jsonl", "--model", model, "--steps", "2", "--seed", "1")
    done = cli(*command, "--out", "out", "--retry", "1")
    assert done.code == 0, done.err
    index = [json.loads(line) for line in Path("out/index.jsonl").read_text().splitlines()]
    tried = [[draw["seed"] for draw in entry.get("draws", [])] for entry in index]
    assert tried == [[1, 5], [20, 21], [], []]
    assert index[0]["seed"] in (1, 5)
    assert json.loads(text_of(Path("out") / index[0]["file"])["t2i"])["seed"] == index[0]["seed"]
    assert "nothing to look for" in index[2]["warnings"][0]
    other = cli(*command, "--out", "out", "--retry", "2")
    assert other.code == 2
    assert "--retry 1 -> 2" in other.err


def test_an_interrupted_sheet_is_finished_with_the_same_seeds(
    generate: Cli, cli: Cli, threshold: SetThreshold, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The retries of a picture are as far apart as the command has pictures."""
    threshold(1.0)
    options = ("--seed", "7", "--num", "3", "--retry", "1:cat", "--grid", "--format", "json")
    whole = [one["seed"] for one in generate(*options, "--out", "whole").json()["pictures"]]

    def draw_two(*args: Any, **kwargs: Any) -> RetriedImage:
        calls.append(None)
        if len(calls) > 2:
            raise KeyboardInterrupt
        return generate_with_retries(*args, **kwargs)

    calls: list[None] = []
    with monkeypatch.context() as patches:
        patches.setattr(single_request, "generate_with_retries", draw_two)
        stopped = generate(*options, "--out", "part")
    assert stopped.code == 130
    sheet = stopped.json()["grid"]
    again = shlex.split(cli("show", sheet, "--format", "json").json()["again"])
    assert again[-6:] == ["7", "--num", "3", "--retry", "1:cat", "--grid"]
    done = cli(*again[1:], "--out", "again", "--format", "json").json()
    assert [one["seed"] for one in done["pictures"]] == whole


def test_a_line_has_retries_of_its_own(cli: Cli, model: Path, threshold: SetThreshold) -> None:
    threshold(1.0)
    lines: list[dict[str, object]] = [{"prompt": PROMPT, "retry": "2:cat"}, {"prompt": "a dog"}]
    lines += [{"prompt": "an apple", "retry": 1}]
    Path("p.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    command = ("generate", "--prompts", "p.jsonl", "--model", model, "--steps", "2", "--seed", "1")
    assert cli(*command, "--out", "out").code == 0
    index = [json.loads(line) for line in Path("out/index.jsonl").read_text().splitlines()]
    tried = [[draw["seed"] for draw in entry.get("draws", [])] for entry in index]
    assert tried == [[1, 4, 7], [], [3, 6]]
    assert cli(*command, "--out", "both", "--retry", "1").code == 0
    index = [json.loads(line) for line in Path("both/index.jsonl").read_text().splitlines()]
    assert [len(entry["draws"]) for entry in index] == [3, 2, 2]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"prompt": "a cat", "retry": 0}, r'Got "retry" \'0\': expected how often'),
        ({"prompt": "a cat", "retry": "3:"}, r'Got "retry" \'3:\': expected how often'),
        ({"prompt": "a cat", "task": "inspect", "retry": 1}, 'Got "retry" for a line that edits'),
        ({"prompt": "a dog", "source": "a cat", "retry": 1}, 'Got "retry" for a line that edits'),
    ],
)
def test_retries_that_a_line_cannot_have_are_refused(
    line: dict[str, object], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps(line) + "\n")
    with pytest.raises(DataError, match=message):
        read_prompts_file(path)


def test_a_bulk_run_that_no_fit_can_judge_is_refused_once_before_it_is_begun(
    cli: Cli, model: Path, threshold: SetThreshold
) -> None:
    lines = [{"prompt": "a cat"}, {"prompt": "a dog", "retry": "1"}, {"prompt": "a cat AND a dog"}]
    Path("p.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    command = ("generate", "--prompts", "p.jsonl", "--model", model, "--steps", "2")
    done = cli(*command, "--out", "out")
    assert done.code == 3
    assert done.err.count("has no presence fit") == 1
    assert not Path("out").exists()
    threshold(0.5)
    done = cli(*command, "--out", "out", "--retry", "1")
    assert done.code == 4
    assert "p.jsonl:3: " in done.err
    assert "joined by AND" in done.err
    assert not Path("out").exists()
    threshold(0.5, "0" * 64)
    done = cli(*command, "--out", "out")
    assert done.code == 3
    assert done.err.count("presence fit is not for") == 1
    assert not [*Path("out").glob("*.png")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            {"prompt": "a cat", "retry": "1:apple"},
            "'apple' is not in the prompt. Its words: a, cat",
        ),
        ({"prompt": "a (cap:1.2)", "retry": "1:cat"}, "'cat' is not in the prompt. Nearest: cap"),
        ({"prompt": "a red cat", "retry": "1:red"}, "'red', which the model's presence fit is not"),
    ],
)
def test_words_of_retries_that_cannot_be_looked_for_are_refused_before_anything_is_drawn(
    cli: Cli,
    model: Path,
    threshold: SetThreshold,
    line: dict[str, object],
    message: str,
) -> None:
    threshold(1.0)
    Path("p.jsonl").write_text('{"prompt": "a red apple"}\n' + json.dumps(line) + "\n")
    done = cli("generate", "--prompts", "p.jsonl", "--model", model, "--steps", "2", "--out", "out")
    assert done.code == 4
    assert f"p.jsonl:2: {message}" in done.err.replace("Got --retry with ", "")
    assert not Path("out").exists()


def test_words_of_retries_are_looked_up_as_the_grammar_reads_the_prompt(
    cli: Cli, model: Path, threshold: SetThreshold
) -> None:
    """In each text of a schedule, without weights; plainly where the grammar is."""
    threshold(1.0)
    lines: list[dict[str, object]] = [
        {"prompt": "a [dog:cat:0.5]", "retry": "1:cat"},
        {"prompt": "a [dog|cat]", "retry": "1:cat,dog"},
        {"prompt": "an (ap)ple", "retry": "1:apple"},
    ]
    Path("p.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    command = ("generate", "--prompts", "p.jsonl", "--model", model, "--steps", "2")
    done = cli(*command, "--out", "out")
    assert done.code == 0, done.err
    index = [json.loads(line) for line in Path("out/index.jsonl").read_text().splitlines()]
    assert [len(entry["draws"]) for entry in index] == [2, 2, 2]
    refused = cli(*command, "--grammar", "plain", "--out", "plain")
    assert refused.code == 4
    assert "p.jsonl:3: 'apple' is not in the prompt" in refused.err
    assert not Path("plain").exists()


def test_a_model_without_a_fit_for_its_weights_is_refused(
    generate: Cli, threshold: Any, model: Path
) -> None:
    done = generate("--retry", "1")
    assert done.code == 3
    assert "has no presence fit" in done.err
    threshold(0.5, "0" * 64)
    done = generate("--retry", "1")
    assert done.code == 3
    assert "presence fit is not for" in done.err
    assert not Path("outputs").exists() or not any(Path("outputs").iterdir())


def test_words_and_prompts_that_cannot_be_looked_for_are_refused(
    generate: Cli, cli: Cli, model: Path, threshold: SetThreshold
) -> None:
    threshold(0.5)
    done = generate("--retry", "1:whisker")
    assert done.code == 2
    assert "'whisker' is not in the prompt" in done.err
    done = generate("--retry", "1:red")
    assert done.code == 2
    assert "'red', which the model's presence fit is not for: it knows apple, cat, dog" in done.err
    done = cli("generate", "a cat AND a dog", "--model", model, "--retry", "1")
    assert done.code == 2
    assert "joined by AND" in done.err


def test_a_cache_that_leaves_the_words_attention_out_is_refused_before_anything_is_drawn(
    generate: Cli, cli: Cli, model: Path, threshold: SetThreshold
) -> None:
    threshold(0.5)
    message = "Got --retry with --cache cross:after=0.5: it leaves out the attention of the later"
    options = ("--steps", "4", "--cache", "deep:every=2", "--cache", "cross:after=0.5")
    done = generate("--retry", "1", *options, "--out", "one.png")
    assert done.code == 2
    assert message in done.err.replace("\n", " ")
    assert not Path("one.png").exists()
    lines = [{"prompt": "a cat"}, {"prompt": "a dog", "retry": 1, "cache": "cross:after=0.5"}]
    Path("p.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    command = ("generate", "--prompts", "p.jsonl", "--model", model, "--steps", "4")
    done = cli(*command, "--out", "out")
    assert done.code != 0
    assert f"p.jsonl:2: {message}" in done.err.replace("\n", " ")
    assert not Path("out").exists()
    deep = generate("--retry", "1", "--steps", "4", "--cache", "deep:every=2", "--out", "one.png")
    assert deep.code == 0, deep.err


@pytest.mark.parametrize("text", ["0", "-1", "101", "cat", "3:", "1.5", "", "3:cat,,dog"])
def test_other_values_of_the_option_are_refused(text: str) -> None:
    with pytest.raises(ArgumentError, match=r"Got --(retry|words)"):
        parse_retry(text)


def test_an_option_reads_back_as_it_was_typed() -> None:
    assert parse_retry("3") == Retry(num=3)
    assert parse_retry(" 3:cat, red apple") == Retry(num=3, words=("cat", "red apple"))
    for text in ("3", "3:cat,red apple"):
        assert parse_retry(text).option_value == text


def test_seeds_end_with_the_largest() -> None:
    assert list_seeds_to_try(5, Retry(num=2), 10) == [5, 15, 25]
    assert list_seeds_to_try(MAX_SEED, Retry(num=2), 1) == [MAX_SEED]


def test_draws_are_told_in_one_line() -> None:
    request, image = Request(prompt="a cat"), Any
    none = DrawnSeed(7, {"cat": 0.123}, ("cat",))
    there = DrawnSeed(8, {"cat": 0.9}, ())
    told = RetriedImage(request, image, 8, [none, there]).describe()  # type: ignore[arg-type]
    assert told == "Drawn 2 times (seed 7: cat 12%; seed 8: all found); kept seed 8, all found."
    assert RetriedImage(request, image, 8, [there]).describe() == ""  # type: ignore[arg-type]
