"""Look into attention, and edit through it."""

from t2i.attention.edits.local_blend import LocalBlend
from t2i.attention.edits.refine import Refine
from t2i.attention.edits.replace import Replace
from t2i.attention.edits.reweight import Reweight
from t2i.attention.edits.self_replace import SelfReplace
from t2i.attention.maps import HeatMaps, load_maps
from t2i.attention.session import Session, attend
from t2i.attention.site import Site, Sites

__all__ = [
    "HeatMaps",
    "LocalBlend",
    "Refine",
    "Replace",
    "Reweight",
    "SelfReplace",
    "Session",
    "Site",
    "Sites",
    "attend",
    "load_maps",
]
