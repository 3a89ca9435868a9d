"""Image prompts of a request that have an IP-Adapter each: their files, and how they act."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from t2i.cli.request.control_files import SETTINGS_START_PATTERN
from t2i.cli.request.input_files import MAX_SCALE, InputFile
from t2i.errors import ArgumentError, suggest_choice
from t2i.terminal import plural

IMAGE_PROMPT_SETTING_NAMES = ("scale", "mask")
MAX_IMAGE_PROMPTS = 16
OPTION_EXAMPLE = "--ip-adapter plus.safetensors:hat.png:scale=0.7,mask=left.png"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagePromptFiles:
    """Image prompt of a request with its own IP-Adapter: the files of adapter, picture and mask,
    and its scale.

    scale : a number, or names of blocks, see t2i.adapters.ip_adapter_scales
    mask : white where the image prompt acts; None for the whole image
    """

    adapter: InputFile
    picture: InputFile
    scale: float | str = 1.0
    mask: InputFile | None = None

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
        """This image prompt as the value of its command-line option, unquoted."""
        scale = self.scale if isinstance(self.scale, str) else f"{self.scale:g}"
        mask = "" if self.mask is None else f",mask={self.mask.path}"
        return f"{self.adapter.path}:{self.picture.path}:scale={scale}{mask}"

    @property
    def named_files(self) -> Iterator[tuple[str, InputFile]]:
        """Names and files of adapter, picture and, if there is one, mask."""
        yield "ip_adapter", self.adapter
        yield "image_prompt", self.picture
        if self.mask is not None:
            yield "image_prompt_mask", self.mask

    def copy_with_mapped_files(
        self, change: Callable[[str, InputFile], InputFile]
    ) -> "ImagePromptFiles":
        """Return the image prompt with each of its files replaced by `change(name, file)`."""
        mask = None if self.mask is None else change("image_prompt_mask", self.mask)
        return replace(
            self,
            adapter=change("ip_adapter", self.adapter),
            picture=change("image_prompt", self.picture),
            mask=mask,
        )


def parse_ip_adapters(
    texts: Sequence[str],
) -> tuple[InputFile | None, tuple[ImagePromptFiles, ...] | None]:
    """Parse the values of --ip-adapter: return the adapter that stands alone, which reads
    --image-prompt, and those with a picture of their own; None where there is none.

    Raises ArgumentError, also for two that stand alone.
    """
    alone = [text for text in texts if ":" not in text or Path(text).exists()]
    if len(alone) > 1:
        raise ArgumentError(
            f"Got --ip-adapter {alone[1]!r:.80} as a second one without a picture: --image-prompt "
            f"is for the first. Give each its own: {OPTION_EXAMPLE}"
        )
    prompts = tuple(parse_ip_adapter(text) for text in texts if text not in alone)
    if len(prompts) > MAX_IMAGE_PROMPTS:
        raise ArgumentError(
            f"Got {plural(len(prompts), 'IP-Adapter')}: at most {MAX_IMAGE_PROMPTS} are taken."
        )
    return (InputFile(path=alone[0].strip()) if alone else None), prompts or None


def parse_ip_adapter(text: str) -> ImagePromptFiles:
    """Parse ADAPTER:PICTURE[:NAME=VALUE,...], a value of --ip-adapter. Raises ArgumentError."""
    files, *rest = SETTINGS_START_PATTERN.split(text.strip(), maxsplit=1)
    adapter, colon, picture = files.rpartition(":")
    if not (colon and adapter and picture):
        raise ArgumentError(
            f"Got --ip-adapter {text!r:.80}: expected ADAPTER:PICTURE, with settings after them: "
            f"{OPTION_EXAMPLE}"
        )
    settings: dict[str, str] = {}
    for part in rest[0].split(",") if rest else ():
        name, equals, value = (side.strip() for side in part.partition("="))
        if name not in IMAGE_PROMPT_SETTING_NAMES or not equals or not value:
            raise ArgumentError(
                f"Got --ip-adapter with {part!r:.80}. "
                f"{suggest_choice(name[:80], IMAGE_PROMPT_SETTING_NAMES)} Each has a value: "
                f"{OPTION_EXAMPLE}"
            )
        if name in settings:
            raise ArgumentError(f"Got --ip-adapter with {name} twice: keep one.")
        settings[name] = value
    mask = settings.get("mask")
    return ImagePromptFiles(
        adapter=InputFile(path=adapter.strip()),
        picture=InputFile(path=picture.strip()),
        scale=parse_scale_or_blocks(settings.get("scale", "1")),
        mask=None if mask is None else InputFile(path=mask),
    )


def parse_scale_or_blocks(text: str) -> float | str:
    """Return the scale of an image prompt as a number, or the text where it names blocks."""
    try:
        return float(text)
    except ValueError:
        return text
