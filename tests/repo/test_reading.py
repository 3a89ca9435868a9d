"""What others wrote comes in one way: through t2i.safe_reading, which bounds it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.repo.test_layers import modules

READS = {"read_text", "read_bytes", "open", "loads", "load_file", "safe_open", "fdopen", "urlopen"}
READS |= {"expanduser"}  # Path's own knows no unknown user but as a RuntimeError
"""Names of calls that open a file or parse its text, whatever they are called on."""
MODULES = {"tomllib", "csv", "pickle", "marshal", "shelve", "yaml", "configparser", "sqlite3"}
LOADERS = {("torch", "load"), ("np", "load"), ("np", "fromfile"), ("json", "load")}
ALLOWED = {
    # The way itself.
    "t2i.safe_reading.files": {"open", "fdopen"},
    "t2i.safe_reading.parsing": {"loads", "tomllib"},
    "t2i.safe_reading.tensors": {"safe_open"},
    # Bytes that the way has read.
    "t2i.pictures": {"Image.open"},
    "train.data.decode": {"Image.open"},
    "t2i.cli.metadata.t2i_json": {"model_validate_json"},
    "t2i.denoiser.loading.t2i_json": {"model_validate_json"},
    "t2i.attention.edits.serialisation": {"Image.open"},
    "train.data.sources.metadata": {"csv"},
    "t2i.cli.bulk.prompts_file": {"csv"},
    "train.data.sources.tars": {"tarfile.open"},
    # A pickle of tensors, of bounded size and opened by the way before.
    "t2i.adapters.textual_inversion": {"torch.load"},
    # A web server's bytes: no file; their number is asked for.
    "train.data.sources.remote": {"urlopen"},
    # Files to write to, locks, and folders to flush.
    "t2i.atomic_files": {"os.open"},
    "t2i.atomic_folders": {"os.open"},
    "t2i.terminal": {"os.open"},
    "t2i.cli.bulk.index": {"os.open"},
    # a file of torchmetrics
    "t2i.evaluate.pie_bench.lpips": {"torch.load"},
    "t2i.evaluate.result_folder": {"os.open"},
    "t2i.run_folder": {"os.open"},
    # The package's own assets, and what libraries and the system made a moment ago.
    "t2i.scenes.held_out": {"read_text", "loads"},
    "t2i.scenes.sprites": {"read_text", "read_bytes", "loads", "Image.open"},
    "train.starter_config.template_text": {"read_text"},
    "t2i.environment_info": {"read_text"},
    "t2i.denoiser.memory_checks": {"read_text"},
    "t2i.cli.startup.deferred_imports": {"read_text"},
    "t2i.optional_dependencies": {"metadata.distribution('t2i').read_text", "json.loads"},
    "t2i.server.security.body_text": {"json.loads"},  # a request's body; its size is limited
    "t2i.server.jobs.store": {"sqlite3", "loads"},  # a database that this server has written
    "t2i.server.jobs.server_state": {"sqlite3"},  # its errors alone
    "t2i.server.ray.inline_job": {"read_bytes"},  # files that this worker has just written
    # a file to write to, which a browser is given
    "t2i.server.running": {"os.open", "os.fdopen", "webbrowser.open"},
    "t2i.server.compat.openai.streaming": {"Image.open"},
    "t2i.text.bpe": {"loads"},
    "train.cache.model_digests": {"loads"},
    "pipelines.base.pipeline_components": {"loads"},
    "pipelines.unclip.unclip": {"loads"},
}
"""Module -> what it may call, as it stands there or by the last name."""


def ways_in(source: str) -> Iterator[tuple[int, str]]:
    """Line and name of each call that opens or parses a file, writing left out."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module in MODULES:
            yield node.lineno, node.module
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            last = name.rpartition(".")[2]
            if name in ("read_text", "read_bytes", "expanduser"):  # of t2i.safe_reading, of os.path
                continue
            if ((last in READS or tuple(name.split(".")) in LOADERS) and not writes(node)) or (
                last in ("validate_json", "model_validate_json")
                and not (node.args and isinstance(node.args[0], ast.Call))
            ):
                yield node.lineno, name


def writes(call: ast.Call) -> bool:
    given = call.args[1:2] if ast.unparse(call.func) == "open" else call.args[:1]
    modes = given + [word.value for word in call.keywords if word.arg == "mode"]
    return any(isinstance(mode, ast.Constant) and str(mode.value)[:1] in "wax" for mode in modes)


def astray(module: str, source: str) -> list[str]:
    allowed = ALLOWED.get(module, set())
    return [
        f"{module}:{line} calls {name}: read it with t2i.safe_reading"
        for line, name in ways_in(source)
        if name not in allowed and name.rpartition(".")[2] not in allowed
    ]


def test_nothing_is_read_past_the_one_way_in(repo: Path) -> None:
    wrong = [
        message
        for module, path in modules(repo).items()
        for message in astray(module, path.read_text("utf-8"))
    ]
    assert not wrong, "\n".join(wrong)


def test_each_exception_is_needed(repo: Path) -> None:
    found = modules(repo)
    for module, names in ALLOWED.items():
        calls = {name for _, name in ways_in(found[module].read_text("utf-8"))}
        calls |= {name.rpartition(".")[2] for name in calls}
        assert names <= calls, f"{module} no longer calls {names - calls}"


@pytest.mark.parametrize(
    "source",
    [
        "Path('a').read_text()",
        "open('a')",
        "open('a', 'rb')",
        "json.load(file)",
        "json.loads(text)",
        "Image.open(path)",
        "safe_open(path, 'pt')",
        "torch.load(path)",
        "import tomllib",
        "tarfile.open(path)",
        "np.load(path)",
        "Model.model_validate_json(text)",
    ],
)
def test_the_test_sees_another_way_in(source: str) -> None:
    assert astray("train.any", source)


@pytest.mark.parametrize("source", ["open('a', 'w')", "path.open('a', encoding='utf-8')"])
def test_writing_is_no_way_in(source: str) -> None:
    assert not astray("train.any", source)
