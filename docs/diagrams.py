"""Diagrams of docs/architecture.md as SVG: `python -m docs.diagrams` writes them to docs/images/.

Each is a column of modules with what happens in them; a test holds that every module exists and
that the files are those of this description.
"""

from html import escape
from typing import NamedTuple

from docs.pages import REPO

WIDTH, BOX, GAP, MARGIN = 760, 54, 34, 16
FRAME, TEXT, MUTED, FILL = "#5a6acf", "#1c1e26", "#555b6e", "#f4f5fc"


class Stage(NamedTuple):
    """One box: a module, what it does, and what it hands to the next one."""

    module: str
    does: str
    gives: str = ""


DIAGRAMS: dict[str, tuple[Stage, ...]] = {
    "way-of-a-prompt": (
        Stage("t2i/text/prompt.py", "parses the prompt grammar", "weighted text for each step"),
        Stage("t2i/text/encoders/windows.py", "tokenizes and encodes", "embeddings (B, T, D)"),
        Stage(
            "t2i/conditioning/conditioning.py",
            "everything the denoiser is given, with the role of each batch row",
            "Conditioning",
        ),
        Stage("pipelines/loop.py", "the sampling loop over the scheduler's timesteps", "latents"),
        Stage("t2i/denoiser/families/sd.py", "calls the UNet", "a prediction for each branch"),
        Stage("t2i/conditioning/guidance.py", "combines the branches", "one prediction"),
        Stage("pipelines/base/pipeline.py", "decodes the last latents", "images"),
    ),
    "way-of-a-probe": (
        Stage("t2i/attention/attend.py", "opens a session on a pipeline", "Session"),
        Stage("t2i/attention/hooks/discovery.py", "finds the attention sites", "sites"),
        Stage(
            "t2i/attention/prompts/prompt_tokens.py",
            "finds the tokens of the words among the keys",
            "positions along T",
        ),
        Stage(
            "t2i/attention/compute/tap.py",
            "replaces scaled_dot_product_attention",
            "query, key, value",
        ),
        Stage(
            "t2i/attention/compute/probabilities.py",
            "recomputes the wanted probabilities beside the kernel",
            "maps (B, N, Q, words)",
        ),
        Stage("t2i/attention/probes/probe.py", "sums over heads, sites and steps", "HeatMaps"),
        Stage("t2i/attention/probes/heat_maps.py", "overlays, files and sheets of the maps"),
    ),
    "way-of-a-training-picture": (
        Stage("train/data/discovery.py", "finds the pictures and their captions", "a list"),
        Stage(
            "train/data/picture_checks.py", "reads each once and refuses what is broken", "sizes"
        ),
        Stage("train/batches/batch_order.py", "seed, step, slot -> which picture", "an index"),
        Stage("train/data/transforms.py", "scales, crops, mirrors", "TrainingExample"),
        Stage("train/batches/micro_batch.py", "puts samples together", "MicroBatch (B, C, H, W)"),
        Stage("train/targets/denoising.py", "noises, predicts, compares", "a loss for each row"),
        Stage("train/step.py", "backward pass, clipping, optimizer", "new weights"),
        Stage("train/loop.py", "checkpoints, validation, sample sheets, export"),
    ),
}


def svg(stages: tuple[Stage, ...]) -> str:
    """Return the diagram as an SVG document."""
    height = 2 * MARGIN + len(stages) * BOX + (len(stages) - 1) * GAP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        f'viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="14">',
        f'<rect width="{WIDTH}" height="{height}" rx="8" fill="white"/>',
    ]
    for number, stage in enumerate(stages):
        top = MARGIN + number * (BOX + GAP)
        parts += [
            f'<rect x="{MARGIN}" y="{top}" width="{WIDTH - 2 * MARGIN}" height="{BOX}" rx="6" '
            f'fill="{FILL}" stroke="{FRAME}"/>',
            f'<text x="{MARGIN + 14}" y="{top + 22}" fill="{FRAME}" font-family="monospace">'
            f"{escape(stage.module)}</text>",
            f'<text x="{MARGIN + 14}" y="{top + 42}" fill="{TEXT}">{escape(stage.does)}</text>',
        ]
        if number + 1 < len(stages):
            begin, end, middle = top + BOX, top + BOX + GAP, WIDTH // 2
            parts += [
                f'<path d="M {middle} {begin} V {end - 6}" stroke="{FRAME}" stroke-width="2"/>',
                f'<path d="M {middle - 6} {end - 9} L {middle} {end - 1} L {middle + 6} {end - 9} '
                f'Z" fill="{FRAME}"/>',
                f'<text x="{middle + 14}" y="{begin + 22}" fill="{MUTED}" font-style="italic">'
                f"{escape(stage.gives)}</text>",
            ]
    return "\n".join([*parts, "</svg>", ""])


def main() -> None:
    """Write every diagram to docs/images/."""
    for name, stages in DIAGRAMS.items():
        (REPO / "docs" / "images" / f"{name}.svg").write_text(svg(stages), "utf-8")


if __name__ == "__main__":
    main()
