"""Options of A1111's API: the model of an owner's requests, and values that cannot be changed."""

import threading
from collections.abc import Mapping
from typing import Any

from t2i.errors import ArgumentError
from t2i.server.catalogue import Catalogue

MODEL_OPTION = "sd_model_checkpoint"
FIXED_OPTION_VALUES: Mapping[str, object] = {
    "sd_checkpoint_hash": None,
    "sd_vae": "Automatic",
    "CLIP_stop_at_last_layers": 1,
    "eta_noise_seed_delta": 0,
    "face_restoration_model": None,
    "samples_format": "png",
}
"""Option -> its only value."""
NEUTRAL_OPTION_VALUES: Mapping[str, tuple[object, ...]] = {
    "sd_vae": ("", "None", None),
    "CLIP_stop_at_last_layers": (None, 0),
    "samples_format": (None,),
}
"""Option -> further values that mean the same."""


class OwnerModels:
    """Model that each owner has chosen through the options of A1111's API, until the server
    ends.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        self._lock = threading.Lock()
        self._models: dict[str, str] = {}

    def read_options(self, owner: str) -> dict[str, Any]:
        """Return the options of A1111's API as an owner has set them."""
        with self._lock:
            model = self._models.get(owner, self.catalogue.default_model)
        return {MODEL_OPTION: model, **FIXED_OPTION_VALUES}

    def set_model_from_options(self, owner: str, values: Mapping[str, Any]) -> None:
        """Set an owner's model from options of A1111's API. Raises T2IError for an unknown model,
        or an option that is fixed.
        """
        model = self.check_options_and_find_model(owner, values)
        with self._lock:
            self._models[owner] = model

    def check_options_and_find_model(self, owner: str, values: Mapping[str, Any]) -> str:
        """Check options of an A1111 request and return the model that it uses: the one they name,
        else the owner's.

        Raises T2IError as `set_model_from_options` does.
        """
        options = self.read_options(owner)
        for name, value in values.items():
            if name == MODEL_OPTION:
                continue
            if name not in FIXED_OPTION_VALUES:
                raise ArgumentError(
                    f"Got the option {name!r:.80}, which is not known here: leave it out. Known "
                    f"are {', '.join(options)}."
                )
            if value != FIXED_OPTION_VALUES[name] and value not in NEUTRAL_OPTION_VALUES.get(
                name, ()
            ):
                raise ArgumentError(
                    f"Got the option {name}={value!r:.80}, which is not done here: its only value "
                    f"is {FIXED_OPTION_VALUES[name]!r}."
                )
        chosen = values.get(MODEL_OPTION)
        if chosen in (None, ""):
            return str(options[MODEL_OPTION])
        if not isinstance(chosen, str):
            raise ArgumentError(
                f"Got the option {MODEL_OPTION}={chosen!r:.80}: expected a model's name."
            )
        return self.catalogue.resolve_model_name(chosen)
