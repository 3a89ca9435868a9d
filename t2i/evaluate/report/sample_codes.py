"""The samples behind a figure as one line of text, so that a later result can be paired with them.

Flags are a character each, "0110-"; other values stand apart, "28.41 - 30.02"; "-" is a sample that
could not be measured.
"""

from collections.abc import Sequence

Samples = Sequence[float | None]
MISSING = "-"


def encode_samples(samples: Samples | None) -> str | None:
    """None of fewer than two samples, which no interval can rest on."""
    if samples is None or len(samples) < 2:
        return None
    if all(sample in (None, 0, 1) for sample in samples):
        return "".join(MISSING if sample is None else str(int(sample)) for sample in samples)
    return " ".join(MISSING if sample is None else f"{sample:.5g}" for sample in samples)


def decode_samples(text: str) -> list[float | None]:
    """Raises ValueError for what `as_text` does not write."""
    words = text.split(" ") if " " in text else text
    return [None if word == MISSING else float(word) for word in words]
