"""Alphas, ranks and layer types declared in diffusers' headers and peft's configs."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from t2i.adapters.lora_layers import MODEL_PARTS, LowRankUpdate, WeightUpdate
from t2i.adapters.module_names import TEXT_MODEL_PREFIX
from t2i.adapters.peft_fields import LAYER_KINDS, check_peft_config_fields
from t2i.errors import ModelError
from t2i.safe_reading import parse_json

HEADER_KEY = "lora_adapter_metadata"
"""Metadata key under which diffusers keeps peft's config in a file."""
SAFE_PATTERN = re.compile(r"\^?[\w.\\-]+(\.\*[\w.\\-]*){0,2}\$?", re.ASCII)
"""Patterns accepted from configs: peft takes any regular expression, some never terminate."""
MAX_PATTERN_LENGTH = 500


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """Alphas, ranks and layer kind that a LoRA file's header, or peft's adapter_config.json,
    declares for one model part.

    alpha_patterns, rank_patterns : regular expression of module names -> value other than the
        default
    rank, kind, dora : None where the config does not declare it
    rank_stabilized : scaled by alpha / sqrt(rank) (rsLoRA, Kalajdzievski 2023)
    """

    alpha: float
    alpha_patterns: Mapping[str, float] = field(default_factory=dict)
    rank_stabilized: bool = False
    rank: float | None = None
    rank_patterns: Mapping[str, float] = field(default_factory=dict)
    kind: str | None = None
    dora: bool | None = None

    def compute_alpha(self, module: str, rank: int) -> float:
        """Return the LoRA alpha of a module that, divided by `rank`, gives the scale that the
        adapter's config declares.
        """
        found = find_pattern_value(self.alpha_patterns, module, self.alpha)
        return found * math.sqrt(rank) if self.rank_stabilized else found

    def find_declared_rank(self, module: str) -> float | None:
        """Return the LoRA rank that an adapter's config declares for a module, or None if it
        declares none.
        """
        return (
            None if self.rank is None else find_pattern_value(self.rank_patterns, module, self.rank)
        )

    def describe_contradiction(self, module: str, layer: WeightUpdate) -> str | None:
        """Describe where a LoRA layer's tensors contradict the adapter's config, or return None."""
        if self.kind is not None and layer.kind != self.kind:
            return f"its tensors are of a {layer.kind}, and its config is of a {self.kind}"
        if not isinstance(layer, LowRankUpdate):
            return None
        has_magnitude = layer.magnitude is not None
        if self.dora is not None and has_magnitude is not self.dora:
            has = "have" if has_magnitude else "lack"
            declared = str(self.dora).lower()
            return (
                f"its tensors {has} the magnitude of DoRA, and its config says use_dora = "
                f"{declared}"
            )
        rank = self.find_declared_rank(module)
        if rank is not None and rank != layer.rank:
            return f"its tensors are of rank {layer.rank}, and its config says {rank:g}"
        return None


def find_pattern_value(patterns: Mapping[str, float], module: str, default: float) -> float:
    """Return the rank or alpha of the first module name pattern that matches a module, or `default`
    if none does.
    """
    found = (
        value for pattern, value in patterns.items() if pattern_matches_module(pattern, module)
    )
    return next(found, default)


def pattern_matches_module(pattern: str, module: str) -> bool:
    """Return True if a pattern of an adapter config matches a module's name by peft's rule: the
    whole name, or what follows any dot.

    Modules of text encoders match with and without "text_model.".
    """
    return any(
        re.match(rf"(?:.*\.)?(?:{pattern})$", name) for name in (module, TEXT_MODEL_PREFIX + module)
    )


def build_adapter_configs_from_header(
    path: object, header: Mapping[str, str]
) -> dict[str, AdapterConfig]:
    """Build the adapter config of each model part, part -> config, from a LoRA file's header.

    Raises ModelError for a broken header.
    """
    if not (text := header.get(HEADER_KEY)):
        return {}
    try:
        fields = parse_json(text, lenient=True)
    except ValueError as error:
        raise ModelError(f"{path}: its header {HEADER_KEY} is not JSON: {error}.") from error
    if not isinstance(fields, dict):
        raise ModelError(f"{path}: its header {HEADER_KEY} holds no JSON object.")
    parts: dict[str, dict[str, object]] = {}
    shared: dict[str, object] = {}
    for key, value in fields.items():
        part, dot, name = key.partition(".")
        if dot:
            parts.setdefault(part, {})[name] = value
        else:  # written by `unet.save_lora_adapter`
            shared[key] = value
    if shared and parts:
        raise ModelError(
            f"{path}: its header {HEADER_KEY} has {min(shared)!r:.80} beside names of parts, "
            "expected "
            "a part before each name or before none."
        )
    if shared:
        return dict.fromkeys(MODEL_PARTS, build_adapter_config_from_peft(path, shared))
    return {part: build_adapter_config_from_peft(path, config) for part, config in parts.items()}


def build_adapter_config_from_peft(path: object, config: Mapping[str, object]) -> AdapterConfig:
    """Build the adapter config from the content of peft's adapter_config.json (LoRA, LoHa, LoKr).

    Raises ModelError for unsupported values.
    """
    check_peft_config_fields(path, config)
    kind = config.get("peft_type")
    dora, rank = config.get("use_dora"), config.get("r")
    return AdapterConfig(
        parse_number(path, "alpha", config.get("lora_alpha", config.get("alpha", 8))),
        parse_patterns(path, config, "alpha_pattern"),
        rank_stabilized=require_bool_or_none(path, "use_rslora", config.get("use_rslora")) is True,
        rank=None if rank is None else parse_number(path, "r", rank),
        rank_patterns=parse_patterns(path, config, "rank_pattern"),
        kind=None if kind is None else LAYER_KINDS[str(getattr(kind, "value", kind))],
        dora=require_bool_or_none(path, "use_dora", dora),
    )


def parse_patterns(path: object, config: Mapping[str, object], name: str) -> dict[str, float]:
    """Parse a table of an adapter's config that maps module name patterns to ranks or alphas.
    Raises ModelError for unsafe patterns.
    """
    patterns = config.get(name) or {}
    if not isinstance(patterns, dict):
        raise ModelError(f"{path}: its {name} is no JSON object.")
    for pattern in patterns:
        if len(pattern) > MAX_PATTERN_LENGTH or not SAFE_PATTERN.fullmatch(pattern):
            raise ModelError(f"{path}: its {name} has {pattern!r:.200}, expected names of modules.")
        try:
            re.compile(pattern)
        except re.error as error:
            raise ModelError(f"{path}: its {name} has {pattern!r:.200}: {error}.") from error
    return {pattern: parse_number(path, pattern, value) for pattern, value in patterns.items()}


def parse_number(path: object, name: str, value: object) -> float:
    """Return a value of an adapter's config as a float. Raises ModelError unless it is a finite
    number.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not is_finite(value):
        raise ModelError(f"{path}: its {name} is {value!r:.80}, expected a finite number.")
    return float(value)


def is_finite(value: int | float) -> bool:
    """Return True if a number of an adapter's config is finite as a float, False also for an
    integer too large for one.
    """
    try:
        return math.isfinite(float(value))
    except OverflowError:  # a whole number of many digits
        return False


def require_bool_or_none(path: object, name: str, value: object) -> bool | None:
    """Return a value of an adapter's config if it is a boolean or None. Raises ModelError
    otherwise.
    """
    if value is None or isinstance(value, bool):
        return value
    raise ModelError(f"{path}: its {name} is {value!r:.80}, expected true or false.")
