"""Drawing imports what it uses: no list of all models, no list of all distributions."""

import importlib
import importlib.metadata
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import diffusers.utils.import_utils
import pytest
import transformers.models

from t2i.cli.startup import deferred_imports
from t2i.cli.startup.deferred_imports import (
    DeferredPackage,
    DistributionsByPackage,
    deferring_imports,
)

UNUSED = (
    *("transformers.models.bert.modeling_bert", "transformers.models.gpt2.modeling_gpt2"),
    *("transformers.models.t5.modeling_t5", "t2i.attention.session.session"),
    *("t2i.attention.probes.heat_maps", "t2i.attention.edits.attend_and_excite"),
    *("t2i.adapters.lora_arithmetic", "t2i.adapters.lora_files.writer", "t2i.scenes.scenes"),
)
"""Modules that a picture of a prompt needs nothing of."""

DRAW = f"""
import gc, json, sys
searches = []
gc.callbacks.append(lambda phase, facts: searches.append(gc.get_threshold()[0]))
from t2i.cli import main
from t2i.cli.startup import gc_control
code = main()
import importlib.metadata, diffusers.utils.import_utils, transformers
models = transformers.models
known = diffusers.utils.import_utils._package_map
facts = dict(
    code=code,
    unused=[name for name in {UNUSED!r} if name in sys.modules],
    deferred=[type(models).__name__, known.found],
    searches_while_loading=searches.count(gc_control.STARTUP_THRESHOLD),
    finders=[type(finder).__name__ for finder in sys.meta_path],
    asked=[models.CLIPTextModel.__name__, models.clip.__name__, "BertModel" in dir(models)],
    replaced=type(transformers.models).__name__,
    distributions=dict(known) == dict(importlib.metadata.packages_distributions()),
)
print(json.dumps(facts))
"""


@pytest.fixture(scope="module")
def drawn(repo: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a process that drew a picture of the embedded model has imported and run."""
    out = tmp_path_factory.mktemp("drawn") / "cat.png"
    words = ["generate", "a cat", "--steps", "1", "--out", str(out)]
    done = subprocess.run(
        [sys.executable, "-c", DRAW, *words], capture_output=True, text=True, cwd=repo, timeout=300
    )
    assert done.returncode == 0, done.stderr
    facts: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert facts["code"] == 0
    return facts


def test_drawing_imports_no_model_but_its_own(drawn: dict[str, Any]) -> None:
    assert drawn["unused"] == []


def test_drawing_lists_neither_all_models_nor_all_distributions(drawn: dict[str, Any]) -> None:
    assert drawn["deferred"] == ["DeferredPackage", None]
    assert "DeferringFinder" not in drawn["finders"]


def test_what_was_deferred_is_there_for_whoever_asks(drawn: dict[str, Any]) -> None:
    assert drawn["asked"] == ["CLIPTextModel", "transformers.models.clip", True]
    assert drawn["replaced"] == "_LazyModule"
    assert drawn["distributions"]


def test_no_garbage_is_searched_before_the_model_is_loaded(drawn: dict[str, Any]) -> None:
    assert drawn["searches_while_loading"] == 0


def test_nothing_is_deferred_in_a_process_of_somebody_else() -> None:
    # These tests are such a process: they call the command line as a function.
    assert not isinstance(transformers.models, DeferredPackage)
    known = diffusers.utils.import_utils._package_map
    assert not isinstance(known, DistributionsByPackage)


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The `__init__` of a package `stand_in.models` of which `stand_in.models.cat` is a part."""
    folder = tmp_path / "stand_in" / "models"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("")
    (folder / "cat.py").write_text("LEGS = 4")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(
        deferred_imports,
        "DEFER_BY_MODULE",
        {"stand_in.models": ("sys.modules[__name__] = made", deferred_imports._defer_init)},
    )
    yield folder / "__init__.py"
    for name in [name for name in sys.modules if name.split(".")[0] == "stand_in"]:
        del sys.modules[name]


REPLACED = """
import sys, types
import stand_in
stand_in.runs = getattr(stand_in, "runs", 0) + 1
made = types.ModuleType(__name__)
made.__path__, made.DOGS = __path__, 2
sys.modules[__name__] = made
"""


def test_a_package_runs_once_at_the_first_name_it_defines(library: Path) -> None:
    library.write_text(REPLACED)
    with deferring_imports():
        cat = importlib.import_module("stand_in.models.cat")
    package = sys.modules["stand_in.models"]
    stand_in: Any = sys.modules["stand_in"]
    assert isinstance(package, DeferredPackage)
    assert (cat.LEGS, package.cat, hasattr(stand_in, "runs")) == (4, cat, False)
    assert (package.DOGS, package.DOGS, stand_in.runs) == (2, 2, 1)
    assert stand_in.models is sys.modules["stand_in.models"] is not package
    with pytest.raises(AttributeError, match=r"'stand_in.models' has no attribute 'BIRDS'"):
        _ = package.BIRDS


def test_a_package_that_fails_says_why_and_runs_again_at_the_next_use(library: Path) -> None:
    library.write_text(
        "import sys, types\n"
        "assert not hasattr(sys.modules[__name__], 'asked while it runs')\n"
        "import stand_in.missing\n"
        "sys.modules[__name__] = made\n"
    )
    with deferring_imports():
        importlib.import_module("stand_in.models.cat")
    package = sys.modules["stand_in.models"]
    for _ in range(2):
        with pytest.raises(ModuleNotFoundError, match=r"No module named 'stand_in.missing'"):
            _ = package.DOGS
    (library.parent.parent / "missing.py").write_text("")
    library.write_text("DOGS = 4\n# sys.modules[__name__] = made\n")
    importlib.invalidate_caches()
    assert (package.DOGS, package.cat.LEGS, "DOGS" in dir(package)) == (4, 4, True)
    with pytest.raises(AttributeError, match=r"'stand_in.models' has no attribute 'BIRDS'"):
        _ = package.BIRDS


def test_a_package_of_another_version_is_imported_as_usual(library: Path) -> None:
    library.write_text("DOGS = 3")
    with deferring_imports():
        package = importlib.import_module("stand_in.models")
    assert type(package) is ModuleType
    assert package.DOGS == 3


def test_the_search_of_distributions_is_restored_and_made_when_read(
    library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = "known = importlib.metadata.packages_distributions()"
    library.write_text(f"import importlib.metadata\n{line}\n")
    defer = deferred_imports._defer_search_of_distributions
    monkeypatch.setattr(deferred_imports, "DEFER_BY_MODULE", {"stand_in.models": (line, defer)})
    searches: list[str] = []

    def find() -> dict[str, list[str]]:
        searches.append("all")
        return {"PIL": ["pillow"]}

    monkeypatch.setattr(importlib.metadata, "packages_distributions", find)
    with deferring_imports():
        known = importlib.import_module("stand_in.models").known
    assert importlib.metadata.packages_distributions is find
    assert searches == []
    assert (known["PIL"], len(known), list(known), "cv2" in known) == (
        ["pillow"],
        1,
        ["PIL"],
        False,
    )
    assert searches == ["all"]
