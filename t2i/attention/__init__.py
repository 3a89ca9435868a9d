"""Look into attention, and edit through it."""

from t2i.attention.attend import attend
from t2i.attention.edits.attend_and_excite import AttendAndExcite
from t2i.attention.edits.function import Function
from t2i.attention.edits.inject_queries_keys import InjectQueriesKeys
from t2i.attention.edits.local_blend import LocalBlend
from t2i.attention.edits.refine import Refine
from t2i.attention.edits.regions import Region, Regions
from t2i.attention.edits.registry import from_dict, to_dict
from t2i.attention.edits.replace import Replace
from t2i.attention.edits.reweight import Reweight
from t2i.attention.edits.self_replace import SelfReplace
from t2i.attention.edits.share_keys_values import ShareKeysValues
from t2i.attention.edits.style_aligned import StyleAligned
from t2i.attention.edits.weight_words import WeightWords
from t2i.attention.probes.concepts import Concept
from t2i.attention.probes.heat_maps import HeatMaps, load_map_tensors
from t2i.attention.probes.step_heat_maps import StepHeatMaps
from t2i.attention.session.session import Session
from t2i.attention.site import Site, Sites

__all__ = [
    "AttendAndExcite",
    "Concept",
    "Function",
    "HeatMaps",
    "InjectQueriesKeys",
    "LocalBlend",
    "Refine",
    "Region",
    "Regions",
    "Replace",
    "Reweight",
    "SelfReplace",
    "Session",
    "ShareKeysValues",
    "Site",
    "Sites",
    "StepHeatMaps",
    "StyleAligned",
    "WeightWords",
    "attend",
    "from_dict",
    "load_map_tensors",
    "to_dict",
]
