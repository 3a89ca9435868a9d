"""Image prompts of a request that have an IP-Adapter each: their files, and how they act."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from t2i.cli.option_parsing.option_values import (
    NO_FILES_VALUE,
    format_number,
    hide_quoted_parts,
    quote_part,
    unquote_part,
)
from t2i.cli.request.files_with_settings import NamedFilesMixin, OptionSyntax
from t2i.cli.request.input_files import MAX_SCALE, InputFile
from t2i.errors import ArgumentError
from t2i.terminal import plural

MAX_IMAGE_PROMPTS = 16
SYNTAX = OptionSyntax(
    option="--ip-adapter",
    expected="ADAPTER:PICTURE",
    names=("scale", "mask"),
    example="--ip-adapter plus.safetensors:hat.png:scale=0.7,mask=left.png",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagePromptFiles(NamedFilesMixin):
    """Image prompt of a request with its own IP-Adapter: the files of adapter, picture and mask,
    and its scale.

    scale : a number, or names of blocks, see t2i.adapters.ip_adapter_scales
    mask : white where the image prompt acts; None for the whole image
    """

    adapter: InputFile
    picture: InputFile
    scale: float | str = 1.0
    mask: InputFile | None = None
    file_names_by_field: ClassVar[Mapping[str, str]] = {
        "adapter": "ip_adapter",
        "picture": "image_prompt",
        "mask": "image_prompt_mask",
    }

    def __post_init__(self) -> None:
        if isinstance(self.scale, str):
            if not 0 < len(self.scale) <= 80:
                raise ArgumentError(
                    f"Got --ip-adapter with scale={self.scale!r:.80}: expected a number, such as "
                    "0.8, or blocks, such as style+layout*0.5."
                )
        elif not (math.isfinite(self.scale) and abs(self.scale) <= MAX_SCALE):
            raise ArgumentError(
                f"Got --ip-adapter with scale={self.scale}: expected a finite number, such as 0.8, "
                f"up to {MAX_SCALE}, or blocks, such as style."
            )

    @property
    def option_value(self) -> str:
        """This image prompt as the value of its command-line option, unquoted for a shell."""
        scale = self.scale
        scale = quote_part(scale) if isinstance(scale, str) else format_number(scale)
        mask = "" if self.mask is None else f",mask={quote_part(self.mask.path)}"
        files = f"{quote_part(self.adapter.path)}:{quote_part(self.picture.path)}"
        return f"{files}:scale={scale}{mask}"


def parse_ip_adapters(
    texts: Sequence[str],
) -> tuple[InputFile | None, tuple[ImagePromptFiles, ...] | None]:
    """Parse the values of --ip-adapter: return the adapter that stands alone, which reads
    --image-prompt, and those with a picture of their own; None where there is none. "none" alone
    gives no image prompts, (), which takes those of a request away.

    Raises ArgumentError, also for two that stand alone.
    """
    if list(texts) == [NO_FILES_VALUE]:
        return None, ()
    # os.path, for Path.exists raises OSError for a name that is too long.
    alone = [
        text for text in texts if ":" not in hide_quoted_parts(text.strip()) or os.path.exists(text)
    ]
    if len(alone) > 1:
        raise ArgumentError(
            f"Got --ip-adapter {alone[1]!r:.80} as a second one without a picture: --image-prompt "
            f"is for the first. Give each its own: {SYNTAX.example}"
        )
    prompts = tuple(parse_ip_adapter(text) for text in texts if text not in alone)
    if len(prompts) > MAX_IMAGE_PROMPTS:
        raise ArgumentError(
            f"Got {plural(len(prompts), 'IP-Adapter')}: at most {MAX_IMAGE_PROMPTS} are taken."
        )
    adapter = InputFile(path=unquote_part(alone[0], SYNTAX.option)) if alone else None
    return adapter, prompts or None


def parse_ip_adapter(text: str) -> ImagePromptFiles:
    """Parse ADAPTER:PICTURE[:NAME=VALUE,...], a value of --ip-adapter. Raises ArgumentError."""
    adapter, picture, settings = SYNTAX.parse(text)
    mask = settings.get("mask")
    return ImagePromptFiles(
        adapter=InputFile(path=adapter),
        picture=InputFile(path=picture),
        scale=parse_scale_or_blocks(settings.get("scale", "1")),
        mask=None if mask is None else InputFile(path=mask),
    )


def parse_scale_or_blocks(text: str) -> float | str:
    """Return the scale of an image prompt as a number, or the text where it names blocks."""
    try:
        return float(text)
    except ValueError:
        return text
