"""Our pipelines with controls under diffusers' test mixins, see `tests/mixins/components.py`."""

from functools import cache
from typing import Any

from t2i.controls.control import Control
from tests.mixins import test_mixins
from tests.mixins.components import Components
from tests.pipelines.controls.networks import hint, tiny_adapter, tiny_controlnet
from tests.pipelines.controls.test_adapters import FOUR
from tests.tiny import tiny_sdxl_components, tiny_unet


@cache
def plain_network(seed: int = 5) -> Any:
    """A ControlNet for the tiny UNet; shared, as runs leave it as it was."""
    return tiny_controlnet(tiny_unet(), seed)


@cache
def xl_network() -> Any:
    return tiny_controlnet(tiny_sdxl_components(window=77)["unet"])


@cache
def four_block_adapter() -> Any:
    return tiny_adapter(tiny_unet(**FOUR))


class Controlled(Components):
    """Every call with a ControlNet that acts in a part of the run."""

    def make_controls(self) -> list[Control]:
        return [Control(plain_network(), hint(1), 0.8, (0.0, 0.6))]

    def get_dummy_inputs(self, device: str, seed: int = 0) -> dict[str, Any]:
        return super().get_dummy_inputs(device, seed) | {"controls": self.make_controls()}

    def test_the_controls_steer_the_calls_of_these_tests(self) -> None:
        pipe = self.pipeline_class(**self.get_dummy_components())
        pipe.set_progress_bar_config(disable=True)
        call = self.get_dummy_inputs("cpu")
        free = self.get_dummy_inputs("cpu") | {"controls": []}
        assert abs(pipe(**call).images - pipe(**free).images).max() > 1e-4


class ControlledTextToImage(Controlled, test_mixins.TextToImage): ...


class SeveralControls(Controlled, test_mixins.TextToImage):
    def make_controls(self) -> list[Control]:
        first = Control(plain_network(), hint(1), 0.9, mode="guess")
        return [first, Control(plain_network(6), hint(2), 0.4, (0.3, 1.0), "prompt")]


class ControlledTextToImageXL(Controlled, test_mixins.TextToImageXL):
    def make_controls(self) -> list[Control]:
        return [Control(xl_network(), hint(1), 0.8)]


class ControlledImageToImage(Controlled, test_mixins.ImageToImage):
    def make_controls(self) -> list[Control]:
        # Some samplers have a single step left of these short runs.
        return [Control(plain_network(), hint(1), 0.8)]


class ControlledInpaint(Controlled, test_mixins.Inpaint): ...


class WithAdapter(Controlled, test_mixins.TextToImage):
    """A T2I-Adapter on a UNet of four blocks."""

    def make_controls(self) -> list[Control]:
        return [Control(four_block_adapter(), hint(1, (64, 64)), 0.8)]

    def get_dummy_components(self, time_cond_proj_dim: int | None = None) -> dict[str, Any]:
        unet = tiny_unet(**FOUR, time_cond_proj_dim=time_cond_proj_dim)
        return super().get_dummy_components() | {"unet": unet}
