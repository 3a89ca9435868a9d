"""Samples behind a figure as one line of text, so that a later result can be paired with it.

Flags are one character each, "0110-"; other values are separated, "28.41 - 30.02"; "-" is a
sample that could not be measured.
"""

from collections.abc import Sequence

SampleValues = Sequence[float | None]
MISSING_VALUE = "-"


def format_sample_values(samples: SampleValues | None) -> str | None:
    """Format the values that a mean was computed from as one line of text.

    None for fewer than two values, which allow no interval.
    """
    if samples is None or len(samples) < 2:
        return None
    if all(sample in (None, 0, 1) for sample in samples):
        return "".join(MISSING_VALUE if sample is None else str(int(sample)) for sample in samples)
    return " ".join(MISSING_VALUE if sample is None else f"{sample:.5g}" for sample in samples)


def parse_sample_values(text: str) -> list[float | None]:
    """Return the list of sample values that `format_sample_values` wrote as text; ValueError for
    any other text.
    """
    words = text.split(" ") if " " in text else text
    return [None if word == MISSING_VALUE else float(word) for word in words]
