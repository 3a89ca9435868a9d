"""What callbacks may ask a pipeline about its call under way."""

from abc import abstractmethod

from t2i.conditioning.run import Guidance


class UnderWay:
    """Base of our pipelines: diffusers' names for the state of a call."""

    _guidance_scale: float
    _num_timesteps: int
    _interrupt: bool

    @abstractmethod
    def guidance(self) -> Guidance:
        """The formula for the current call."""

    @property
    def guidance_scale(self) -> float:
        return self._guidance_scale

    @property
    def do_classifier_free_guidance(self) -> bool:
        return "uncond" in self.guidance().needs

    @property
    def num_timesteps(self) -> int:
        return self._num_timesteps

    @property
    def interrupt(self) -> bool:
        """Whether a callback or another thread has set `_interrupt`: the run ends early."""
        return self._interrupt
