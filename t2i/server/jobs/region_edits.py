"""Words bound to boxes of an edit's images, as a job's request names them."""

from collections.abc import Mapping, Sequence

from t2i.server.jobs.job_request import RegionChoice


def build_region_edits(
    regions: Sequence[RegionChoice], num_targets: int
) -> tuple[Mapping[str, object], ...]:
    """Return the edits that bind words to boxes, one for each target, as JSON data that
    t2i.attention.edits.registry.from_dict reads; none without regions.

    num_targets : number of images that are drawn beside the source
    Raises ArgumentError for a box that is none, or a region without words.
    """
    if not regions:
        return ()
    # Here, for they import torch, which most requests need much later.
    from t2i.attention.edits.regions import Region, Regions
    from t2i.attention.edits.registry import to_dict

    bound = [Region(words=region.words, box=region.box) for region in regions]
    return tuple(to_dict(Regions(bound, target=target)) for target in range(1, num_targets + 1))
