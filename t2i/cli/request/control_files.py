"""Controls of a request: files of a network, its picture and mask, and how it acts."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from t2i.cli.option_parsing.option_values import NO_FILES_VALUE, format_number, quote_part
from t2i.cli.request.files_with_settings import (
    NamedFilesMixin,
    OptionSyntax,
    format_steps_setting,
)
from t2i.cli.request.input_files import MAX_SCALE, InputFile
from t2i.errors import ArgumentError, suggest_choice
from t2i.terminal import plural

ControlMode = Literal["balanced", "prompt", "control", "guess"]
CONTROL_MODES: tuple[ControlMode, ...] = ("balanced", "prompt", "control", "guess")
MAX_CONTROLS = 16
SYNTAX = OptionSyntax(
    option="--control",
    expected="MODEL:PICTURE, the network and the picture that it reads",
    names=("scale", "steps", "mode", "mask", "blocks", "type"),
    example="--control canny:edges.png:scale=0.8,steps=0-0.6",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlFilesAndSettings(NamedFilesMixin):
    """Control (ControlNet) of a request: the files of its network, picture and mask, with its
    scale, steps, mode and blocks; see t2i.controls.control.Control.

    model : folder or .safetensors file of its network
    steps : shares of the run
    blocks : of the UNet; None for all
    type : of the hint, for a network that reads several types (union): a name or a number
    """

    model: InputFile
    picture: InputFile
    scale: float = 1.0
    steps: tuple[float, float] = (0.0, 1.0)
    mode: ControlMode = "balanced"
    mask: InputFile | None = None
    blocks: tuple[str, ...] | None = None
    type: str | None = None
    file_names_by_field: ClassVar[Mapping[str, str]] = {
        "model": "control_model",
        "picture": "control_picture",
        "mask": "control_mask",
    }

    def __post_init__(self) -> None:
        if not (math.isfinite(self.scale) and abs(self.scale) <= MAX_SCALE):
            raise ArgumentError(
                f"Got --control with scale={self.scale}: expected a finite number, such as 0.8, up "
                f"to {MAX_SCALE}."
            )
        SYNTAX.check_step_window(self.steps)
        if self.mode not in CONTROL_MODES:
            raise ArgumentError(
                f"Got --control with mode={self.mode!r:.80}. "
                f"{suggest_choice(self.mode, CONTROL_MODES)}"
            )
        if self.blocks is not None and not all(name and "+" not in name for name in self.blocks):
            raise ArgumentError(
                "Got --control with an empty name in blocks, or one with a plus: expected names of "
                "the UNet's blocks, as in blocks=down.2+mid."
            )

    @property
    def option_value(self) -> str:
        """This control as the value of its command-line option, unquoted for a shell."""
        settings = [f"scale={format_number(self.scale)}", format_steps_setting(self.steps)]
        settings += [f"mode={self.mode}"]
        settings += [] if self.mask is None else [f"mask={quote_part(self.mask.path)}"]
        settings += [] if self.blocks is None else [f"blocks={quote_part('+'.join(self.blocks))}"]
        settings += [] if self.type is None else [f"type={quote_part(self.type)}"]
        files = f"{quote_part(self.model.path)}:{quote_part(self.picture.path)}"
        return f"{files}:{','.join(settings)}"


def parse_controls(texts: Sequence[str]) -> tuple[ControlFilesAndSettings, ...]:
    """Parse the values of --control into the controls (ControlNets) of a request; "none" alone
    gives none. Raises ArgumentError.
    """
    if list(texts) == [NO_FILES_VALUE]:
        return ()
    if len(texts) > MAX_CONTROLS:
        raise ArgumentError(
            f"Got {plural(len(texts), 'control')}: at most {MAX_CONTROLS} are taken."
        )
    return tuple(map(parse_control, texts))


def parse_control(text: str) -> ControlFilesAndSettings:
    """Parse MODEL:PICTURE[:NAME=VALUE,...], the value of --control. Raises ArgumentError."""
    model, picture, settings = SYNTAX.parse(text)
    mask, blocks = settings.get("mask"), settings.get("blocks")
    mode = settings.get("mode", "balanced")
    return ControlFilesAndSettings(
        model=InputFile(path=model),
        picture=InputFile(path=picture),
        scale=parse_control_scale(settings.get("scale", "1")),
        steps=SYNTAX.parse_step_window(settings.get("steps", "0-1")),
        mode=mode,  # type: ignore[arg-type]  # checked there
        mask=None if mask is None else InputFile(path=mask),
        blocks=None if blocks is None else tuple(blocks.split("+")),
        type=settings.get("type"),
    )


def parse_control_scale(text: str) -> float:
    """Parse the strength of a control (ControlNet). Raises ArgumentError."""
    try:
        return float(text)
    except ValueError:
        raise ArgumentError(
            f"Got --control with scale={text!r:.80}: expected a number, such as 0.8."
        ) from None
