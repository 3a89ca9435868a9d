"""The Python of docs/server-apis.md works as it stands, against a server at another port."""

from pathlib import Path

import pytest

from docs.pages import blocks

PAGE = "docs/server-apis.md"


def test_blocks_of_the_page_run_one_after_the_other(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}
    port = address.rpartition(":")[2]
    found = list(blocks("py", page=PAGE))
    assert len(found) == 5
    for block in found:
        code = block.code.replace("7878", port).replace("steps=20", "steps=2")
        code = code.replace('{"seed": 7}', '{"seed": 7, "steps": 2}')
        exec(compile(code, PAGE, "exec"), names)
    assert {path.name for path in tmp_path.iterdir()} == {
        *("apple.png", "green-apple.png", "apple-0.png", "apple-1.png", "clear.png")
    }
