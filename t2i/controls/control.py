"""Controls: pictures that steer a run through a network beside the UNet, as `Control` data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from diffusers.models.adapter import MultiAdapter, T2IAdapter
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.controlnets.controlnet_union import ControlNetUnionModel
from diffusers.models.controlnets.multicontrolnet import MultiControlNetModel
from diffusers.models.controlnets.multicontrolnet_union import MultiControlNetUnionModel
from PIL import Image
from torch import Tensor, nn

from t2i.attention.site import StepWindow, check_step_window
from t2i.conditioning.guidance import check_finite_number
from t2i.errors import ArgumentError, suggest_choice
from t2i.terminal import plural

ControlMode = Literal["balanced", "prompt", "control", "guess"]
"""Balance of prompt and picture, see `Control`."""
CONTROL_MODES: tuple[ControlMode, ...] = get_args(ControlMode)
UNION_TYPES = {
    "openpose": 0,
    "depth": 1,
    "soft-edge": 2,
    "scribble": 2,
    "canny": 3,
    "lines": 3,
    "normal": 4,
    "segments": 5,
    "tile": 6,
    "repaint": 7,
}
"""What a hint is -> its number in the published union networks of XL (6 types, or 8)."""
BlockScales = Mapping[str, float] | Sequence[str]
"""Blocks of the UNet that are controlled, or the factor of each: "down.0", ..., "mid"."""


@dataclass(frozen=True, eq=False)
class Control:
    """A picture that steers a run, and the network that reads it: a ControlNet, one for several
    types of hints (union), or a T2I-Adapter.

    Any number of controls may be given to any pipeline as `controls=[...]`; what they add to the
    UNet is summed.

    >>> edges = Control(ControlNetModel.from_pretrained("canny"), "edges.png", scale=0.8)
    >>> pipe("a red apple", controls=[edges]).images[0]

    Parameters
    ----------
    model : a ControlNetModel, ControlNetUnionModel or T2IAdapter of diffusers, made for the family
        of the UNet. An adapter runs once, not at each step
    picture : the hint, at any size: a Pillow image, path, array (height, width, 3) or tensor
        (3, height, width) in 0..1; or a list of them, one per prompt or per image. It is resized to
        the image as diffusers does, without keeping its proportions; transparency becomes black
    scale : strength, 1 as trained
    steps : two floats are shares of the run, two integers the steps [first, end)
    mode : "balanced" as trained. "prompt" lets the prompt weigh more: the residual of the UNet's
        deepest block at full strength, each one before it at .825 of the next, .825^(12 - i) of
        thirteen in Stable Diffusion 1 and 2, .825^(9 - i) of ten in XL. "control" lets the picture
        weigh more: the same strengths, but in the conditional rows alone. An adapter's four
        features have .25, .62, .825 and 1 in both, three of a small model the last three. "guess"
        is diffusers' guess mode of ControlNets, for few or no words: from .1 to 1 in equal ratios,
        in the conditional rows alone
    mask : where the control acts: a picture as above in gray, white at full strength, or a list
    blocks : the UNet's blocks that are controlled, ("down.2", "mid"), or factors of them,
        {"down.0": 0.5, "mid": 1.0}; those that are not named are not controlled
    type : what the hint is, for a ControlNetUnionModel: a name of UNION_TYPES such as "canny", or
        its number in the network

    Raises ArgumentError for anything else.
    """

    model: nn.Module
    picture: Any
    scale: float = 1.0
    steps: StepWindow = (0.0, 1.0)
    mode: ControlMode = "balanced"
    mask: Any = None
    blocks: BlockScales | None = None
    type: int | str | None = None

    def __post_init__(self) -> None:
        check_control_model_type(self.model)
        check_picture_argument("picture", self.picture)
        check_finite_number("scale", self.scale)
        check_step_window("steps", self.steps)
        if self.mode not in CONTROL_MODES:
            raise ArgumentError(
                f"Got mode={self.mode!r:.80}. {suggest_choice(str(self.mode), CONTROL_MODES)}"
            )
        if self.mask is not None:
            check_picture_argument("mask", self.mask)
        self.block_scales  # noqa: B018 - raises ArgumentError
        check_hint_type_argument(self.type, self.network)
        if self.mode == "guess" and self.is_adapter:
            raise ArgumentError(
                'Got mode="guess" for a T2I-Adapter, which has no such mode: choose "control", in '
                "which the picture weighs more than the prompt."
            )

    @property
    def block_scales(self) -> Mapping[str, float] | None:
        """Strength factors of the UNet blocks that the control names, by block; None if it names no
        blocks.
        """
        if self.blocks is None:
            return None
        named = self.blocks
        scales = dict(named) if isinstance(named, Mapping) else None
        if scales is None and isinstance(named, list | tuple):
            scales = dict.fromkeys(named, 1.0)
        if not scales or not all(isinstance(name, str) for name in scales):
            raise ArgumentError(
                f"Got blocks={named!r:.80}, expected names of the UNet's blocks such as "
                "('down.2', 'mid'), or the factor of each, {'down.2': 0.5, 'mid': 1.0}."
            )
        for name, scale in scales.items():
            check_finite_number(f"blocks[{name!r}]", scale)
        return scales

    @property
    def type_number(self) -> int:
        """Number of the hint's type in the control's ControlNetUnionModel."""
        number = UNION_TYPES.get(self.type, 0) if isinstance(self.type, str) else self.type
        assert number is not None
        return number

    @property
    def is_union(self) -> bool:
        """True if the control's network is a ControlNet for several types of hints
        (ControlNetUnionModel).
        """
        return isinstance(self.network, ControlNetUnionModel)

    @property
    def is_adapter(self) -> bool:
        """True if the control's network is a T2I-Adapter, False if it is a ControlNet."""
        return isinstance(self.network, T2IAdapter)

    @property
    def has_cross_attention(self) -> bool:
        """True if the control's network reads the prompt by cross-attention; a T2I-Adapter does
        not, nor does a ControlNet of blocks without attention.
        """
        return any(getattr(one, "is_cross_attention", False) for one in self.network.modules())

    @property
    def network(self) -> Any:
        """Network of the control, unwrapped if torch.compile has wrapped it."""
        return getattr(self.model, "_orig_mod", self.model)

    def acts_at_step(self, step: int, num_steps: int) -> bool:
        """Return True if the control acts at a step of a run; shares are counted as by diffusers'
        control_guidance_start and control_guidance_end.
        """
        if self.steps is None:
            return True
        first, end = self.steps
        if isinstance(first, float) or isinstance(end, float):
            return not (step / num_steps < first or (step + 1) / num_steps > end)
        return first <= step < end


def check_control_model_type(model: object) -> None:
    """Raise ArgumentError unless the model is a ControlNet, union ControlNet or T2I-Adapter, which
    a Control can use.
    """
    network = getattr(model, "_orig_mod", model)
    if isinstance(network, MultiControlNetModel | MultiControlNetUnionModel | MultiAdapter):
        raise ArgumentError(
            f"Got a {type(network).__name__} as the model of one Control: give a Control for each "
            "of its networks, controls=[Control(net, picture) for net, picture in ...]."
        )
    if not isinstance(network, ControlNetModel | ControlNetUnionModel | T2IAdapter):
        raise ArgumentError(
            f"Got a model of type {type(network).__name__} for a Control, expected a "
            "ControlNetModel, a ControlNetUnionModel or a T2IAdapter: "
            "ControlNetModel.from_pretrained(folder)."
        )


def check_hint_type_argument(given: object, network: Any) -> None:
    """Raise ArgumentError unless a control's hint type is one that its union network has, or None
    for another network.
    """
    if not isinstance(network, ControlNetUnionModel):
        if given is not None:
            raise ArgumentError(
                f"Got type={given!r:.80} for a {type(network).__name__}, which reads one type of "
                "hints: leave it out, it is for a ControlNetUnionModel."
            )
        return
    count = network.config["num_control_type"]
    known = {name: number for name, number in UNION_TYPES.items() if number < count}
    if isinstance(given, str) and given in known:
        return
    if isinstance(given, int) and not isinstance(given, bool) and 0 <= given < count:
        return
    raise ArgumentError(
        f"Got type={given!r:.80} for a ControlNetUnionModel of {plural(count, 'type')} of hints, "
        f"expected what the hint is, or its number from 0 to {count - 1}. "
        f"{suggest_choice(str(given)[:80], known)}"
    )


def check_picture_argument(name: str, picture: object) -> None:
    """Raise ArgumentError unless the argument is a picture or a non-empty list of pictures."""
    pictures = picture if isinstance(picture, list | tuple) else [picture]
    kinds = Image.Image | np.ndarray | Tensor | str | Path
    wrong = [one for one in pictures if not isinstance(one, kinds)]
    if wrong or not pictures:
        found = type(wrong[0]).__name__ if wrong else "an empty list"
        raise ArgumentError(
            f"Got {found} as the {name} of a Control, expected a Pillow image, a path, an array, a "
            "tensor, or a list of them."
        )


def check_acts_in_run(control: Control, number: int, num_steps: int) -> None:
    """Raise ArgumentError for a control whose step window contains no step of the run."""
    if not any(control.acts_at_step(step, num_steps) for step in range(num_steps)):
        raise ArgumentError(
            f"Control {number} has steps={control.steps}, and acts at none of the run's "
            f"{plural(num_steps, 'step')}: a step counts if it lies wholly between the two shares. "
            "Widen them, give steps as integers, or leave the control out."
        )
