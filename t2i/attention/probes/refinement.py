"""Refinement of heat maps by self-attention: positions that attend to one another share a map.

A word's cross-attention map is coarse at its edges, while the image's self-attention separates an
object from what surrounds it. DiffSegmenter (Wang et al. 2023, arXiv 2309.02773) and others
multiply the map by a power of the self-attention matrix; here the matrix A is sharpened instead:

    map'_i = sum_j w_ij map_j,    w_ij = A_ij^2 / sum_j A_ij^2

In joint attention (SD3, Flux) the image's positions attend to one another in every site: there A is
the part of the map over the image's keys, a mean over the sites as well.

Q positions of a site, H W its size.
"""

from dataclasses import dataclass

from torch import Tensor

from t2i.attention.site import Site

MAX_POSITIONS = 32 * 32
"""Largest number of image positions of a site whose self-attention refines heat maps."""
EXPONENT = 2.0
"""Exponent of the self-attention probabilities, as if the softmax had half the temperature.

Chosen with FIRST_SHARE on 40 scenes of the embedded model's objects: docs/decisions.md."""
FIRST_SHARE = 0.4
"""Share of a probe's steps before self-attention is read: until then noise hides the objects."""


@dataclass(slots=True)
class AffinityAccumulator:
    """Running sum over steps of the self-attention probabilities of one site, or of all sites with
    joint attention, and one image, each a mean over heads.

    total_QQ : the sum, (Q, Q) float32; a row is one query position
    count : number of the maps in the sum
    """

    site: Site
    total_QQ: Tensor
    count: int = 1

    @property
    def mean_QQ(self) -> Tensor:
        """Mean over steps, and sites with joint attention, of the self-attention probabilities
        (Q, Q) for one image.
        """
        return self.total_QQ / self.count

    def add(self, probs_QQ: Tensor) -> None:
        """Add one step's self-attention probabilities (Q, Q) to the sum of a site and image."""
        self.total_QQ += probs_QQ
        self.count += 1


def is_refinement_site(site: Site) -> bool:
    """Return True for a site whose attention can refine heat maps: self-attention of a UNet's
    decoder, or joint attention, on a grid of at most MAX_POSITIONS.
    """
    if site.size is None or site.num_positions > MAX_POSITIONS:
        return False
    if site.kind == "joint":
        return site.image[1] <= site.text[0] or site.text[1] <= site.image[0]
    return site.kind == "self" and site.place == "up" and site.keys == site.num_positions


def refine_map(map_HW: Tensor, affinity_QQ: Tensor) -> Tensor:
    """Return a heat map (H, W) in which each position has the mean of the positions that it
    attends to, weighted by the EXPONENT-th power of the self-attention probabilities (Q, Q),
    Q = H W.
    """
    weights_QQ = affinity_QQ.to(map_HW) ** EXPONENT
    weights_QQ = weights_QQ / weights_QQ.sum(dim=-1, keepdim=True)
    return (weights_QQ @ map_HW.flatten()).view_as(map_HW)
