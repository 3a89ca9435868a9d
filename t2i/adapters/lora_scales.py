"""How strongly the layers of a LoRA act, as headers of diffusers and configs of peft say it."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from t2i.adapters.lora_layers import PARTS, Layer, Low
from t2i.adapters.module_names import WHOLE
from t2i.adapters.peft_fields import KINDS, check_fields
from t2i.errors import ModelError
from t2i.safe_reading import parse_json

HEADER = "lora_adapter_metadata"
"""Under which diffusers keeps it in a file."""
PATTERN = re.compile(r"\^?[\w.\\-]+(\.\*[\w.\\-]*){0,2}\$?", re.ASCII)
"""peft takes regular expressions: those that somebody means, and none that never ends."""
LONGEST = 500


@dataclass(frozen=True, slots=True)
class Told:
    """Of one part of a model.

    rank, kind, dora : None where nothing is said of it
    by_root : divided by the square root of the rank, not by the rank (rsLoRA, Kalajdzievski 2023)
    """

    alpha: float
    patterns: Mapping[str, float] = field(default_factory=dict)
    by_root: bool = False
    rank: float | None = None
    ranks: Mapping[str, float] = field(default_factory=dict)
    kind: str | None = None
    dora: bool | None = None

    def alpha_of(self, module: str, rank: int) -> float:
        """Alpha that gives, divided by the rank, the scale that was meant."""
        found = matching(self.patterns, module, self.alpha)
        return found * math.sqrt(rank) if self.by_root else found

    def rank_of(self, module: str) -> float | None:
        return None if self.rank is None else matching(self.ranks, module, self.rank)

    def contradicted(self, module: str, layer: Layer) -> str:
        """What the tensors of a layer are that was said otherwise, or ""."""
        if self.kind is not None and layer.kind != self.kind:
            return f"its tensors are of a {layer.kind}, and its config is of a {self.kind}"
        if not isinstance(layer, Low):
            return ""
        has_magnitude = layer.magnitude is not None
        if self.dora is not None and has_magnitude is not self.dora:
            has = "have" if has_magnitude else "lack"
            said = str(self.dora).lower()
            return f"its tensors {has} the magnitude of DoRA, and its config says use_dora = {said}"
        rank = self.rank_of(module)
        if rank is not None and rank != layer.rank:
            return f"its tensors are of rank {layer.rank}, and its config says {rank:g}"
        return ""


def matching(patterns: Mapping[str, float], module: str, default: float) -> float:
    found = (value for pattern, value in patterns.items() if fits(pattern, module))
    return next(found, default)


def fits(pattern: str, module: str) -> bool:
    """As peft matches: from the start, or from behind any dot; to the end. A text encoder's modules
    are called with "text_model." and without, so that both names count."""
    return any(re.match(rf"(?:.*\.)?(?:{pattern})$", name) for name in (module, WHOLE + module))


def from_header(path: object, header: Mapping[str, str]) -> dict[str, Told]:
    """Part -> what the header says of its layers. Raises ModelError for what cannot be read."""
    if not (text := header.get(HEADER)):
        return {}
    try:
        told = parse_json(text, lenient=True)
    except ValueError as error:
        raise ModelError(f"{path}: its header {HEADER} is not JSON: {error}.") from error
    if not isinstance(told, dict):
        raise ModelError(f"{path}: its header {HEADER} holds no JSON object.")
    parts: dict[str, dict[str, object]] = {}
    of_all: dict[str, object] = {}
    for key, value in told.items():
        part, dot, name = key.partition(".")
        if dot:
            parts.setdefault(part, {})[name] = value
        else:  # as `unet.save_lora_adapter` has it
            of_all[key] = value
    if of_all and parts:
        raise ModelError(
            f"{path}: its header {HEADER} has {min(of_all)!r:.80} beside names of parts, expected "
            "a part before each name or before none."
        )
    if of_all:
        return dict.fromkeys(PARTS, from_config(path, of_all))
    return {part: from_config(path, config) for part, config in parts.items()}


def from_config(path: object, config: Mapping[str, object]) -> Told:
    """What a config of peft's says, of LoRA or of LoHa and LoKr."""
    check_fields(path, config)
    kind = config.get("peft_type")
    dora, rank = config.get("use_dora"), config.get("r")
    return Told(
        finite(path, "alpha", config.get("lora_alpha", config.get("alpha", 8))),
        patterns_of(path, config, "alpha_pattern"),
        by_root=switch(path, "use_rslora", config.get("use_rslora")) is True,
        rank=None if rank is None else finite(path, "r", rank),
        ranks=patterns_of(path, config, "rank_pattern"),
        kind=None if kind is None else KINDS[str(getattr(kind, "value", kind))],
        dora=switch(path, "use_dora", dora),
    )


def patterns_of(path: object, config: Mapping[str, object], name: str) -> dict[str, float]:
    patterns = config.get(name) or {}
    if not isinstance(patterns, dict):
        raise ModelError(f"{path}: its {name} is no JSON object.")
    for pattern in patterns:
        if len(pattern) > LONGEST or not PATTERN.fullmatch(pattern):
            raise ModelError(f"{path}: its {name} has {pattern!r:.200}, expected names of modules.")
        try:
            re.compile(pattern)
        except re.error as error:
            raise ModelError(f"{path}: its {name} has {pattern!r:.200}: {error}.") from error
    return {pattern: finite(path, pattern, value) for pattern, value in patterns.items()}


def finite(path: object, name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not within(value):
        raise ModelError(f"{path}: its {name} is {value!r:.80}, expected a finite number.")
    return float(value)


def within(value: int | float) -> bool:
    try:
        return math.isfinite(float(value))
    except OverflowError:  # a whole number of many digits
        return False


def switch(path: object, name: str, value: object) -> bool | None:
    if value is None or isinstance(value, bool):
        return value
    raise ModelError(f"{path}: its {name} is {value!r:.80}, expected true or false.")
