"""Files that nobody would write: sound ones, cut, repeated, joined and filled with what hurts."""

from collections.abc import Callable

from hypothesis import strategies as st

NASTY: tuple[bytes, ...] = (
    *(bytes([byte]) for byte in b"\0\1\xff\r\n\"'\\{}[],:=.-#0"),
    *(b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\xe2\x80\xae", b"\x1b[31m"),
    *(b"\\ud800", b"\\u0000", b"'''", b'"""', b"%s%n", b"{0..9999999}"),
    *(b"[" * 5000, b'{"a":' * 3000, b"a." * 5000, b"9" * 6000, b"x" * 70_000, b'"' * 3000),
    *(b"null", b"true", b"NaN", b"-Infinity", b"1e999", b"-1", b"99999999999999999999"),
    *(b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\0\0\0\0", b"2147483648"),
    *(b"../../etc/passwd", b"/dev/zero", b"~nobody/x", b"http://127.0.0.1:9/x"),
)


@st.composite
def mutated(draw: st.DrawFn, samples: tuple[bytes, ...]) -> bytes:
    """One of the samples after a few changes."""
    data = draw(st.sampled_from(samples))
    for _ in range(draw(st.integers(1, 6))):
        change = draw(st.sampled_from(CHANGES))
        data = change(draw, data, samples)[:400_000]
    return data


def place(draw: st.DrawFn, data: bytes) -> int:
    return draw(st.integers(0, len(data)))


def span(draw: st.DrawFn, data: bytes) -> slice:
    start = place(draw, data)
    return slice(start, start + draw(st.integers(0, 64)))


def insert(draw: st.DrawFn, data: bytes, _: tuple[bytes, ...]) -> bytes:
    at = place(draw, data)
    return data[:at] + draw(st.sampled_from(NASTY)) + data[at:]


def overwrite(draw: st.DrawFn, data: bytes, _: tuple[bytes, ...]) -> bytes:
    at, new = place(draw, data), draw(st.sampled_from(NASTY))
    return data[:at] + new + data[at + len(new) :]


def replace_span(draw: st.DrawFn, data: bytes, _: tuple[bytes, ...]) -> bytes:
    gone = span(draw, data)
    return data[: gone.start] + draw(st.sampled_from(NASTY)) + data[gone.stop :]


def flip(draw: st.DrawFn, data: bytes, _: tuple[bytes, ...]) -> bytes:
    if not data:
        return data
    at = draw(st.integers(0, len(data) - 1))
    return data[:at] + bytes([draw(st.integers(0, 255))]) + data[at + 1 :]


def cut(draw: st.DrawFn, data: bytes, _: tuple[bytes, ...]) -> bytes:
    return data[: place(draw, data)]


def drop(draw: st.DrawFn, data: bytes, _: tuple[bytes, ...]) -> bytes:
    gone = span(draw, data)
    return data[: gone.start] + data[gone.stop :]


def repeat(draw: st.DrawFn, data: bytes, _: tuple[bytes, ...]) -> bytes:
    again = span(draw, data)
    return data[: again.stop] + data[again] * draw(st.integers(1, 300)) + data[again.stop :]


def splice(draw: st.DrawFn, data: bytes, samples: tuple[bytes, ...]) -> bytes:
    other = draw(st.sampled_from(samples))
    return data[: place(draw, data)] + other[place(draw, other) :]


def random_bytes(draw: st.DrawFn, data: bytes, _: tuple[bytes, ...]) -> bytes:
    at = place(draw, data)
    return data[:at] + draw(st.binary(max_size=64)) + data[at:]


Change = Callable[[st.DrawFn, bytes, tuple[bytes, ...]], bytes]
CHANGES: tuple[Change, ...] = (
    insert, overwrite, replace_span, flip, cut, drop, repeat, splice, random_bytes,
)  # fmt: skip
