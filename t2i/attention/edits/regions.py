"""Regions: words are bound to parts of the image by a bias on the attention scores.

H W size of the image at a site, P its positions, T text tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor
from torch.nn import functional

from t2i.attention.call import AttentionCall
from t2i.attention.edits.base.score_bias import BiasEdit
from t2i.attention.prompts.prompt_tokens import PromptTokens, Words, as_word_tuple
from t2i.attention.site import Site, is_number
from t2i.errors import ArgumentError
from t2i.masks import remove_mask_transparency

Box = tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True)
class Region:
    """Words of the prompt and the part of the image, a box or a mask, that they are bound to.

    words : a word or phrase, or several
    box : left, top, right, bottom as fractions of the image's size
    mask : instead of a box, an image whose white is inside and whose transparency is outside, or a
        tensor (H, W) of 0..1
    """

    words: Words
    box: Box | None = None
    mask: Image.Image | Tensor | None = None

    def __post_init__(self) -> None:
        words = as_word_tuple(self.words) if isinstance(self.words, str | tuple | list) else ()
        if not words or not all(isinstance(word, str) for word in words):
            raise ArgumentError(
                f'Got words={self.words!r}, expected a word of the prompt, "cat", or several.'
            )
        if (self.box is None) == (self.mask is None):
            given = "neither" if self.box is None else "both"
            raise ArgumentError(
                f"The region of {', '.join(words)} has {given} of box and mask: give it one of "
                "them, such as box=(0, 0, 0.5, 1) for the left half."
            )
        if self.box is not None:
            check_box(self.box)
        if isinstance(self.mask, Tensor):
            object.__setattr__(self, "mask", mask_to_image(self.mask))
        elif isinstance(self.mask, Image.Image):
            gray_HW = np.asarray(remove_mask_transparency(self.mask).convert("L"))
            object.__setattr__(self, "mask", Image.fromarray(gray_HW))  # nothing but its pixels
        elif self.mask is not None:
            raise ArgumentError(
                f"Got a mask of type {type(self.mask).__name__}, expected a PIL picture or a "
                "tensor (H, W) of 0 to 1."
            )

    def compute_coverage(self, size: tuple[int, int], feather: float) -> Tensor:
        """Return the fraction of each position's area that is inside the region, (H, W) of 0..1.

        feather : width of the soft edge, as a fraction of the image's size
        """
        if self.box is not None:
            left, top, right, bottom = self.box
            down_H = compute_interval_coverage(top, bottom, size[0], feather)
            across_W = compute_interval_coverage(left, right, size[1], feather)
            return down_H[:, None] * across_W
        assert isinstance(self.mask, Image.Image)
        width, height = self.mask.size
        radius = tuple(max(0.0, (feather * side - 1) / 2) for side in (width, height))
        soft = self.mask.filter(ImageFilter.BoxBlur(radius)) if feather else self.mask
        mask_HW = torch.from_numpy(np.array(soft)).float() / 255
        return functional.adaptive_avg_pool2d(mask_HW[None], size)[0]


@dataclass(frozen=True, kw_only=True)
class Regions(BiasEdit):
    """Edit that binds words to regions of the image: inside its region a word is attended to more,
    outside less; other words are unchanged.

    The bias of a region's words goes from -strength outside to +strength inside, a factor of
    e^-strength to e^strength on their probability before normalisation. A word of several regions
    is raised in each of them. Boxes as an additive bias are those of Balaji et al. 2022 (eDiff-I,
    Section 4.3, arXiv 2211.01324), which raises only, and in proportion to the noise level.

    strength : in nats
    feather : width of the soft edge, as a fraction of the image's size
    """

    regions: Sequence[Region] = field(kw_only=False)
    strength: float = 3.0
    feather: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        regions = self.regions
        if not isinstance(regions, tuple | list) or not all(isinstance(r, Region) for r in regions):
            raise ArgumentError(
                f"Got regions={regions!r}, expected a list of them: "
                '[Region(words="cat", box=(0, 0, 0.5, 1)), ...].'
            )
        if not regions:
            raise ArgumentError('Regions needs one at least: [Region(words="cat", box=...)].')
        object.__setattr__(self, "regions", tuple(regions))
        for name, most in (("strength", 100.0), ("feather", 1.0)):
            value = getattr(self, name)
            if not is_number(value):
                raise ArgumentError(f"Got {name}={value!r}, expected a number.")
            if not 0 <= value <= most:
                raise ArgumentError(f"Got {name}={value}, expected 0 (off) to {most:g}.")

    @property
    def does_nothing(self) -> bool:
        """Return True if there is no region, the strength is 0, or the step window is empty."""
        return super().does_nothing or not self.regions or self.strength == 0

    def acts_at_site(self, site: Site) -> bool:
        """Return True for a site with a known grid of positions that the edit's `sites` select."""
        return site.size is not None and super().acts_at_site(site)

    def check_prompts_and_words(self, prompt_tokens: PromptTokens) -> None:
        """Raise ArgumentError if the edit names prompts, or words of regions, that the run does not
        have.
        """
        super().check_prompts_and_words(prompt_tokens)
        for region in self.regions:
            for word in as_word_tuple(region.words):
                prompt_tokens.find_word_token_positions(self.target, word)

    def compute_bias(self, call: AttentionCall) -> Tensor:
        """Return the bias on the attention scores, (image positions, text tokens): from -strength
        outside to +strength inside a region for the region's words, 0 for other words.
        """
        assert call.site.size is not None
        coverage_PT = torch.full((call.site.num_positions, call.text_length), -1.0)
        for region in self.regions:
            region_P1 = region.compute_coverage(call.site.size, self.feather).flatten()[:, None]
            for word in as_word_tuple(region.words):
                places = list(call.prompt_tokens.find_word_token_positions(self.target, word))
                coverage_PT[:, places] = coverage_PT[:, places].maximum(region_P1)
        unassigned_PT = coverage_PT < 0
        return (self.strength * (2 * coverage_PT - 1)).masked_fill(unassigned_PT, 0.0)


def compute_interval_coverage(first: float, end: float, cells: int, feather: float) -> Tensor:
    """Divide the range 0..1 into `cells` equal cells and return the fraction of each cell that lies
    between the edges `first` and `end`.

    An edge is a linear ramp of width `feather` around its position; the image's own edges are
    sharp. The fractions are exact integrals.
    """
    edges = torch.linspace(0, 1, cells + 1, dtype=torch.float64)
    passed = integrate_ramp_up_to(edges, first if first > 0 else -1.0, feather)
    passed = passed - integrate_ramp_up_to(edges, end if end < 1 else 2.0, feather)
    return (passed.diff() * cells).float()


def integrate_ramp_up_to(x: Tensor, edge: float, feather: float) -> Tensor:
    """Return the integral, from minus infinity to x, of a ramp that rises linearly from 0 to 1 over
    a width of `feather`, centred on `edge`.
    """
    if feather == 0:
        return (x - edge).relu()
    ramp = (x - edge) / feather + 0.5
    return feather * torch.where(ramp < 1, ramp.relu() ** 2 / 2, ramp - 0.5)


def check_box(box: object) -> None:
    """Raise ArgumentError unless a region's box is (left, top, right, bottom), in order and within
    0..1.
    """
    sides = box if isinstance(box, tuple | list) else ()
    if len(sides) != 4 or not all(map(is_number, sides)):
        raise ArgumentError(f"Got box={box!r}, expected four numbers: left, top, right, bottom.")
    left, top, right, bottom = sides
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise ArgumentError(
            f"Got box={box!r}, expected left < right and top < bottom as shares of the picture, "
            "from 0 to 1: pixels are divided by its width and height."
        )


def mask_to_image(mask: Tensor) -> Image.Image:
    """Return a mask (H, W) or (1, H, W) of 0..1 as a grayscale image."""
    plane_HW = (
        mask.detach().float().cpu().squeeze(0) if mask.ndim == 3 else mask.detach().float().cpu()
    )
    if (
        plane_HW.ndim != 2
        or plane_HW.numel() == 0
        or not bool(((plane_HW >= 0) & (plane_HW <= 1)).all())
    ):
        raise ArgumentError(
            f"Got a mask of shape {tuple(mask.shape)} and values from {mask.min().item():.3g} to "
            f"{mask.max().item():.3g}, expected (H, W) with values from 0, outside, to 1, inside."
            if mask.numel()
            else f"Got an empty mask of shape {tuple(mask.shape)}, expected (H, W)."
        )
    return Image.fromarray((plane_HW * 255).round().byte().numpy())
