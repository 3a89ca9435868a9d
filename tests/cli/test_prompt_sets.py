"""Prompts of published benchmarks, drawn in bulk, and laid out as their judges read them."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from t2i.errors import ArgumentError, DataError, OutputError
from t2i.evaluate.prompt_sets.convert import lay_out_images, main, write_prompts_file
from t2i.evaluate.prompt_sets.judge_folders import FOLDER_WRITERS
from t2i.evaluate.prompt_sets.prompt_sets import IMAGES_PER_PROMPT, READERS
from tests.cli.command import Cli, files, pixels

GENEVAL = (
    '{"tag": "single_object", "include": [{"class": "cat", "count": 1}], "prompt": "a cat"}\n'
    '{"tag": "colors",  "include": [], "prompt": "a blue dog"}\n'
)
PROMPTS = ["a cat", "a blue dog"]


@pytest.fixture
def benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """The same two prompts in the form of each benchmark."""
    monkeypatch.chdir(tmp_path)
    Path("evaluation_metadata.jsonl").write_text(GENEVAL)
    Path("color_val.txt").write_text("a cat\na blue dog\n")
    Path("prompts").mkdir()
    Path("prompts/COCOval_1.txt").write_text("a cat\n")
    Path("prompts/partiprompts2.txt").write_text("a blue\ndog")
    lines = Path("evaluation_metadata.jsonl")
    return {
        "geneval": lines,
        "geneval2": lines,
        "t2i-compbench": Path("color_val.txt"),
        "dpg-bench": Path("prompts"),
    }


def draw(num: int, prompts: Sequence[str] = PROMPTS, side: int = 8) -> Path:
    """A folder as a bulk run leaves it; image k is of one gray, 10 k."""
    bulk = Path("bulk")
    bulk.mkdir(exist_ok=True)
    entries = []
    for job in range(num * len(prompts)):
        Image.new("RGB", (side, side), (10 * job,) * 3).save(bulk / f"{job}.png")
        line = job // num
        request = {"prompt": prompts[line]}
        entry = {"job": job, "line": line + 1, "request": request, "file": f"{job}.png"}
        entries.append(json.dumps(entry) + "\n")
    (bulk / "index.jsonl").write_text("".join(entries))
    return bulk


def test_every_benchmark_has_a_reader_a_writer_and_a_number_of_images() -> None:
    assert READERS.keys() == FOLDER_WRITERS.keys() == IMAGES_PER_PROMPT.keys()


@pytest.mark.parametrize("kind", READERS)
def test_prompts_are_read_as_they_are_published(kind: str, benchmark: dict[str, Path]) -> None:
    assert [one.prompt for one in READERS[kind](benchmark[kind])] == PROMPTS
    assert write_prompts_file(kind, benchmark[kind], Path("p.jsonl")) == 2
    lines = [json.loads(line) for line in Path("p.jsonl").read_text().splitlines()]
    assert [line["prompt"] for line in lines] == PROMPTS
    assert {line["num"] for line in lines} == {IMAGES_PER_PROMPT[kind]}
    with pytest.raises(OutputError, match="is not replaced"):
        write_prompts_file(kind, benchmark[kind], Path("p.jsonl"))


def test_geneval_has_a_folder_for_each_prompt_with_its_own_line(benchmark: dict[str, Path]) -> None:
    assert lay_out_images("geneval", benchmark["geneval"], draw(2), Path("out")) == 4
    expected = [f"0000{n}/{name}" for n in (0, 1) for name in ("metadata.jsonl", "samples")]
    found = [path.relative_to("out").as_posix() for path in sorted(Path("out").glob("*/*"))]
    assert found == expected
    assert Path("out/00001/metadata.jsonl").read_text() == GENEVAL.splitlines(True)[1]
    assert files(Path("out/00000/samples")) == ["0000.png", "0001.png"]
    assert pixels(Path("out/00001/samples/0000.png")).max() == 20


def test_geneval2_has_paths_by_prompt(benchmark: dict[str, Path]) -> None:
    assert lay_out_images("geneval2", benchmark["geneval2"], draw(1), Path("out")) == 2
    paths = json.loads(Path("out/image_paths.json").read_text())
    assert paths == {"a cat": "images/00000.png", "a blue dog": "images/00001.png"}
    assert pixels(Path("out") / paths["a blue dog"]).max() == 10
    with pytest.raises(ArgumentError, match="one of each prompt"):
        lay_out_images("geneval2", benchmark["geneval2"], draw(2), Path("more"))
    assert not Path("more").exists()


def test_a_prompt_that_geneval2_finds_twice_is_refused_before_it_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path("geneval2_data.jsonl")
    path.write_text("".join(f'{{"prompt": "{one}"}}\n' for one in ("a cat", "a dog", "a cat")))
    with pytest.raises(DataError, match=r"geneval2_data.jsonl:3: the prompt 'a cat' is that of l"):
        write_prompts_file("geneval2", path, Path("p.jsonl"))
    assert not Path("p.jsonl").exists()
    assert write_prompts_file("geneval", path, Path("p.jsonl")) == 3


def test_t2i_compbench_has_the_prompt_in_the_name(benchmark: dict[str, Path]) -> None:
    lay_out_images("t2i-compbench", benchmark["t2i-compbench"], draw(2), Path("out"))
    assert files(Path("out/samples")) == [
        *("a blue dog_000002.png", "a blue dog_000003.png"),
        *("a cat_000000.png", "a cat_000001.png"),
    ]


def test_dpg_bench_has_one_picture_of_four(benchmark: dict[str, Path]) -> None:
    lay_out_images("dpg-bench", benchmark["dpg-bench"], draw(4), Path("out"))
    assert files(Path("out")) == ["COCOval_1.png", "partiprompts2.png"]
    sheet = pixels(Path("out/partiprompts2.png"))
    assert sheet.shape == (16, 16, 3)
    assert np.array_equal(sheet[::8, ::8, 0], [[40, 50], [60, 70]])
    with pytest.raises(ArgumentError, match="judges up to 4"):
        lay_out_images("dpg-bench", benchmark["dpg-bench"], draw(5), Path("more"))


def test_prompts_are_drawn_in_bulk_and_laid_out(
    benchmark: dict[str, Path], cli: Cli, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = str(Path(benchmark["geneval"]).resolve())
    command = ["convert", "prompts", "geneval", source, "p.jsonl", "--num", "2"]
    monkeypatch.setattr(sys, "argv", command)
    main()
    drawn = cli(
        *("generate", "--prompts", "p.jsonl", "--model", model, "--steps", "1", "--seed", "3"),
        *("--grammar", "plain", "--out", "bulk"),
    )
    assert drawn.code == 0, drawn.err
    monkeypatch.setattr(sys, "argv", ["convert", "folder", "geneval", source, "bulk", "out"])
    main()
    assert len(files(Path("out"))) == 6
    first = pixels(Path("out/00001/samples/0001.png"))
    assert np.array_equal(first, pixels(Path("bulk/00001-2.png")))


@pytest.mark.parametrize(
    ("kind", "name", "content", "reason"),
    [
        ("geneval", "x.jsonl", '{"prompt": "a"}\nno\n', "x.jsonl:2: not JSON"),
        ("geneval", "x.jsonl", '{"tag": "a"}\n', 'x.jsonl:1: expected an object with a "prompt"'),
        ("geneval", "x.jsonl", '{"prompt": "a"}\n\n{"prompt": "b"}\n', "x.jsonl:2: the line is bl"),
        ("geneval", "x.jsonl", "\n", "holds no prompt"),
        ("t2i-compbench", "x.txt", "a cat\na red/blue dog\n", "x.txt:2: .* part of a file name"),
        ("t2i-compbench", "x.txt", "a cat " * 50, "x.txt:1: .* too long for a file name"),
        ("dpg-bench", "x/a.txt", " \n", "a.txt is empty"),
        ("dpg-bench", "x", None, "is no folder of .txt files"),
    ],
)
def test_a_path_that_holds_something_else_is_refused(
    kind: str, name: str, content: str | None, reason: str, benchmark: dict[str, Path]
) -> None:
    path = Path(name)
    if content is not None:
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
    with pytest.raises(DataError, match=reason):
        READERS[kind](path.parent if path.parent.name == "x" else path)


def test_images_that_are_missing_or_of_other_prompts_are_refused(
    benchmark: dict[str, Path],
) -> None:
    source = benchmark["geneval"]
    with pytest.raises(DataError, match="line 2 is of 'a dog', in the benchmark it is 'a blue dog"):
        lay_out_images("geneval", source, draw(1, ["a cat", "a dog"]), Path("out"))
    with pytest.raises(DataError, match="line 3 is none of the 2 prompts"):
        lay_out_images("geneval", source, draw(1, [*PROMPTS, "a star"]), Path("out"))
    with pytest.raises(DataError, match="0 images of prompt 2, and 2 of another"):
        lay_out_images("geneval", source, draw(2, PROMPTS[:1]), Path("out"))
    draw(1)
    Path("bulk/1.png").unlink()
    with pytest.raises(DataError, match="line 2 has no image"):
        lay_out_images("geneval", source, Path("bulk"), Path("out"))
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("kind", "num", "expected"),
    [("geneval", 0, "at least 1"), ("geneval2", 2, "1 to 1"), ("dpg-bench", 5, "1 to 4")],
)
def test_more_images_than_a_judge_takes_are_refused_before_they_are_drawn(
    kind: str, num: int, expected: str, benchmark: dict[str, Path]
) -> None:
    with pytest.raises(ArgumentError, match=f"Got --num {num}, expected {expected}"):
        write_prompts_file(kind, benchmark[kind], Path("p.jsonl"), num)
    assert not Path("p.jsonl").exists()
