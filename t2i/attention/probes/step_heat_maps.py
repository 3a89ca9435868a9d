"""Heat maps of the single steps of a run."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from t2i.attention.probes.heat_maps import HeatMaps
from t2i.attention.probes.measurements import ProbeMeasurements, SiteAccumulator


@dataclass(slots=True)
class StepHeatMaps:
    """Step callback that keeps the heat maps of each step, apart from those of the whole run.

    maps : of a probe of the run
    steps : for each step the heat maps of what the probe has read at it. With the convention
        "refined" all of them are refined by the self-attention of the whole run.
    """

    maps: HeatMaps
    steps: list[HeatMaps] = field(default_factory=list)
    _totals: dict[tuple[int, str], SiteAccumulator] = field(default_factory=dict)

    def before_pass(self, run: object) -> None:
        """Do nothing before a denoiser pass: this step callback, which collects heat maps, acts
        after steps only.
        """

    def after_step(self, run: object) -> None:
        """Store the heat maps of what a probe has read in this step, apart from those of the whole
        run.
        """
        self.keep_new_measurements()

    def keep_new_measurements(self) -> None:
        """Keep what the probe has read since the last call, as the heat maps of one step."""
        measured = self.maps.measurements
        own = ProbeMeasurements(
            tokens=dict(measured.tokens),
            columns=measured.columns,
            accumulators={
                key: total.difference_since(self._totals.get(key))
                for key, total in measured.accumulators.items()
            },
            affinities=measured.affinities,
            latent_size=measured.latent_size,
        )
        maps = self.maps
        self.steps.append(
            HeatMaps(own, maps.words, maps.convention, maps.requested_grid, maps.image_index)
        )
        self._totals = {
            key: total.difference_since(None) for key, total in measured.accumulators.items()
        }

    @contextmanager
    def collecting(self, pipe: Any) -> Iterator[None]:
        """Keep the heat maps of each step that the pipeline runs within the block."""
        pipe.step_callbacks.append(self)
        try:
            yield
        finally:
            pipe.step_callbacks.remove(self)
