"""Number formats of figures in a report."""

from t2i.evaluate.report.chapter import Cell, Estimate

DECIMALS_BY_UNIT = {"%": 1, "points": 1, "dB": 1, "s": 2, "MB": 0}
"""Unit -> decimals that are shown; figures of other units have three significant digits.

Points are the difference of two shares.
"""
PERCENT_UNITS = ("%", "points")
"""Units whose figures are shares of 1 and are shown times 100."""


def format_number_omitting_unit(value: float, unit: str = "") -> str:
    """Return a number as text in the scale and decimals of its unit, but without the unit: 0.975 of
    "%" as "97.5", decibels as "31.2".
    """
    if unit in DECIMALS_BY_UNIT:
        return f"{value * 100 if unit in PERCENT_UNITS else value:.{DECIMALS_BY_UNIT[unit]}f}"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def format_cell_with_unit(cell: Cell, unit: str) -> str:
    """Format a cell of a report as text: a number with its unit, "-" for an empty cell."""
    if not isinstance(cell, Estimate):
        return cell or "-"
    return f"{format_number_omitting_unit(cell.value, unit)} {unit}".strip()


def format_interval(figure: Estimate, unit: str) -> str:
    """Format the ends of a confidence interval, as "81 to 86"; "" if there is none."""
    if figure.low is None or figure.high is None:
        return ""
    low, high = (format_number_omitting_unit(end, unit) for end in (figure.low, figure.high))
    return f"{low} to {high}"
