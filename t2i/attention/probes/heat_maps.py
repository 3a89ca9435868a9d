"""Heat maps: the image region that attends to each word of a prompt.

N heads, S tokens of the words, Q positions of a site, H W a size.
"""

import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from t2i.atomic_files import write_atomically
from t2i.attention.probes.measurements import (
    ProbeMeasurements,
    SiteAccumulator,
    Size,
    leave_out_coarse_sites,
)
from t2i.attention.probes.presence import Presence, judge_presence
from t2i.attention.probes.refinement import refine_map
from t2i.attention.probes.segmentation import Segmentation, label_positions, rank_words_at
from t2i.attention.site import Site
from t2i.errors import ArgumentError, DataError, suggest_choice
from t2i.pictures import MIN_DISPLAY_WIDTH, build_picture_grid
from t2i.safe_reading.tensors import open_tensors

Convention = Literal["default", "refined", "concept_attention", "daam", "mean"]
CONVENTIONS: tuple[Convention, ...] = get_args(Convention)
THRESHOLDS: dict[Convention, float] = {
    "default": 0.5,
    "refined": 0.5,
    "concept_attention": 0.5,
    "daam": 0.4,
    "mean": 0.4,
}
"""Default threshold of `HeatMaps.mask`: DAAM's is published; those of "default" and "refined" were
chosen by `t2i evaluate`."""
RESCALED: tuple[Convention, ...] = ("default", "refined", "concept_attention")
"""Conventions whose heat maps are rescaled to 0..1."""


class HeatMaps(Mapping[str, Tensor]):
    """Heat maps of the words of one prompt: word -> (H, W) float32 on the CPU, on one grid.

    The convention is the aggregation of sites, heads, tokens and steps to one map:
    "default" : at each position, head and step the word's probability, divided by the largest
        probability of a token there; the mean of all sites but the coarse ones, see
        `leave_out_coarse_sites`, bilinear to the grid, rescaled to 0..1;
    "refined" : that of "default" over the decoder's sites, refined by the image's self-attention:
        see `t2i.attention.probes.refinement`;
    "concept_attention" : of joint attention the cosine of the word's attention output and the
        image's, the mean of sites and steps, rescaled to 0..1; see
        `t2i.attention.probes.output_space`;
    "mean" : the mean of the probabilities themselves, not rescaled;
    "daam" : Tang et al. 2022 (arXiv 2210.04885): the sum over steps, bicubic to the latents' grid,
        clamped at 0, then the mean; the sum of a site that the run's caches left out at some
        steps is scaled to as many steps as that of the others.

    Maps fill while images are generated. `image_index` selects one of several images of the prompt.
    """

    def __init__(
        self,
        measurements: ProbeMeasurements,
        words: tuple[str, ...],
        convention: Convention = "default",
        grid: Size | None = None,
        image_index: int = 0,
    ) -> None:
        if convention not in CONVENTIONS:
            raise ArgumentError(
                f"Got convention={convention!r}. {suggest_choice(convention, CONVENTIONS)}"
            )
        self.measurements, self.words, self.convention = measurements, words, convention
        self.requested_grid, self.image_index = grid, image_index

    def __getitem__(self, word: str) -> Tensor:
        map_HW = self._map(word)
        return rescale_to_0_1(map_HW) if self.convention in RESCALED else map_HW

    def __iter__(self) -> Iterator[str]:
        return iter(self.words)

    def __len__(self) -> int:
        return len(self.words)

    def for_image(self, image_index: int) -> "HeatMaps":
        """Return the heat maps of another image of the same prompt."""
        return HeatMaps(
            self.measurements, self.words, self.convention, self.requested_grid, image_index
        )

    def has_read(self, word: str) -> bool:
        """Return True if the prompt contained the word at any step whose attention was read, so
        that the word has a heat map.
        """
        columns = self.measurements.tokens.get(word, ())
        return any(
            column < len(one.steps) and one.steps[column]
            for one in self.measurements.accumulators.values()
            for column in columns
        )

    @property
    def sites(self) -> tuple[Site, ...]:
        """Attention sites from which the words' heat maps are aggregated."""
        return tuple(accumulator.site for accumulator in self._locating_accumulators())

    @property
    def grid_size(self) -> Size:
        """Height and width of every heat map: as requested, else the latents', else the largest
        site's.
        """
        sizes = [site.size for site in self.sites if site.size]
        if self.requested_grid or self.measurements.latent_size:
            return self.requested_grid or self.measurements.latent_size or (0, 0)
        return max(sizes) if sizes else (1, self.sites[0].num_positions)

    def site_map(self, word: str, site: str) -> Tensor:
        """Return the word's heat map (H, W) at one attention site: the mean over heads, steps and
        tokens.
        """
        accumulator = self.measurements.accumulators.get((self.image_index, site))
        if accumulator is None:
            keys = self.measurements.accumulators
            names = [name for index, name in keys if index == self.image_index]
            raise ArgumentError(f"No map of the site {site!r}. {suggest_choice(site, names)}")
        mean_Q = (
            accumulator.mean_over_steps_NSQ[:, self._columns(word)].cpu().float().mean(dim=(0, 1))
        )
        return mean_Q.view(accumulator.site.size or (1, -1))

    def unscaled(self, word: str) -> Tensor:
        """Return a word's heat map (H, W) as it is before it is rescaled to 0..1: of the
        conventions that rescale, the word's share of the largest probability of a token.
        """
        return self._map(word)

    def mask(self, word: str, threshold: float | None = None) -> Tensor:
        """Return the mask (H, W) bool of where a word's heat map, rescaled to 0..1, is at or above
        a threshold.

        threshold : None for that of the convention, see THRESHOLDS
        """
        least = THRESHOLDS[self.convention] if threshold is None else threshold
        return rescale_to_0_1(self._map(word)) >= least

    def words_at(self, x: float, y: float) -> Sequence[tuple[str, float]]:
        """Return which words are at a position of the image: each with the value of its heat map
        there, rescaled to 0..1, highest first.

        x, y : fractions of width and height, as `peak` returns them
        """
        return rank_words_at(self._rescaled(), x, y)

    def segment(self, threshold: float | None = None, size: Size | None = None) -> Segmentation:
        """Return the word at each position of the image: that of the highest heat map, or none
        where all are below a threshold.

        threshold : None for that of the convention, see THRESHOLDS
        size : height and width of the labels, such as the image's; None for that of the maps
        """
        least = THRESHOLDS[self.convention] if threshold is None else threshold
        return label_positions(self._rescaled(), least, size)

    def overlay(self, word: str, image: Image.Image) -> Image.Image:
        """Return the image with a word's heat map drawn over it, from blue (lowest) to red
        (highest).
        """
        if not isinstance(image, Image.Image):
            raise ArgumentError(
                f"Got a {type(image).__name__}, expected a PIL image: pipe(..., "
                'output_type="pil").images[0].'
            )
        map_11HW = rescale_to_0_1(self._map(word))[None, None]
        heat = functional.interpolate(map_11HW, (image.height, image.width), mode="bicubic")
        heat = heat[0, 0].clamp(0, 1)
        opacity = 0.25 + 0.45 * heat.numpy()[..., None]
        colours = apply_colour_map(heat.numpy())
        mixed = np.asarray(image.convert("RGB")) * (1 - opacity) + colours * opacity
        return Image.fromarray(mixed.round().astype(np.uint8))

    def sheet(self, image: Image.Image | None = None) -> Image.Image:
        """Return an image of the heat maps of all words side by side with labels, over `image` if
        given.
        """
        tiles = []
        for word in self.words:
            heat = rescale_to_0_1(self._map(word)).numpy()
            colours = Image.fromarray(apply_colour_map(heat).round().astype(np.uint8))
            tiles.append(colours if image is None else self.overlay(word, image))
        cell = max(MIN_DISPLAY_WIDTH, tiles[0].width)
        return build_picture_grid(tiles, self.words, columns=len(tiles), cell=cell).convert("RGB")

    def _repr_png_(self) -> bytes | None:
        """Return the PNG that Jupyter displays, or None (plain text) while there are no maps."""
        try:
            drawn = self.sheet()
        except ArgumentError:
            return None
        stream = io.BytesIO()
        drawn.save(stream, "PNG")
        return stream.getvalue()

    def peak(self, word: str) -> tuple[float, float]:
        """Return where the word's heat map has its maximum: x and y as fractions of width and
        height.
        """
        map_HW = self._map(word)
        row, column = divmod(int(map_HW.argmax()), map_HW.shape[1])
        return (column + 0.5) / map_HW.shape[1], (row + 0.5) / map_HW.shape[0]

    def mask_centroid(self, word: str) -> tuple[float, float]:
        """Return the centroid of the mask of a word's heat map: x and y as fractions of width and
        height.
        """
        mask_HW = self.mask(word)
        rows, columns = mask_HW.nonzero(as_tuple=True)
        across, down = columns.float().mean() + 0.5, rows.float().mean() + 0.5
        return float(across) / mask_HW.shape[1], float(down) / mask_HW.shape[0]

    def probability_share(self, word: str) -> float:
        """Return the word's share of the summed probability of all probed words, 0 to 1."""
        total = sum(self._combined_probability(other).sum() for other in self.words)
        return float(self._combined_probability(word).sum() / total)

    def found(self, word: str) -> Presence:
        """Return whether the thing that a word names is in the image: its probability, where the
        model has a fit for it, else a score alone with the reason.

        >>> maps.found("cat").probability
        0.97
        """
        measured = self.measurements
        model = None if word in measured.concepts else measured.presence_model
        run = (measured.edits, measured.caches)
        return judge_presence(word, self._map(word), self.convention, model, *run)

    def save(self, path: str | Path) -> None:
        """Write the heat maps to a .safetensors file with words, convention and sites as
        metadata.
        """
        maps = {word: self[word].contiguous() for word in self.words}
        metadata = {
            "words": json.dumps(self.words),
            "convention": self.convention,
            "sites": json.dumps([site.name for site in self.sites]),
        }
        write_atomically(Path(path), lambda part: save_file(maps, part, metadata=metadata))

    def _rescaled(self) -> dict[str, Tensor]:
        """Return word -> heat map (H, W) rescaled to 0..1, whatever the convention."""
        return {word: rescale_to_0_1(self._map(word)) for word in self.words}

    def _map(self, word: str) -> Tensor:
        """Return the word's aggregated map (H, W), before it is rescaled."""
        if self.convention not in RESCALED:
            return self._combined_probability(word)
        scores = [(one.site, one.mean_score_1SQ) for one in self._locating_accumulators()]
        if self.convention != "refined":
            return self._combine(word, scores)
        affinity = self.measurements.select_refinement_affinity(self.image_index)
        on_site_HW = self._combine(word, scores, affinity.site.size)
        refined_HW = refine_map(on_site_HW, affinity.mean_QQ)
        return resize_bilinear(refined_HW[None, None], self.grid_size)[0, 0]

    def _combined_probability(self, word: str) -> Tensor:
        """Return the word's aggregated probability (H, W), whatever the convention's map is."""
        every = self._accumulators()
        if self.convention == "daam":
            totals = self.measurements.compute_totals(every)
        else:
            totals = [one.mean_over_steps_NSQ for one in every]
        return self._combine(word, zip((one.site for one in every), totals, strict=True))

    def _combine(
        self, word: str, values: Iterable[tuple[Site, Tensor]], grid: Size | None = None
    ) -> Tensor:
        """Return one map (H, W) of the word from a tensor (N or 1, S, Q) for each site."""
        grid, columns = grid or self.grid_size, self._columns(word)
        maps: list[Tensor] = []
        for site, values_NSQ in values:
            map_NSHW = values_NSQ[:, columns].cpu().float().unflatten(-1, site.size or (1, -1))
            if self.convention == "daam":  # every head has the same weight, whatever its site
                resized_NSHW = functional.interpolate(map_NSHW, grid, mode="bicubic")
                maps += list(resized_NSHW.clamp(min=0).mean(dim=1))
            else:
                maps.append(resize_bilinear(map_NSHW, grid).mean(dim=(0, 1)))
        return torch.stack(maps).mean(0)

    def _accumulators(self) -> list[SiteAccumulator]:
        return self.measurements.list_accumulators(self.image_index)

    def _locating_accumulators(self) -> list[SiteAccumulator]:
        every = self._accumulators()
        return leave_out_coarse_sites(every) if self.convention in RESCALED else every

    def _columns(self, word: str) -> list[int]:
        if word not in self.words:
            raise ArgumentError(
                f"There is no probe of {word!r}. {suggest_choice(word, self.words)}"
            )
        self._accumulators()
        if word not in self.measurements.tokens:
            raise ArgumentError(
                f"There is no map of {word!r} yet: the prompt of no step so far contains it."
            )
        return list(self.measurements.tokens[word])


def load_map_tensors(path: str | Path) -> dict[str, Tensor]:
    """Load the heat maps of a file written by HeatMaps.save. Raises DataError if it is not
    readable.
    """
    try:
        with open_tensors(path) as file:
            return {word: file.get_tensor(word) for word in file.keys()}
    except (OSError, SafetensorError) as error:
        raise DataError(f"Cannot read maps from {path}: {error}") from error


def resize_bilinear(map_NSHW: Tensor, size: Size) -> Tensor:
    """Return heat maps (N, S, H, W) resized bilinearly, with antialiasing where they shrink."""
    return functional.interpolate(map_NSHW, size, mode="bilinear", antialias=True)


def rescale_to_0_1(map_HW: Tensor) -> Tensor:
    """Return a heat map rescaled linearly to 0..1."""
    low, high = map_HW.min(), map_HW.max()
    return (map_HW - low) / (high - low).clamp(min=1e-12)


def apply_colour_map(
    heat_HW: np.ndarray[tuple[int, int], np.dtype[np.float32]],
) -> np.ndarray[tuple[int, int, int], np.dtype[np.float32]]:
    """Return colours (H, W, 3) of 0..255 for a map of 0..1: blue, green, yellow, red."""
    stops = np.linspace(0, 1, len(COLOUR_RAMP))
    channels = [np.interp(heat_HW, stops, [colour[c] for colour in COLOUR_RAMP]) for c in range(3)]
    return np.stack(channels, axis=-1).astype(np.float32)


COLOUR_RAMP = ((20, 20, 110), (0, 90, 230), (0, 200, 170), (250, 220, 0), (220, 20, 20))
