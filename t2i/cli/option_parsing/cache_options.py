"""Caches of a request, as they are typed: "deep:every=3"."""

from collections.abc import Sequence

from t2i.errors import ArgumentError


def check_cache_options(texts: Sequence[str], *, of_photo: bool) -> None:
    """Raise ArgumentError for text that names no cache, caches that exclude one another, and any
    cache for a photo that is edited by its words.
    """
    if not texts:
        return
    # Here, for it imports torch, which most requests need much later.
    from t2i.denoiser.caches.registry import check_caches_go_together, parse_cache

    if of_photo:
        raise ArgumentError(
            f"Got --cache {texts[0]} for a photo that is inverted: its path is followed exactly "
            "only in full passes. Leave the cache out."
        )
    check_caches_go_together([parse_cache(text) for text in texts])
