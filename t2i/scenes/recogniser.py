"""Recogniser of the objects of scenes: class, position, colour, and the background.

B pictures, K labels, P positions, F features, H W size of a picture, h w that of the label maps.
"""

import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from t2i.errors import ModelError
from t2i.safe_reading import MODEL_CONFIG_KIND, parse_json, read_bounded
from t2i.safe_reading.tensors import read_tensors
from t2i.scenes.recognised_objects import OWN_COLOUR, RecognisedObject, Recognition

DEFAULT_FOLDER = Path(__file__).parent.parent / "assets" / "recogniser"
CONFIG_FILE, WEIGHTS_FILE = "recogniser.json", "recogniser.safetensors"
LOAD_ERRORS = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    RuntimeError,
    SafetensorError,
)
"""Exceptions of loading a folder that holds something else, or damaged files."""
PATCH_SIDE_PIXELS = 4
"""Side, in pixels, of the square of pixels that one position of the maps stands for."""
MIN_AREA_SHARE = 0.01
"""Smallest share of the picture's area that is recognised as an object; scenes show larger ones."""

IMPOSSIBLE_LOGIT = -1e4
"""Of a class that is not to be found: finite, as maps of logits are interpolated."""


@dataclass(frozen=True, slots=True)
class RecogniserLabels:
    """Labels that the recogniser assigns to each position: a class, and a colour."""

    objects: tuple[str, ...]
    backgrounds: tuple[str, ...]
    colours: tuple[str, ...]
    """The first is OWN_COLOUR: of many colours, or of one that has no name here."""

    @property
    def class_count(self) -> int:
        """Number of the recogniser's classes: the objects, the unknown object, the backgrounds."""
        return len(self.objects) + 1 + len(self.backgrounds)

    @property
    def unknown_index(self) -> int:
        """Index of the recogniser's class for unknown objects."""
        return len(self.objects)

    def colour_index(self, name: str | None) -> int:
        """Return the index of a colour among the recogniser's colour labels; that of OWN_COLOUR for
        a colour that is not listed.
        """
        return self.colours.index(name) if name in self.colours else 0


@dataclass(frozen=True, slots=True)
class RecogniserOutput:
    """Output of the recogniser: label logits at each position, (B, K, h, w), and its features."""

    class_logits_BKhw: Tensor
    colour_logits_BKhw: Tensor
    features_BFhw: Tensor


class Recogniser(nn.Module):
    """Small UNet over patches of 4 x 4 pixels that labels every position of a picture."""

    def __init__(self, labels: RecogniserLabels, size: int, channels: Sequence[int]) -> None:
        super().__init__()
        self.labels, self.size, self.channels = labels, size, tuple(channels)
        levels = len(self.channels)
        self.unet = UNet2DModel(
            sample_size=size // PATCH_SIDE_PIXELS,
            in_channels=3 * PATCH_SIDE_PIXELS**2,
            out_channels=labels.class_count + len(labels.colours),
            block_out_channels=self.channels,
            down_block_types=("DownBlock2D",) * levels,
            up_block_types=("UpBlock2D",) * levels,
            layers_per_block=1,
            norm_num_groups=8,
            add_attention=False,
        )
        self._middle_BFhw: Tensor | None = None
        middle: nn.Module = self.unet.mid_block
        middle.register_forward_hook(self._store_middle)

    def _store_middle(self, _module: nn.Module, _args: object, output_BFhw: Tensor) -> None:
        self._middle_BFhw = output_BFhw

    def forward(self, pixels_BCHW: Tensor) -> RecogniserOutput:
        """Return label logits and the middle block's features for (B, 3, size, size) in [-1, 1]."""
        patches_BChw = functional.pixel_unshuffle(pixels_BCHW, PATCH_SIDE_PIXELS)
        still = torch.zeros((), device=pixels_BCHW.device)  # a picture is no step of a diffusion
        logits_BKhw = self.unet(patches_BChw, still, return_dict=False)[0]
        features_BFhw, self._middle_BFhw = self._middle_BFhw, None
        assert features_BFhw is not None
        class_logits_BKhw, colour_logits_BKhw = logits_BKhw.split(
            [self.labels.class_count, len(self.labels.colours)], dim=1
        )
        return RecogniserOutput(class_logits_BKhw, colour_logits_BKhw, features_BFhw)

    @torch.no_grad()
    def recognise(
        self, pictures: Sequence[Image.Image], names: Collection[str] | None = None
    ) -> list[Recognition]:
        """Recognise the objects of each picture; masks have the picture's own size.

        Pictures of another size than the recogniser's are resized for it.

        names : of the objects that may be found; None for all that it knows
        """
        if not pictures:
            return []
        device = next(self.parameters()).device
        maps = self(
            torch.stack([self.preprocess_picture(picture) for picture in pictures]).to(device)
        )
        if names is not None:
            others = [row for row, one in enumerate(self.labels.objects) if one not in names]
            maps.class_logits_BKhw[:, others] = IMPOSSIBLE_LOGIT
        return [
            self._read_maps(
                maps.class_logits_BKhw[row].float().cpu(),
                maps.colour_logits_BKhw[row].float().cpu(),
                maps.features_BFhw[row].float().cpu(),
                picture.size,
            )
            for row, picture in enumerate(pictures)
        ]

    def preprocess_picture(self, picture: Image.Image) -> Tensor:
        """Return the picture's pixels at the recogniser's size, (3, size, size) in [-1, 1]."""
        side = (self.size, self.size)
        rgb = picture.convert("RGB")
        if rgb.size != side:
            rgb = rgb.resize(side, Image.Resampling.LANCZOS)
        pixels_CHW = torch.from_numpy(np.asarray(rgb).copy()).permute(2, 0, 1)
        return pixels_CHW.float() / 127.5 - 1

    def _read_maps(
        self, kinds_Khw: Tensor, colours_Khw: Tensor, features_Fhw: Tensor, size: tuple[int, int]
    ) -> Recognition:
        width, height = size
        labels = self.labels
        full_KHW = functional.interpolate(
            kinds_Khw[None], (height, width), mode="bilinear", align_corners=False
        )[0]
        kind_HW = full_KHW.argmax(0)
        shares = torch.bincount(kind_HW.flatten(), minlength=labels.class_count) / kind_HW.numel()
        colours_KHW = functional.interpolate(
            colours_Khw.softmax(0)[None], (height, width), mode="bilinear", align_corners=False
        )[0]

        objects = {}
        for number, name in enumerate(labels.objects):
            if shares[number] < MIN_AREA_SHARE:
                continue
            mask_HW = kind_HW == number
            rows, columns = mask_HW.nonzero().float().mean(0).tolist()
            colour_probs_K = colours_KHW[:, mask_HW].mean(1)
            colour = labels.colours[int(colour_probs_K.argmax())]
            centre = (columns + 0.5) / width, (rows + 0.5) / height
            objects[name] = RecognisedObject(
                name,
                float(shares[number]),
                centre,
                colour,
                mask_HW.numpy(),
                dict(zip(labels.colours, colour_probs_K.tolist(), strict=True)),
            )
        probs_Khw = kinds_Khw.softmax(0)
        smallest_area = max(1, round(MIN_AREA_SHARE * probs_Khw[0].numel()))
        highest_KP = probs_Khw[: len(labels.objects)].flatten(1).topk(smallest_area).values
        behind = probs_Khw[labels.unknown_index + 1 :].sum(dim=(1, 2))
        return Recognition(
            objects=objects,
            background=labels.backgrounds[int(behind.argmax())],
            unknown_share=float(shares[labels.unknown_index]),
            mean_features=features_Fhw.mean(dim=(1, 2)).numpy(),
            features=features_Fhw.numpy(),
            object_scores=dict(zip(labels.objects, highest_KP.mean(1).tolist(), strict=True)),
            background_scores=dict(
                zip(labels.backgrounds, (behind / behind.sum()).tolist(), strict=True)
            ),
        )

    def save(self, folder: Path, notes: dict[str, Any], dtype: torch.dtype = torch.float16) -> None:
        """Write the recogniser's weights and configuration into `folder`, which must exist.

        notes : JSON data, such as its training configuration and its scores
        """
        weights = {
            name: weight.to(dtype).contiguous() for name, weight in self.state_dict().items()
        }
        save_file(weights, folder / WEIGHTS_FILE)
        config = {
            "labels": asdict(self.labels),
            "size": self.size,
            "channels": self.channels,
            **notes,
        }
        (folder / CONFIG_FILE).write_text(json.dumps(config, indent=1) + "\n", "utf-8")

    @classmethod
    def load(cls, folder: Path = DEFAULT_FOLDER) -> "Recogniser":
        """Load a recogniser from a folder that `save` wrote; by default t2i's own.

        Raises ModelError for a folder that holds none.
        """
        try:
            config = parse_json(read_bounded(folder / CONFIG_FILE, MODEL_CONFIG_KIND.max_bytes))
            labels = RecogniserLabels(
                **{name: tuple(names) for name, names in config["labels"].items()}
            )
            found = cls(labels, config["size"], config["channels"])
            found.load_state_dict(read_tensors(folder / WEIGHTS_FILE))
        except LOAD_ERRORS as error:
            raise ModelError(
                f"No recogniser can be loaded from {folder}: {error}. Train one with "
                "`t2i train configs/train/recogniser.toml`, or name the folder of a finished run."
            ) from error
        return found.float().eval().requires_grad_(False)


def build_recogniser_labels(
    objects: Sequence[str], backgrounds: Sequence[str], hues: Sequence[str]
) -> RecogniserLabels:
    """Build the labels of these objects, backgrounds and hues; the first colour is OWN_COLOUR."""
    return RecogniserLabels(tuple(objects), tuple(backgrounds), (OWN_COLOUR, *hues))
