"""Caches of a run: parts of its denoiser passes that are left out and reused."""

from t2i.denoiser.caches.cache import Cache
from t2i.denoiser.caches.deep_blocks import DeepBlocks
from t2i.denoiser.caches.gated_cross_attention import GatedCrossAttention
from t2i.denoiser.caches.registry import parse_cache

__all__ = ["Cache", "DeepBlocks", "GatedCrossAttention", "parse_cache"]
