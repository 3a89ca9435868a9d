"""Plots as SVG that takes its text colour from the page, light or dark."""

import io
import itertools

from t2i.evaluate.optional_imports import explaining_missing_extra
from t2i.evaluate.report.chapter import Plot

LINE_COLOURS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
    "#7a7a7a",
    "#8c6bb1",
)
"""Line colours in order (Okabe and Ito, distinguishable by colour-blind readers)."""
PLACEHOLDER_TEXT_COLOUR = "#010203"
"""Colour that nothing else in the plot has; the page's own text colour replaces it."""
FIGURE_SIZE = 5.6, 3.2
"""Width and height in inches: a telephone shows it at two thirds, still readable."""


def render_plot_as_svg(plot: Plot) -> str:
    """Render a plot of a report as SVG, without a legend, which the page has.

    The lines take LINE_COLOURS in order.
    """
    with explaining_missing_extra():
        import matplotlib
        from matplotlib.figure import Figure
    with matplotlib.rc_context(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": plot.name,
            "font.size": 10,
            "text.color": PLACEHOLDER_TEXT_COLOUR,
            "axes.edgecolor": PLACEHOLDER_TEXT_COLOUR,
            "axes.labelcolor": PLACEHOLDER_TEXT_COLOUR,
            "xtick.color": PLACEHOLDER_TEXT_COLOUR,
            "ytick.color": PLACEHOLDER_TEXT_COLOUR,
        }
    ):
        figure = Figure(figsize=FIGURE_SIZE, layout="constrained")
        axes = figure.add_subplot()
        places = sorted({at for points in plot.lines.values() for at, _ in points})
        nearest = min((b - a for a, b in itertools.pairwise(places)), default=1.0)
        for number, points in enumerate(plot.lines.values()):
            # Side by side, so that intervals at one place can be told apart.
            aside = (number - (len(plot.lines) - 1) / 2) * nearest * 0.06
            at = [place + aside for place, _ in points]
            values = [point.value for _, point in points]
            down = [0.0 if p.low is None else p.value - p.low for _, p in points]
            up = [0.0 if p.high is None else p.high - p.value for _, p in points]
            colour = LINE_COLOURS[number % len(LINE_COLOURS)]
            axes.plot(at, values, color=colour, marker="o", markersize=4, linewidth=1.6)
            axes.errorbar(at, values, (down, up), ecolor=colour, alpha=0.45, fmt="none")
        axes.set_xticks(places, [f"{place:g}" for place in places])
        axes.set_xlabel(plot.x_label)
        axes.set_ylabel(plot.y_label)
        axes.grid(axis="y", color="#808080", alpha=0.3, linewidth=0.6)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        figure.patch.set_alpha(0)
        axes.patch.set_alpha(0)
        written = io.StringIO()
        figure.savefig(written, format="svg", metadata={"Date": None})
    text = written.getvalue().replace(PLACEHOLDER_TEXT_COLOUR, "currentColor")
    return text[text.index("<svg") :]
