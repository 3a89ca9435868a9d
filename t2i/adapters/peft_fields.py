"""The supported fields of peft's configs; fields that could change the update are refused."""

from collections.abc import Mapping

from t2i.adapters.module_names import printable_name
from t2i.errors import ModelError

LAYER_KINDS = {"LORA": "lora", "LOHA": "loha", "LOKR": "lokr"}
"""peft_type -> the kind of its layers."""
READ_FIELDS = frozenset(
    ("peft_type r lora_alpha alpha rank_pattern alpha_pattern use_rslora use_dora").split()
)
HARMLESS_FIELDS = frozenset(
    (
        "task_type auto_mapping peft_version base_model_name_or_path revision inference_mode "
        "lora_dropout rank_dropout rank_dropout_scale module_dropout target_modules "
        "exclude_modules layers_to_transform layers_pattern runtime_config megatron_core "
        "qalora_group_size loftq_config eva_config corda_config lora_ga_config "
        "use_effective_conv2d decompose_both decompose_factor"
    ).split()
)
"""Fields about training and origin, and fields that the tensor shapes imply."""
UNSUPPORTED_FIELDS = frozenset(
    (
        "bias fan_in_fan_out modules_to_save megatron_config trainable_token_indices "
        "velora_config alora_invocation_tokens use_qalora monteclora_config layer_replication "
        "lora_bias target_parameters use_bdlora arrow_config kasa_config ensure_weight_tying"
    ).split()
)
"""Fields that are refused unless unset."""
SUPPORTED_INITIALIZATIONS: Mapping[str, tuple[object, ...]] = {
    "init_lora_weights": (None, True, False, "gaussian", "eva", "orthogonal", "mica"),
    "init_weights": (None, True, False, "lycoris"),
}
"""Field -> initializations that leave the base weights unchanged."""
CONVERTIBLE_INITIALIZATIONS = ("pissa", "olora", "corda", "lora_ga")
"""Initializations that move a part of the base weights into the LoRA."""
UNSET_VALUES: tuple[object, ...] = (None, False, "none", "", [], {}, ())


def check_peft_config_fields(path: object, config: Mapping[str, object]) -> None:
    """Raise ModelError for peft config fields that change the tensors' meaning or are unknown."""
    kind = config.get("peft_type")
    named = getattr(kind, "value", kind)
    if kind is not None and not (isinstance(named, str) and named in LAYER_KINDS):
        raise ModelError(
            f"{path}: its config is of the peft_type {printable_value(kind)}, expected LORA, "
            "LOHA or LOKR."
        )
    for name, value in sorted(config.items()):
        if name in READ_FIELDS or name in HARMLESS_FIELDS:
            continue
        if name in SUPPORTED_INITIALIZATIONS:
            check_peft_initialization(path, name, value)
        elif value not in UNSET_VALUES:
            why = (
                "which changes the meaning of its tensors and is not supported. Train it without"
                if name in UNSUPPORTED_FIELDS
                else "which is unknown and could change the meaning of its tensors. If it does "
                "not, remove it from the config"
            )
            raise ModelError(
                f"{path}: its config has {printable_name(name)} = {printable_value(value)}, {why}."
            )


def check_peft_initialization(path: object, name: str, value: object) -> None:
    """Raise ModelError for a peft initialization that changes the base weights."""
    known = value.lower() if isinstance(value, str) else value
    if any(
        known is fine or (isinstance(fine, str) and known == fine)
        for fine in SUPPORTED_INITIALIZATIONS[name]
    ):
        return
    prefix = f"{path}: its config has {name} = {printable_value(value)}"
    if isinstance(known, str) and known.startswith(CONVERTIBLE_INITIALIZATIONS):
        raise ModelError(
            f"{prefix}: it applies to weights that peft changed when the training began, not to "
            "those of the model. Save it where it was trained with save_pretrained(folder, "
            "path_initial_model_for_weight_conversion=...), which converts it to an ordinary LoRA."
        )
    if known == "loftq":
        raise ModelError(
            f"{prefix}: it applies to the rounded weights that it was trained on, not to those "
            "of the model. Merge it into those, and give the merged model."
        )
    raise ModelError(
        f"{prefix}, which is unknown: it may apply to changed weights. Give one initialized as "
        "peft "
        "does by default."
    )


def printable_value(value: object) -> str:
    """Return a value for messages, shortened and without unprintable characters."""
    return printable_name(f"{getattr(value, 'value', value)!r:.80}")
