"""Training objective of a fine-tune: that of its base model's scheduler, where no key is set."""

from typing import Any

from pydantic import ValidationError

from t2i.errors import ArgumentError
from train.objective.objective import ObjectiveConfig


def resolve_objective_config(config: ObjectiveConfig, scheduler: Any) -> ObjectiveConfig:
    """Return the configuration of the training objective with unset keys filled in from the
    scheduler of the base model.

    Raises ArgumentError for a schedule that no objective describes.
    """
    schedule = dict(scheduler.config)
    if "Flow" in type(scheduler).__name__:
        own: dict[str, Any] = {"prediction": "flow"}
    elif schedule.get("trained_betas") is not None:
        raise ArgumentError(
            "The base model's schedule lists its own betas (trained_betas), which no objective "
            "describes."
        )
    else:
        own = {
            "prediction": schedule.get("prediction_type", "epsilon"),
            "beta_schedule": schedule.get("beta_schedule", "linear"),
            "beta_start": schedule.get("beta_start", 0.0001),
            "beta_end": schedule.get("beta_end", 0.02),
            "zero_terminal_snr": bool(schedule.get("rescale_betas_zero_snr", False)),
        }
    given = config.model_dump(include=config.model_fields_set)
    try:
        return ObjectiveConfig(**{**own, **given})
    except ValidationError as error:
        raise ArgumentError(
            f"The base model's schedule and [objective] contradict each other: "
            f"{error.errors()[0]['msg']}."
        ) from error
