"""Steps of a recorded source and of its targets, as people look at them: heat maps and predicted
images of each, and how far the latents are apart.

B images, C channels, H W latent size.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from pipelines.prompt_to_prompt.recorded_heat_maps import read_recorded_heat_maps
from pipelines.prompt_to_prompt.recorded_source import RecordedSource
from t2i.server.worker.previews import compute_clean_latents_from_latent_pair
from t2i.server.worker.word_maps import PromptHeatMaps

if TYPE_CHECKING:
    from t2i.attention.probes.heat_maps import HeatMaps


def read_word_maps_of_source(
    pipe: Any, source: RecordedSource, tokens: Mapping[str, tuple[int, ...]], *, steps: bool
) -> PromptHeatMaps:
    """Read the heat maps of words of a recorded source, and those of each step if asked for.

    tokens : word -> positions of its tokens
    """
    of_steps: list[HeatMaps] | None = [] if steps else None
    maps = read_recorded_heat_maps(pipe, source, *tokens, steps=of_steps)
    return PromptHeatMaps(maps, dict(tokens), of_steps or ())


def compute_recorded_clean_latents(pipe: Any, source: RecordedSource) -> list[Tensor]:
    """Return the clean latents (1, C, H, W) that each step of a recorded source, such as an
    inverted photo, implies.
    """
    before, found = source.noise, []
    levels: list[float | None] = [step.timestep for step in source.path_steps]
    for step in range(source.steps.count):
        after = source.latents_after_step(step)
        if before is None or len(levels) != source.steps.count:
            clean = after
        else:
            timestep, following = levels[step], [*levels, None][step + 1]
            assert timestep is not None
            clean = compute_clean_latents_from_latent_pair(
                pipe.scheduler, before, after, timestep, following
            )
        found.append(clean.detach().float().cpu())
        before = after
    return found


def compute_step_rmse_to_source(
    latents: Sequence[Tensor], source: RecordedSource | None
) -> list[list[float]]:
    """Return the root-mean-square difference of each edit target's latents from the source's after
    each step, as one list of numbers per step.
    """
    distances = []
    for step, latents_BCHW in enumerate(latents):
        if source is None:
            first, others = latents_BCHW[:1], latents_BCHW[1:]
        else:
            count = source.steps.count
            if step >= count:
                break
            first, others = source.latents_after_step(step).detach().float().cpu(), latents_BCHW
        squares_B = (others - first).square().flatten(1).mean(dim=1)
        distances.append([round(math.sqrt(float(square)), 5) for square in squares_B])
    return distances
