"""Files of prompts: what their lines ask for, and what is wrong with those that cannot be used."""

import json
import os
import re
import time
from pathlib import Path

import pytest

from t2i.cli.bulk.bulk_folder import digest_prompt_lines
from t2i.cli.bulk.prompt_line import PromptLine
from t2i.cli.bulk.prompts_file import MAX_LINE_BYTES, MAX_NAMED_LINES, read_prompts_file
from t2i.cli.request.request import RequestOverrides
from t2i.errors import ArgumentError, DataError
from tests.sweeps import sweep


def written(folder: Path, name: str, data: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def refused(path: Path) -> str:
    with pytest.raises(DataError) as error:
        read_prompts_file(path)
    return str(error.value)


def test_a_text_file_has_a_prompt_on_each_line(tmp_path: Path) -> None:
    text = "\ufeff# fruit\r\n a red apple \r\n\r\n#no\r\nein grüner Apfel"
    lines = read_prompts_file(written(tmp_path, "p.txt", text))
    assert lines == [
        PromptLine(number=2, prompt="a red apple"),
        PromptLine(number=5, prompt="ein grüner Apfel"),
    ]


def test_a_line_of_json_says_what_it_wants(tmp_path: Path) -> None:
    record = {
        "prompt": "# a cat\n{and} a dog",
        "negative": "rain",
        "seed": 7,
        "size": "48x32",
        "steps": 3,
        "guidance": 2,
        "sampler": "euler",
        "num": 2,
        "name": "cat",
    }
    text = "\n" + json.dumps(record) + '\n{"prompt": "x", "width": 64, "height": 32, "seed": null}'
    assert read_prompts_file(written(tmp_path, "p.jsonl", text)) == [
        PromptLine(
            number=2,
            prompt="# a cat\n{and} a dog",
            seed=7,
            num=2,
            name="cat.png",
            overrides=RequestOverrides(
                negative_prompt="rain",
                num_inference_steps=3,
                guidance_scale=2.0,
                sampler="euler",
                width=48,
                height=32,
            ),
        ),
        PromptLine(number=3, prompt="x", overrides=RequestOverrides(width=64, height=32)),
    ]


def test_a_csv_has_cells_with_commas_and_line_breaks(tmp_path: Path) -> None:
    text = '\ufeffprompt,seed,size\r\n"red, ""ripe""\napple",7,\r\n\r\na cat,,64\r\n'
    assert read_prompts_file(written(tmp_path, "p.csv", text)) == [
        PromptLine(number=2, prompt='red, "ripe"\napple', seed=7),
        PromptLine(number=5, prompt="a cat", overrides=RequestOverrides(width=64, height=64)),
    ]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", r"Not JSON: .*Expected an object such as"),
        ("[1]", r"Got \[1\], expected an object"),
        ("[" * 50_000, r"Not JSON: it is nested more than 100 deep"),
        ('{"prompt": "x", "seed": ' + "9" * 5000 + "}", r"Not JSON: .*digits"),
        ("{}", r'There is no "prompt"'),
        ('{"prompt": "x", "promt": "y"}', r"Unknown key \"promt\"\. Did you mean 'prompt'\?"),
        ('{"prompt": "x", "prompt": "y"}', r'key "prompt" is given twice'),
        ('{"prompt": " "}', r'Got "prompt": " "\. Write what the picture shows'),
        ('{"prompt": null}', r'There is no "prompt"'),
        ('{"prompt": "a\\u0000b"}', r'Got "prompt": "a\\u0000b"'),
        ('{"prompt": "a\\ud800b"}', r"Not JSON: .*half of a character"),
        ('{"pro\\ud800mpt": "a"}', r"Not JSON: .*half of a character"),
        ('{"prompt": "' + "x" * 20_001 + '"}', r'"prompt" is 20,001 letters long, at most 20,000'),
        ('{"prompt": "x", "seed": "7"}', r'Got "seed": "7"\. .*valid integer'),
        ('{"prompt": "x", "seed": true}', r'Got "seed": true'),
        ('{"prompt": "x", "seed": -1}', r'Got "seed": -1\. .*greater than or equal to 0'),
        ('{"prompt": "x", "steps": 0}', r'Got "steps": 0\. .*greater than or equal to 1'),
        ('{"prompt": "x", "num": 10001}', r'Got "num": 10001\. .*less than or equal to 10000'),
        ('{"prompt": "x", "guidance": NaN}', r"Not JSON: NaN is no number"),
        ('{"prompt": "x", "size": "12x"}', r"Got \"size\" '12x': expected width x height"),
        ('{"prompt": "x", "size": "9x9", "width": 9}', r'Got both "size" and "width"'),
        ('{"prompt": "x", "width": 9}', r'Got one of "width" and "height"'),
        ('{"prompt": "x", "size": 99999}', r"size of 99999x99999: .* at most 64 million pixels"),
        ('{"prompt": "x", "name": "../x"}', r'Got "name": "\.\./x"\. Expected a plain file name'),
        ('{"prompt": "x", "name": "/etc/x"}', r'Got "name": "/etc/x"\. Expected a plain'),
        ('{"prompt": "x", "name": "a/b"}', r'Got "name": "a/b"\. Expected a plain'),
        ('{"prompt": "x", "name": "a\\\\b"}', r'Got "name": "a\\\\b"\. Expected a plain'),
        ('{"prompt": "x", "name": "a\\u0000b"}', r'Got "name": "a\\u0000b"\. Expected a plain'),
        ('{"prompt": "x", "name": ".x"}', r'Got "name": "\.x"\. Expected a plain'),
        ('{"prompt": "x", "name": ""}', r'Got "name": ""\. Expected a plain'),
        ('{"prompt": "x", "name": "x.gif"}', r'Got "name": "x\.gif"\. Pictures are written as'),
        ('{"prompt": "x", "name": "' + "x" * 300 + '"}', r"At most 200 bytes fit\. Shorten it"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_broken_line_is_named_by_file_and_line(tmp_path: Path, line: str, complaint: str) -> None:
    path = written(tmp_path, "p.jsonl", f'{{"prompt": "x"}}\n{line}\n')
    message = refused(path)
    assert re.fullmatch(rf"{path}:2: .*{complaint}.*", message), message
    assert len(message) < 600


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("promt,seed\n", r":1: Unknown column \"promt\"\. Did you mean 'prompt'\?"),
        ("seed,seed,prompt\n", r':1: The column "seed" is given twice'),
        ("seed\n7\n", r":1: There is no column 'prompt'"),
        ("", r":1: There is no column 'prompt'"),
        ("prompt,seed\na cat,7,8\n", r":2: 3 cells, but the header has 2"),
        ("prompt,seed\na cat,x\n", r':2: Got "seed": "x"\. .*valid integer'),
        ("prompt,seed\n,7\n", r':2: There is no "prompt"'),
        ('prompt\na\n"b\nc" d\n', r":3: Not CSV: .*Check the double quotes"),
        (
            'prompt\na\n"b' + "c\n" * MAX_LINE_BYTES,
            r":3: The record is longer .*Is a quote left open",
        ),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_broken_csv_is_named_by_the_first_line_of_the_record(
    tmp_path: Path, text: str, complaint: str
) -> None:
    assert re.search(complaint, refused(written(tmp_path, "p.csv", text)))


def test_all_broken_lines_are_named_up_to_a_limit(tmp_path: Path) -> None:
    text = "".join(f'{{"prompt": "{"x" * (n % 2)}"}}\n' for n in range(100))
    message = refused(written(tmp_path, "p.jsonl", text)).splitlines()
    assert re.fullmatch(r"50 lines of .*p\.jsonl cannot be used:", message[0])
    assert [line.split(":")[1] for line in message[1:-1]] == [
        str(2 * n + 1) for n in range(MAX_NAMED_LINES)
    ]
    assert message[-1] == "... and 30 more."


def test_what_is_not_utf8_is_refused(tmp_path: Path) -> None:
    latin = "one\nein grüner Apfel\n".encode("latin-1")
    assert 'p.txt:2: "prompt" is not valid UTF-8' in refused(written(tmp_path, "p.txt", latin))
    wide = written(tmp_path, "wide.txt", "a cat".encode("utf-16"))
    key = written(tmp_path, "key.jsonl", b'{"prompt": "x", "se\xffed": 7}')
    assert "key.jsonl:1: Not JSON: it is not UTF-8 text" in refused(key)
    assert "The file is UTF-16: save it as UTF-8" in refused(wide)


def test_a_prompt_of_a_gigabyte_is_refused_without_reading_it(tmp_path: Path) -> None:
    path = tmp_path / "p.txt"
    with path.open("wb") as file:
        file.write(b"a cat\n")
        file.truncate(1 << 30)  # a hole, which reads as a gigabyte of zeros
    begun = time.process_time()
    assert "p.txt:2: The line is longer than 64 KiB. Shorten its prompt" in refused(path)
    assert time.process_time() - begun < 0.5


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "folder.txt").mkdir()
    for name in ("pipe.txt", "folder.txt"):
        assert "is a " in refused(tmp_path / name)
    assert "No such file of prompts" in refused(tmp_path / "none.txt")
    assert "holds no prompt" in refused(written(tmp_path, "p.txt", "# nothing\n"))
    with pytest.raises(ArgumentError, match=r"p\.json: expected a file in \.txt, \.jsonl, \.csv"):
        read_prompts_file(tmp_path / "p.json")


@pytest.mark.parametrize("suffix", sweep(["txt", "jsonl", "csv"], quick=["jsonl"]))
def test_a_hundred_thousand_lines_are_read(tmp_path: Path, suffix: str) -> None:
    line = {"txt": "apple {}\n", "jsonl": '{{"prompt": "apple {}"}}\n', "csv": "apple {}\n"}[suffix]
    text = "prompt\n" if suffix == "csv" else ""
    text += "".join(line.format(number) for number in range(100_000))
    lines = read_prompts_file(written(tmp_path, f"p.{suffix}", text))
    assert len(lines) == 100_000
    assert lines[-1].prompt == "apple 99999"


def test_the_digest_of_the_lines_is_that_of_folders_begun_before(tmp_path: Path) -> None:
    # Taken at commit 146a70b. Another one would refuse to continue every folder begun until then.
    lines = [
        {
            "prompt": "a red apple",
            "seed": 7,
            "num": 2,
            "name": "apple",
            "size": "512x384",
            "steps": 20,
            "guidance": 4.5,
            "sampler": "ddim",
            "negative": "blur",
            "lora": ["ink.safetensors:0.5", "wash.safetensors"],
            "embedding": "sun.safetensors:<sun>",
            "image": "a.png",
            "mask": "m.png",
            "strength": 0.5,
        },
        {
            "prompt": "a cat",
            "ip_adapter": "ip.safetensors",
            "image_prompt": "b.png:0.3",
            "upscale": 2,
        },
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    digest = digest_prompt_lines(read_prompts_file(written(tmp_path, "p.jsonl", text)))
    assert digest == "b023c03ac71693f522cd4601890f92609f3d4a4736ca9a3a09f360850045254f"


def test_lines_that_edit_by_words_keep_their_digest_through_renames(tmp_path: Path) -> None:
    # Taken at commit 6ab87ea.
    line = {
        "prompt": "a dog",
        "source": "a cat",
        "weight": "dog=2",
        "cross_replace": "0.2:0.8",
        "image": "a.png",
        "fit": "pad",
    }
    file = written(tmp_path, "p.jsonl", json.dumps(line))
    digest = digest_prompt_lines(read_prompts_file(file))
    assert digest == "be475bfc02d8af7e8a2fb04b7d93a100a5f1b290b5ce5cc40eee8c1c640f7c2b"
    file = written(tmp_path, "q.jsonl", json.dumps(line | {"align": "dog=cat"}))
    by_hand = read_prompts_file(file)
    assert digest_prompt_lines(by_hand) != digest
    assert by_hand[0].edit is not None
    assert by_hand[0].edit.options.alignment == {"dog": "cat"}


def test_lines_with_controls_tasks_and_recordings_keep_their_digest_through_renames(
    tmp_path: Path,
) -> None:
    # Taken at commit 52d1895.
    lines = [
        {"prompt": "a cat", "control": "canny:edges.png:scale=0.8", "seed": 3},
        {"prompt": "a dog", "task": "inspect", "words": "dog"},
        {"prompt": "a dog", "source_folder": "cat"},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    digest = digest_prompt_lines(read_prompts_file(written(tmp_path, "p.jsonl", text)))
    assert digest == "1f4e51e7ff36b05bc2e2b013f0f40425134ea377c39b999bec43c71b842e48c8"
