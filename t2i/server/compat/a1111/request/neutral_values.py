"""Fields of A1111 that t2i does not have: accepted at the value that changes nothing, else refused.

Nothing is ignored: a field that is not known here is refused by name too, unless it is empty.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from t2i.errors import ArgumentError
from t2i.server.compat.a1111.request.bodies import GenerationBody

EMPTY_VALUES: tuple[object, ...] = (None, "", False, 0, [], {})
"""Values that switch a feature off, whatever its name."""

NEUTRAL_VALUES_BY_FIELD: Mapping[str, tuple[object, ...]] = {
    "styles": EMPTY_VALUES,
    "subseed_strength": EMPTY_VALUES,
    "seed_resize_from_h": (*EMPTY_VALUES, -1),
    "seed_resize_from_w": (*EMPTY_VALUES, -1),
    "restore_faces": EMPTY_VALUES,
    "tiling": EMPTY_VALUES,
    "eta": (None, 0, 1),
    "s_churn": EMPTY_VALUES,
    "s_tmin": EMPTY_VALUES,
    "s_tmax": (*EMPTY_VALUES, math.inf),
    "s_noise": (None, 1),
    "s_min_uncond": EMPTY_VALUES,
    "refiner_checkpoint": (*EMPTY_VALUES, "None"),
    "disable_extra_networks": EMPTY_VALUES,
    "firstpass_image": EMPTY_VALUES,
    "comments": EMPTY_VALUES,
    "infotext": EMPTY_VALUES,
    "script_name": (*EMPTY_VALUES, "None"),
    "firstphase_width": EMPTY_VALUES,
    "firstphase_height": EMPTY_VALUES,
    "latent_mask": EMPTY_VALUES,
    "mask_round": (None, True),
    "initial_noise_multiplier": (None, 1),
}
"""Field -> values that change nothing."""

REFUSAL_REASON_BY_FIELD: Mapping[str, str] = {
    "styles": "there are no saved styles: write them into the prompt",
    "subseed_strength": "pictures between two seeds are not drawn: leave it at 0",
    "restore_faces": "there is no restorer of faces: send false",
    "tiling": "pictures that can be tiled are not drawn: send false",
    "eta": "each sampler has its own: leave it out, and choose another sampler_name",
    "refiner_checkpoint": "a refiner is not run after the model: leave it out",
    "disable_extra_networks": "take <lora:...> out of the prompt instead",
    "infotext": "send its values as fields",
    "script_name": "there are no scripts, as /sdapi/v1/scripts says: leave it out",
    "firstphase_width": "width and height are the size before enable_hr enlarges it",
    "firstphase_height": "width and height are the size before enable_hr enlarges it",
    "latent_mask": "send the mask as `mask`",
}
"""Field -> why it is refused, and what to do."""


def check_no_unsupported_fields(body: GenerationBody) -> None:
    """Raise ArgumentError for a field of an A1111 request body that asks for something which t2i
    does not do.
    """
    for name, neutral in NEUTRAL_VALUES_BY_FIELD.items():
        value = getattr(body, name, None)
        if value not in neutral:
            raise build_unsupported_field_error(
                name, value, REFUSAL_REASON_BY_FIELD.get(name, "it has no counterpart here")
            )
    for name, value in (body.model_extra or {}).items():
        if value not in EMPTY_VALUES:
            raise build_unsupported_field_error(
                name, value, "no such field is known here: leave it out"
            )
    _check_scripts(body.alwayson_scripts or {})


def build_unsupported_field_error(name: str, value: object, reason: str) -> ArgumentError:
    """Return an ArgumentError for a field of an A1111 request body that t2i cannot honour, with the
    reason.
    """
    return ArgumentError(f"Got {name}={value!r:.80}, which is not done here: {reason}.")


def _check_scripts(scripts: Mapping[str, Any]) -> None:
    """Raise ArgumentError for a script that would act; clients send those switched off, too."""
    for name, settings in scripts.items():
        arguments = settings.get("args") if isinstance(settings, Mapping) else settings
        if not _is_switched_off(arguments):
            raise ArgumentError(
                f"Got alwayson_scripts with {name!r:.80}, which is not done here: this server has "
                "no such script, as /sdapi/v1/scripts says. Leave it out."
            )


def _is_switched_off(arguments: object) -> bool:
    """Return True for a script's arguments that ask for nothing: [], [False], disabled units."""
    if isinstance(arguments, Mapping):
        return any(arguments.get(key) is False for key in ("enabled", "enable", "is_enabled"))
    if isinstance(arguments, Sequence) and not isinstance(arguments, str):
        first_is_off = bool(arguments) and arguments[0] is False
        return first_is_off or all(map(_is_switched_off, arguments))
    return arguments in EMPTY_VALUES
