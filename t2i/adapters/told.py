"""How strongly the layers of a LoRA act, as headers of diffusers and configs of peft say it."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from t2i.adapters.names import WHOLE
from t2i.errors import ModelError

HEADER = "lora_adapter_metadata"
"""Under which diffusers keeps it in a file."""
PATTERN = re.compile(r"\^?[\w.\\-]+(\.\*[\w.\\-]*){0,2}\$?", re.ASCII)
"""peft takes regular expressions: those that somebody means, and none that never ends."""
LONGEST = 500


@dataclass(frozen=True, slots=True)
class Alphas:
    """Of one part of a model."""

    alpha: float
    patterns: Mapping[str, float] = field(default_factory=dict)
    by_root: bool = False
    """Divided by the square root of the rank, not by the rank (rsLoRA, Kalajdzievski 2023)."""

    def of(self, module: str, rank: int) -> float:
        """Alpha that gives, divided by the rank, the scale that was meant."""
        found = next(
            (alpha for pattern, alpha in self.patterns.items() if fits(pattern, module)), self.alpha
        )
        return found * math.sqrt(rank) if self.by_root else found


def fits(pattern: str, module: str) -> bool:
    """As peft matches: from the start, or from behind any dot; to the end."""
    anchored = pattern.startswith("^")
    bare = pattern.removeprefix("^").removeprefix(WHOLE).removesuffix("$")
    return re.fullmatch(bare if anchored else rf"(?:.*\.)?(?:{bare})", module) is not None


def from_header(path: object, header: Mapping[str, str]) -> dict[str, Alphas]:
    """Part -> what the header says of its layers. Raises ModelError for what cannot be read."""
    if not (text := header.get(HEADER)):
        return {}
    try:
        told = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: its header {HEADER} is not JSON: {error}.") from error
    if not isinstance(told, dict):
        raise ModelError(f"{path}: its header {HEADER} holds no JSON object.")
    parts: dict[str, dict[str, object]] = {}
    for key, value in told.items():
        part, dot, name = key.partition(".")
        if dot:
            parts.setdefault(part, {})[name] = value
    return {part: from_config(path, config) for part, config in parts.items()}


def from_config(path: object, config: Mapping[str, object]) -> Alphas:
    """What a config of peft's says, of LoRA or of LoHa and LoKr."""
    alpha = config.get("lora_alpha", config.get("alpha", 8))
    patterns = config.get("alpha_pattern") or {}
    if not isinstance(patterns, dict):
        raise ModelError(f"{path}: its alpha_pattern is no JSON object.")
    for pattern in patterns:
        if len(pattern) > LONGEST or not PATTERN.fullmatch(pattern):
            raise ModelError(
                f"{path}: its alpha_pattern has {pattern!r:.200}, expected names of modules."
            )
        try:
            re.compile(pattern)
        except re.error as error:
            raise ModelError(f"{path}: its alpha_pattern has {pattern!r:.200}: {error}.") from error
    return Alphas(
        finite(path, "alpha", alpha),
        {pattern: finite(path, pattern, value) for pattern, value in patterns.items()},
        by_root=config.get("use_rslora") is True,
    )


def finite(path: object, name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ModelError(f"{path}: its {name} is {value!r:.80}, expected a finite number.")
    return float(value)
