"""Judges of PIE-Bench that have weights of their own: DINO, CLIP and LPIPS.

B pictures, C channels, H W size of a picture, T tokens, D width.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from t2i.errors import ModelError, format_library_error
from t2i.evaluate.pie_bench.lpips import Lpips, load_lpips

DINO_SIDE = 224
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class DinoJudge:
    """DINO ViT-B/8, by whose keys PIE-Bench measures how far the structure of two pictures differs.

    The structure distance is that of Tumanyan et al. (2022, https://arxiv.org/abs/2201.00424,
    equation 3), of the keys of the last layer.
    """

    def __init__(self, model: Any) -> None:
        self.model = model.eval()

    @classmethod
    def load(cls, folder: Path) -> "DinoJudge":
        """Load a ViT from a folder in the format of transformers; ModelError for another."""
        from transformers import ViTModel

        return cls(load_pretrained(ViTModel, folder, "DINO ViT-B/8 (facebook/dino-vitb8)"))

    def compute_structure_distance(self, one: Image.Image, other: Image.Image) -> float:
        """Return the mean squared difference of the self-similarities of two pictures, 0 to 4."""
        one_TT, other_TT = (self.compute_self_similarity(picture) for picture in (one, other))
        return float((one_TT - other_TT).square().mean())

    @torch.no_grad()
    def compute_self_similarity(self, picture: Image.Image) -> Tensor:
        """Return the cosine similarity of each two tokens' keys in the last layer, (T, T)."""
        # NOTE as published, the values go from 0 to 255: other figures cannot be compared.
        pixels_13HW = torch.from_numpy(to_rgb_array(picture)).permute(2, 0, 1)[None].float()
        size = (DINO_SIDE, DINO_SIDE)
        pixels_13HW = functional.interpolate(pixels_13HW, size, mode="bilinear", antialias=True)
        layer = find_last_key_projection(self.model)
        found: list[Tensor] = []
        hook = layer.register_forward_hook(lambda _module, _inputs, output: found.append(output))
        try:
            weight = next(self.model.parameters())
            inputs = standardize_pixels_by_channel(pixels_13HW, IMAGENET_MEAN, IMAGENET_STD).to(
                weight
            )
            self.model(pixel_values=inputs, interpolate_pos_encoding=True)
        finally:
            hook.remove()
        keys_TD = functional.normalize(found[0][0].float(), dim=1)
        return keys_TD @ keys_TD.T


class ClipJudge:
    """CLIP ViT-L/14, by whose embeddings PIE-Bench measures how well a picture fits a text."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.tokenizer = model.eval(), tokenizer

    @classmethod
    def load(cls, folder: Path) -> "ClipJudge":
        """Load CLIP from a folder in the format of transformers; ModelError for another."""
        from transformers import AutoTokenizer, CLIPModel

        title = "CLIP ViT-L/14 (openai/clip-vit-large-patch14)"
        return cls(
            load_pretrained(CLIPModel, folder, title), load_pretrained(AutoTokenizer, folder, title)
        )

    @torch.no_grad()
    def compute_similarity(self, picture: Image.Image, text: str) -> float:
        """Return the CLIP similarity of a picture and a text: 100 times the cosine, at least 0."""
        weight = next(self.model.parameters())
        tokens = self.tokenizer(
            text,
            truncation=True,
            max_length=self.model.config.text_config.max_position_embeddings,
            return_tensors="pt",
        ).to(weight.device)
        pixels_13HW = self.preprocess_picture(picture).to(weight)
        seen_1D = self.model.visual_projection(self.model.vision_model(pixels_13HW).pooler_output)
        read_1D = self.model.text_projection(
            self.model.text_model(
                input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
            ).pooler_output
        )
        cosine = functional.cosine_similarity(seen_1D.float(), read_1D.float())
        return max(0.0, 100 * float(cosine))

    def preprocess_picture(self, picture: Image.Image) -> Tensor:
        """Return the centre crop of a picture at CLIP's size, normalised, (1, 3, side, side)."""
        side = self.model.config.vision_config.image_size
        factor = side / min(picture.size)
        width, height = (max(side, round(length * factor)) for length in picture.size)
        resized = picture.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
        left, top = (width - side) // 2, (height - side) // 2
        cropped = resized.crop((left, top, left + side, top + side))
        pixels_13HW = torch.from_numpy(to_rgb_array(cropped)).permute(2, 0, 1)[None].float() / 255
        return standardize_pixels_by_channel(pixels_13HW, CLIP_MEAN, CLIP_STD)


@dataclass(frozen=True, slots=True)
class JudgeModels:
    """Models by which the metrics of PIE-Bench are measured; None for those that are not loaded."""

    dino: DinoJudge | None = None
    clip: ClipJudge | None = None
    lpips: Lpips | None = None


def load_judge_models(dino: Path | None, clip: Path | None, lpips: Path | None) -> JudgeModels:
    """Load the judges whose weights are given: folders of DINO and CLIP, the file of LPIPS.

    Raises ModelError for weights of another model.
    """
    return JudgeModels(
        dino=None if dino is None else DinoJudge.load(dino),
        clip=None if clip is None else ClipJudge.load(clip),
        lpips=None if lpips is None else load_lpips(lpips),
    )


def load_pretrained(kind: Any, folder: Path, title: str) -> Any:
    """Load a model or tokenizer of transformers from a local folder; ModelError if it cannot be."""
    if not folder.is_dir():
        raise ModelError(f"No such folder: {folder}. Expected {title} as transformers saves it.")
    try:
        return kind.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise ModelError(
            f"{folder} does not hold {title} as transformers saves it: "
            f"{format_library_error(error)}."
        ) from error


def find_last_key_projection(model: Any) -> Any:
    """Return the linear layer that computes the keys of the last layer of transformers' ViT."""
    names = ("attention.key", "attention.k_proj")
    *_, last = (module for name, module in model.named_modules() if name.endswith(names))
    return last


def to_rgb_array(picture: Image.Image) -> NDArray[np.uint8]:
    """Return a picture as an RGB array (H, W, 3), uint8."""
    return np.array(picture.convert("RGB"))


def standardize_pixels_by_channel(
    pixels_B3HW: Tensor, mean: tuple[float, ...], deviation: tuple[float, ...]
) -> Tensor:
    """Subtract each channel's mean from pixels (B, 3, H, W), and divide by its deviation."""
    mean_13, deviation_13 = (
        pixels_B3HW.new_tensor(values).view(1, 3, 1, 1) for values in (mean, deviation)
    )
    return (pixels_B3HW - mean_13) / deviation_13
