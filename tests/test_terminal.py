"""No control character leaves in what is printed, and a terminal that is gone stops nothing."""

import logging
import sys
import unicodedata
import warnings

import pytest

from t2i.errors import OutputError
from t2i.terminal import (
    BIDI_CONTROLS,
    escape_controls,
    escaping_log_records,
    flush_stdout,
    print_note_to_stderr,
    print_result_line,
    print_rich,
    showing_warnings_on_one_line,
)

HOSTILE = "a\x1b]0;owned\x07\x9b31m\r\u202egnp\u2028\x7f"
SPELLED = "a\\u001b]0;owned\\u0007\\u009b31m\\u000d\\u202egnp\\u2028\\u007f"


def commands_in(text: str) -> set[str]:
    """What a terminal would obey, line feeds left out."""
    return {
        c
        for c in text
        if c not in "\n\t"
        and (unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") or c in BIDI_CONTROLS)
    }


def test_a_command_is_spelled_out_and_the_rest_stays() -> None:
    assert escape_controls(HOSTILE) == SPELLED
    assert escape_controls("caf\u00e9 \u732b \U0001f408", "\n") == "caf\u00e9 \u732b \U0001f408"
    assert escape_controls("a\nb") == "a\\u000ab"
    assert escape_controls("a\nb", "\n") == "a\nb"


def test_each_way_to_print_spells_it_out(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table("word", box=None)
    table.add_row(Text(HOSTILE))
    print_result_line(HOSTILE)
    print_note_to_stderr(HOSTILE)
    print_rich(table)
    with showing_warnings_on_one_line():
        warnings.warn(HOSTILE, stacklevel=1)
    logger = logging.getLogger("test of a library")
    handler = logging.StreamHandler(sys.stderr)
    logger.addHandler(handler)
    with escaping_log_records():
        logger.warning("the config has %s", HOSTILE)
    logger.removeHandler(handler)
    out, err = capsys.readouterr()
    assert out.splitlines()[0] == SPELLED
    assert "\\u001b]0;owned" in out.split("\n", 1)[1]
    assert err.splitlines()[:3] == [SPELLED, f"Warning: {SPELLED}", f"the config has {SPELLED}"]
    assert not commands_in(out + err)


class Gone:
    """A stream that takes nothing any more."""

    def __init__(self, error: OSError) -> None:
        self.error = error

    def write(self, _: str) -> int:
        raise self.error

    def flush(self) -> None:
        raise self.error


def test_what_was_given_at_any_length_makes_no_endless_message() -> None:
    error = OutputError("Got " + "x" * 1_000_000 + ": expected less.")
    assert len(str(error)) < 10_100
    assert str(error).startswith("Got xxx")
    assert str(error).endswith("xxx: expected less.")


def test_a_terminal_that_is_gone_stops_no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Gone(OSError(5, "Input/output error")))
    print_note_to_stderr("a cat")


def test_a_result_that_cannot_be_written_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Gone(OSError(28, "No space left on device")))
    for act in (lambda: print_result_line("a cat"), flush_stdout):
        with pytest.raises(OutputError, match=r"Cannot write the result .*: No space left"):
            act()
    monkeypatch.setattr(sys, "stdout", Gone(BrokenPipeError()))
    with pytest.raises(BrokenPipeError):  # as with `| head -1`
        print_result_line("a cat")
