"""Measurements that a probe accumulates in one run, from which heat maps are aggregated.

N heads, S tokens of the words, Q positions of a site.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

import torch
from torch import Tensor
from torch.nn import functional

from t2i.attention.probes.presence import RunModel
from t2i.attention.probes.refinement import AffinityAccumulator
from t2i.attention.site import Site
from t2i.errors import ArgumentError
from t2i.terminal import plural

Size = tuple[int, int]
MIN_POSITIONS = 8 * 8
"""Least number of image positions of a site that tells where something is, if any site has as many.

Sites of 4 x 4 positions made the embedded model's maps worse: docs/decisions.md."""


@dataclass(slots=True)
class SiteAccumulator:
    """Running sum over steps of the token probabilities of one site and one image.

    total_NSQ : the sum, (N or 1, S, Q) float32
    steps : for each token the number of steps at which the prompt contained it
    score_1SQ : the sum of the convention's score of each token, where that is not the probability
        itself: its ratio to the largest probability of a token at each image position, a mean over
        heads, or the similarity of attention outputs
    """

    site: Site
    total_NSQ: Tensor
    steps: list[int]
    score_1SQ: Tensor | None = None

    @property
    def mean_over_steps_NSQ(self) -> Tensor:
        """Mean of a site's token probabilities, each over the steps at which the prompt contained
        the token.
        """
        return self.total_NSQ / self._num_steps_S1()

    @property
    def mean_score_1SQ(self) -> Tensor:
        """Mean over steps of the convention's score of each token at each image position."""
        assert self.score_1SQ is not None
        return self.score_1SQ / self._num_steps_S1()

    def add(
        self, words_NSQ: Tensor, columns: Sequence[int], score_1SQ: Tensor | None = None
    ) -> None:
        """Add the token probabilities of one step to the site's sums; `columns` are the numbers of
        the tokens that the prompt contains at this step.

        Tokens that are new at this step are the last columns of `words_NSQ`.
        """
        new = words_NSQ.shape[1] - self.total_NSQ.shape[1]
        if new:
            self.total_NSQ = functional.pad(self.total_NSQ, (0, 0, 0, new))
            self.steps += [0] * new
            if self.score_1SQ is not None:
                self.score_1SQ = functional.pad(self.score_1SQ, (0, 0, 0, new))
        self.total_NSQ += words_NSQ
        if score_1SQ is not None:
            if self.score_1SQ is None:
                self.score_1SQ = torch.zeros_like(score_1SQ)
            self.score_1SQ += score_1SQ
        for column in columns:
            self.steps[column] += 1

    def difference_since(self, before: "SiteAccumulator | None") -> "SiteAccumulator":
        """Return what the site's sums have gained since an earlier copy of them, as a new
        accumulator; with None, a copy of all of them.
        """
        total_NSQ = self.total_NSQ.clone()
        score_1SQ = None if self.score_1SQ is None else self.score_1SQ.clone()
        steps = list(self.steps)
        if before is not None:  # tokens that are new since then are the last columns
            known = len(before.steps)
            total_NSQ[:, :known] -= before.total_NSQ
            if score_1SQ is not None and before.score_1SQ is not None:
                score_1SQ[:, :known] -= before.score_1SQ
            steps[:known] = [a - b for a, b in zip(steps, before.steps, strict=False)]
        return SiteAccumulator(self.site, total_NSQ, steps, score_1SQ)

    def _num_steps_S1(self) -> Tensor:
        return self.total_NSQ.new_tensor(self.steps).clamp(min=1)[:, None]


@dataclass(slots=True)
class ProbeMeasurements:
    """Attention that a probe has read in one run, by image and site.

    tokens : for each word its columns along S; words may share columns
    columns : number of columns
    accumulators : (number of the prompt's image, name of the site) -> SiteAccumulator
    affinities : (number of the prompt's image, name of the site, or of all with joint attention)
        -> AffinityAccumulator, for the convention "refined"
    raw : site -> for each step (images, N, S, Q), if requested by the probe
    live : site -> (images, N, S, Q) of the last pass with gradients, if requested by the probe
    presence_model : model whose fit of `HeatMaps.found` applies to the maps; None for a probe of a
        part of the run, as of some sites
    concepts : words of the maps that are read beside the prompt
    edits : names of the edits under which the run was made
    caches : caches of the run, which leave out attention of some passes; "" without any
    """

    tokens: dict[str, tuple[int, ...]] = field(default_factory=dict)
    columns: int = 0
    accumulators: dict[tuple[int, str], SiteAccumulator] = field(default_factory=dict)
    affinities: dict[tuple[int, str], AffinityAccumulator] = field(default_factory=dict)
    latent_size: Size | None = None
    raw: dict[str, list[Tensor]] = field(default_factory=dict)
    live: dict[str, Tensor] = field(default_factory=dict)
    presence_model: RunModel | None = None
    concepts: frozenset[str] = frozenset()
    edits: tuple[str, ...] = ()
    caches: str = ""

    def clear(self) -> None:
        """Discard the attention that a probe has read in a run."""
        for entries in (self.tokens, self.accumulators, self.affinities, self.raw, self.live):
            entries.clear()
        self.columns = 0
        if self.presence_model is not None:
            self.presence_model.begin_run()

    def add_affinity(self, image_index: int, site: Site, probs_QQ: Tensor) -> None:
        """Add one step's self-attention probabilities (Q, Q) of a site; sites with joint attention
        of one size share a sum.
        """
        key = image_index, site.name if site.kind == "self" else f"joint {site.size}"
        if key in self.affinities:
            self.affinities[key].add(probs_QQ)
        else:
            self.affinities[key] = AffinityAccumulator(site, probs_QQ)

    def list_accumulators(self, image_index: int) -> list[SiteAccumulator]:
        """Return the sums of all sites of an image. Raises ArgumentError where there are none."""
        every = self.accumulators
        accumulators = [one for (index, _), one in every.items() if index == image_index]
        if not accumulators:
            indices = {index for index, _ in every}
            raise ArgumentError(
                f"There are maps of {plural(len(indices), 'picture')}, none of number "
                f"{image_index}."
                if indices
                else "There are no maps yet: make a picture inside `with attend(...)` first."
            )
        return accumulators

    def compute_totals(self, accumulators: Sequence[SiteAccumulator]) -> list[Tensor]:
        """Return the sum over steps (N or 1, S, Q) of each of these sites of an image.

        Where the run's caches left out some sites at some steps, each site of the UNet has the sum
        that it would have at as many steps as the one that ran most, so that all weigh the same.
        """
        if not self.caches:
            return [one.total_NSQ for one in accumulators]
        cached = [one for one in accumulators if one.site.control_number is None]
        most_S = [max(steps) for steps in zip_longest(*(one.steps for one in cached), fillvalue=0)]
        totals: list[Tensor] = []
        for one in accumulators:
            ratio_S = [1.0] * len(one.steps)
            if one.site.control_number is None:  # caches leave out nothing of other networks
                ratio_S = [
                    most / max(steps, 1) for most, steps in zip(most_S, one.steps, strict=False)
                ]
            totals.append(one.total_NSQ * one.total_NSQ.new_tensor(ratio_S)[:, None])
        return totals

    def select_refinement_affinity(self, image_index: int) -> AffinityAccumulator:
        """Return the self-attention of an image that refines its heat maps: that of the largest
        site. Raises ArgumentError where no self-attention was read.
        """
        found = [one for (index, _), one in self.affinities.items() if index == image_index]
        if not found:
            own = [
                one.site for (index, _), one in self.accumulators.items() if index == image_index
            ]
            read = sorted({(site.kind, site.size or (1, site.num_positions)) for site in own})
            sites = ", ".join(f"{kind}-attention on {h} x {w}" for kind, (h, w) in read)
            raise ArgumentError(
                'convention="refined" needs self-attention in the decoder ("up") of a UNet, or '
                "joint attention, on at most 32 x 32 positions, and this run has none: its words "
                f"were read in {sites}. Choose another convention, or a smaller image."
            )
        return max(found, key=lambda one: one.site.num_positions)


def leave_out_coarse_sites(accumulators: Sequence[SiteAccumulator]) -> list[SiteAccumulator]:
    """Return the sums of those sites whose maps tell where something is: of at least MIN_POSITIONS
    image positions, or of the largest number where no site has as many.
    """
    least = min(MIN_POSITIONS, max(one.site.num_positions for one in accumulators))
    return [one for one in accumulators if one.site.num_positions >= least]
