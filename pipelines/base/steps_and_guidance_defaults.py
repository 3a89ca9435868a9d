"""Steps and guidance scale of a pipeline's calls that give none."""

from typing import Any, ClassVar

from pipelines.run.call_arguments import CallArguments
from t2i.denoiser.sampling_defaults import parse_sampling_defaults


class StepsAndGuidanceDefaultsMixin:
    """Mixin of a pipeline whose calls use the model's own steps and guidance scale by default."""

    text_encoder_2: Any
    notes: str | None
    sdxl_guidance: ClassVar[float] = 5.0
    """Default of diffusers' SDXL pipelines; for other models it is that of CallArguments."""

    @classmethod
    def choose_fallback_defaults(cls, *, is_sdxl: bool) -> dict[str, Any]:
        """Return the default number of steps and guidance scale for models that come without their
        own: those of diffusers.
        """
        scale = cls.sdxl_guidance if is_sdxl else CallArguments.guidance_scale
        return {"num_inference_steps": CallArguments.num_inference_steps, "guidance_scale": scale}

    @property
    def defaults(self) -> dict[str, Any]:
        """Default number of steps and guidance scale of the pipeline's calls: the model's own (from
        its t2i.json), else the fallback.
        """
        return parse_sampling_defaults(self.notes).override_call_arguments(
            self.choose_fallback_defaults(is_sdxl=self.text_encoder_2 is not None)
        )

    def steps_or_default(self, num_inference_steps: int | None) -> int:
        """Return the given number of sampling steps, or the model's default for None."""
        if num_inference_steps is None:
            return int(self.defaults["num_inference_steps"])
        return num_inference_steps

    def guidance_scale_or_default(self, guidance_scale: float | None) -> float:
        """Return the given guidance scale, or the model's default for None."""
        if guidance_scale is None:
            return float(self.defaults["guidance_scale"])
        return guidance_scale
