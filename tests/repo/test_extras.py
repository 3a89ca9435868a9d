"""One thing is said of how a missing library is had, and it is true of how t2i came here."""

import json
import re
from pathlib import Path

import pytest

from t2i.optional_dependencies import build_install_command


def came_from(folder: Path, monkeypatch: pytest.MonkeyPatch, origin: object) -> None:
    """What pip leaves behind of an installation, before all others on the path."""
    made = folder / "site" / "t2i-0.1.0.dist-info"
    made.mkdir(parents=True)
    (made / "METADATA").write_text("Metadata-Version: 2.4\nName: t2i\nVersion: 0.1.0\n")
    if origin is not None:
        (made / "direct_url.json").write_text(json.dumps(origin))
    monkeypatch.syspath_prepend(str(made.parent))


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        (None, "pip install 't2i[data]'"),
        (
            {"url": "file:///a%20b/t2i", "dir_info": {"editable": True}},
            "pip install -e '/a b/t2i[data]'",
        ),
        ({"url": "file:///src/t2i", "dir_info": {}}, "pip install '/src/t2i[data]'"),
        (
            {"url": "file:///tmp/t2i.whl", "archive_info": {}},
            "pip install 't2i[data] @ file:///tmp/t2i.whl'",
        ),
        (
            {"url": "https://a.b/t2i", "vcs_info": {"vcs": "git", "commit_id": "c0ffee"}},
            "pip install 't2i[data] @ git+https://a.b/t2i@c0ffee'",
        ),
    ],
    ids=["index", "clone", "folder", "archive", "repository"],
)
def test_the_command_is_that_of_where_t2i_came_from(
    origin: object, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    came_from(tmp_path, monkeypatch, origin)
    assert build_install_command("data") == expected


def test_in_the_clone_itself_its_path_is_a_dot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    came_from(tmp_path, monkeypatch, {"url": tmp_path.as_uri(), "dir_info": {"editable": True}})
    monkeypatch.chdir(tmp_path)
    assert build_install_command("track") == "pip install -e '.[track]'"


def test_no_other_place_says_how_an_extra_is_installed(repo: Path) -> None:
    own = re.compile(r"pip install [^\n]*t2i\[")
    places = [p for name in ("t2i", "pipelines", "train") for p in (repo / name).rglob("*.py")]
    places += [repo / "README.md", *(repo / "docs").glob("*.md")]
    said = {str(path.relative_to(repo)) for path in places if own.search(path.read_text("utf-8"))}
    assert said == {"t2i/optional_dependencies.py", "docs/getting-started.md"}
