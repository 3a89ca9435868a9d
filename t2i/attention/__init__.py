"""Look into attention, and edit through it."""

import importlib
from typing import TYPE_CHECKING

from t2i.attention.attend import attend

if TYPE_CHECKING:
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

MODULE_BY_NAME = {
    "AttendAndExcite": "t2i.attention.edits.attend_and_excite",
    "Concept": "t2i.attention.probes.concepts",
    "Function": "t2i.attention.edits.function",
    "HeatMaps": "t2i.attention.probes.heat_maps",
    "InjectQueriesKeys": "t2i.attention.edits.inject_queries_keys",
    "LocalBlend": "t2i.attention.edits.local_blend",
    "Refine": "t2i.attention.edits.refine",
    "Region": "t2i.attention.edits.regions",
    "Regions": "t2i.attention.edits.regions",
    "Replace": "t2i.attention.edits.replace",
    "Reweight": "t2i.attention.edits.reweight",
    "SelfReplace": "t2i.attention.edits.self_replace",
    "Session": "t2i.attention.session.session",
    "ShareKeysValues": "t2i.attention.edits.share_keys_values",
    "Site": "t2i.attention.site",
    "Sites": "t2i.attention.site",
    "StepHeatMaps": "t2i.attention.probes.step_heat_maps",
    "StyleAligned": "t2i.attention.edits.style_aligned",
    "WeightWords": "t2i.attention.edits.weight_words",
    "from_dict": "t2i.attention.edits.registry",
    "load_map_tensors": "t2i.attention.probes.heat_maps",
    "to_dict": "t2i.attention.edits.registry",
}
"""Name -> the module that it waits in, which is imported when it is used."""


def __getattr__(name: str) -> object:
    if name in MODULE_BY_NAME:
        return getattr(importlib.import_module(MODULE_BY_NAME[name]), name)
    raise AttributeError(f"module 't2i.attention' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
