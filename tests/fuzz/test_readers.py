"""Whatever a file holds, its reader gives an answer or a T2IError, in bounded time and memory.

Each reader is tried for a moment, and with `-m long` for T2I_FUZZ_SECONDS, 300 by default.
"""

import os
import resource
import time
import warnings
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from t2i.errors import T2IError
from tests.fuzz.mutations import mutated
from tests.fuzz.readers import READERS, Reader

SECONDS, BYTES = 5.0, 1 << 30
"""Of processor time, and of memory, that one file may cost at most."""
MESSAGE = 20_000
"""Letters of an error."""
MOMENT = 20
LONG = float(os.environ.get("T2I_FUZZ_SECONDS", "300"))
AT_ONCE = 500
"""Files of one search of hypothesis, each with a seed of its own."""


@pytest.fixture
def path(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the file of the reader goes: alone in a folder, which is where commands run too."""
    own = tmp_path / "own"
    found = own / READERS[request.node.callspec.params["name"]].name
    found.parent.mkdir(parents=True)
    monkeypatch.chdir(own)
    return found


def open_data_set(reader: Reader, tmp_path: Path) -> tuple[bytes, ...]:
    place = tmp_path / "samples"
    place.mkdir()
    return reader.samples(place)


def try_out(reader: Reader, path: Path, data: bytes) -> None:
    path.write_bytes(data)
    begun, before = time.process_time(), memory()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reader.read(path)
    except T2IError as error:
        said = len(str(error))
    else:
        said = 1
    assert 0 < said < MESSAGE
    assert time.process_time() - begun < SECONDS
    assert memory() - before < BYTES


def memory() -> int:
    """The most that this process ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.parametrize("name", READERS)
def test_a_sound_file_is_read_or_refused(name: str, path: Path, tmp_path: Path) -> None:
    for data in open_data_set(READERS[name], tmp_path):
        try_out(READERS[name], path, data)


@pytest.mark.parametrize("name", READERS)
def test_nothing_in_a_file_is_an_error_of_the_program(
    name: str, path: Path, tmp_path: Path
) -> None:
    search(READERS[name], path, open_data_set(READERS[name], tmp_path), MOMENT, derandomize=True)


@pytest.mark.long
@pytest.mark.timeout(0)
@pytest.mark.parametrize("name", READERS)
def test_nothing_found_in_minutes_is_one_either(name: str, path: Path, tmp_path: Path) -> None:
    samples, end = open_data_set(READERS[name], tmp_path), time.monotonic() + LONG
    while time.monotonic() < end:
        search(READERS[name], path, samples, AT_ONCE, derandomize=False)


def search(
    reader: Reader, path: Path, samples: tuple[bytes, ...], files: int, *, derandomize: bool
) -> None:
    @settings(
        max_examples=files,
        deadline=None,
        database=None,
        derandomize=derandomize,
        suppress_health_check=[*HealthCheck],
    )
    @given(st.one_of(mutated(samples), st.binary(max_size=256)))
    def read(data: bytes) -> None:
        try_out(reader, path, data)

    read()
