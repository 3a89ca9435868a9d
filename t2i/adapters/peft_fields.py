"""Fields of peft's configs: those that are read, those that change nothing, and all others, which
could change what the numbers of a LoRA mean and are refused by name."""

from collections.abc import Mapping

from t2i.adapters.module_names import shown
from t2i.errors import ModelError

KINDS = {"LORA": "lora", "LOHA": "loha", "LOKR": "lokr"}
"""peft_type -> the kind of its layers."""
READ = frozenset(
    "peft_type r lora_alpha alpha rank_pattern alpha_pattern use_rslora use_dora".split()
)
HARMLESS = frozenset(
    "task_type auto_mapping peft_version base_model_name_or_path revision inference_mode "
    "lora_dropout rank_dropout rank_dropout_scale module_dropout target_modules exclude_modules "
    "layers_to_transform layers_pattern runtime_config megatron_core qalora_group_size "
    "loftq_config eva_config corda_config lora_ga_config "
    "use_effective_conv2d decompose_both decompose_factor".split()
)
"""How it was trained, where it lies, and what the shapes of the tensors say too."""
CHANGING = frozenset(
    "bias fan_in_fan_out modules_to_save megatron_config trainable_token_indices velora_config "
    "alora_invocation_tokens use_qalora monteclora_config layer_replication lora_bias "
    "target_parameters use_bdlora arrow_config kasa_config ensure_weight_tying".split()
)
"""Refused unless left unset."""
BEGINNINGS: Mapping[str, tuple[object, ...]] = {
    "init_lora_weights": (None, True, False, "gaussian", "eva", "orthogonal", "mica"),
    "init_weights": (None, True, False, "lycoris"),
}
"""Field -> its values under which the weights below the LoRA stayed as they were."""
CONVERTIBLE = ("pissa", "olora", "corda", "lora_ga")
"""Which begin with a part of the weights and take it out of them; so does loftq, which rounds."""
UNSET: tuple[object, ...] = (None, False, "none", "", [], {}, ())


def check_fields(path: object, config: Mapping[str, object]) -> None:
    """Raise ModelError for a field under which the numbers would mean something else."""
    kind = config.get("peft_type")
    named = getattr(kind, "value", kind)
    if kind is not None and not (isinstance(named, str) and named in KINDS):
        raise ModelError(
            f"{path}: its config is of the peft_type {spelled(kind)}, expected LORA, LOHA or LOKR."
        )
    for name, value in sorted(config.items()):
        if name in READ or name in HARMLESS:
            continue
        if name in BEGINNINGS:
            check_beginning(path, name, value)
        elif value not in UNSET:
            why = (
                "which changes what its numbers mean and is not read here. Train it without"
                if name in CHANGING
                else "which is not known here and could change what its numbers mean. If it does "
                "not, take it out of the config"
            )
            raise ModelError(f"{path}: its config has {shown(name)} = {spelled(value)}, {why}.")


def check_beginning(path: object, name: str, value: object) -> None:
    known = value.lower() if isinstance(value, str) else value
    if any(known is fine or (isinstance(fine, str) and known == fine) for fine in BEGINNINGS[name]):
        return
    begun = f"{path}: its config has {name} = {spelled(value)}"
    if isinstance(known, str) and known.startswith(CONVERTIBLE):
        raise ModelError(
            f"{begun}: it counts from weights that peft changed when the training began, not from "
            "those of the model. Save it where it was trained with save_pretrained(folder, "
            "path_initial_model_for_weight_conversion=...), which makes an ordinary LoRA of it."
        )
    if known == "loftq":
        raise ModelError(
            f"{begun}: it counts from the rounded weights that it was trained on, not from those "
            "of the model. Merge it into those, and give the merged model."
        )
    raise ModelError(
        f"{begun}, which is not known here: it may count from changed weights. Give one that began "
        "as peft does by default."
    )


def spelled(value: object) -> str:
    return shown(f"{getattr(value, 'value', value)!r:.80}")
