"""Heat maps: where in the picture each word landed.

N heads, S tokens of the words, Q positions of a site, H W a size.
"""

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from t2i.atomic_files import write_atomically
from t2i.attention.site import Site
from t2i.errors import ArgumentError, DataError, nearest
from t2i.pictures import picture_grid
from t2i.safe_reading.tensors import open_tensors
from t2i.terminal import several

Convention = Literal["default", "daam", "mean"]
CONVENTIONS = ("default", "daam", "mean")
THRESHOLDS: dict[Convention, float] = {"default": 0.5, "daam": 0.4, "mean": 0.4}
"""Where a thing ends on its map: DAAM's is published, ours was chosen by `t2i evaluate`."""
Size = tuple[int, int]
SHOWN_WIDTH = 256
"""Smaller maps and pictures are enlarged, so that they and their labels can be read."""


@dataclass(slots=True)
class SiteAccumulator:
    """What one site showed of one picture: a sum over steps, (N or 1, S, Q) float32.

    steps : for each token at how many of them it was said
    rivalry_1SQ : as `total_NSQ`, of what a token has in proportion to its strongest rival, where
        the convention asks for it
    """

    site: Site
    total_NSQ: Tensor
    steps: list[int]
    relative_1SQ: Tensor | None = None

    @property
    def mean_NSQ(self) -> Tensor:
        """Over the steps at which a token was said."""
        return self.total_NSQ / self._said_S1()

    @property
    def mean_relative_1SQ(self) -> Tensor:
        """The same of what the default convention is made of."""
        assert self.relative_1SQ is not None
        return self.relative_1SQ / self._said_S1()

    def add(
        self, words_NSQ: Tensor, columns: Sequence[int], relative_1SQ: Tensor | None = None
    ) -> None:
        """One more step, at which these columns are said; new ones are the last."""
        new = words_NSQ.shape[1] - self.total_NSQ.shape[1]
        if new:
            self.total_NSQ = functional.pad(self.total_NSQ, (0, 0, 0, new))
            self.steps += [0] * new
            if self.relative_1SQ is not None:
                self.relative_1SQ = functional.pad(self.relative_1SQ, (0, 0, 0, new))
        self.total_NSQ += words_NSQ
        if relative_1SQ is not None:
            if self.relative_1SQ is None:
                self.relative_1SQ = torch.zeros_like(relative_1SQ)
            self.relative_1SQ += relative_1SQ
        for column in columns:
            self.steps[column] += 1

    def _said_S1(self) -> Tensor:
        return self.total_NSQ.new_tensor(self.steps).clamp(min=1)[:, None]


@dataclass(slots=True)
class ProbeMeasurements:
    """What a probe heard in a run.

    tokens : for each word the columns along S that are its own; words may share them
    columns : how many there are
    planes : (picture of the prompt, name of the site) -> Plane
    """

    tokens: dict[str, tuple[int, ...]] = field(default_factory=dict)
    columns: int = 0
    accumulators: dict[tuple[int, str], SiteAccumulator] = field(default_factory=dict)
    latent_size: Size | None = None
    raw: dict[str, list[Tensor]] = field(default_factory=dict)
    """Site -> for each step (pictures, N, S, Q), where they were asked for."""
    live: dict[str, Tensor] = field(default_factory=dict)
    """Site -> (pictures, N, S, Q) of the last pass, with gradients, where they were asked for."""

    def clear(self) -> None:
        """Let go of a run."""
        for kept in (self.tokens, self.accumulators, self.raw, self.live):
            kept.clear()
        self.columns = 0


class HeatMaps(Mapping[str, Tensor]):
    """The maps of the words of one prompt, (H, W) float32 on the CPU, on one grid.

    The convention says how sites, heads, tokens and steps become one map:
    "default" : at each place, head and step the word's probability, divided by that of the token
        that is looked at most there; the mean of all, bilinear to the grid, then stretched to 0..1;
    "mean" : the mean of the probabilities themselves, unstretched;
    "daam" : Tang et al. 2022 (arXiv 2210.04885): the sum over steps, bicubic to the latents' grid,
        clamped at 0, then the mean.

    They fill while pictures are made. `picture` chooses among several of one prompt.
    """

    def __init__(
        self,
        measurements: ProbeMeasurements,
        words: tuple[str, ...],
        convention: Convention = "default",
        grid: Size | None = None,
        picture: int = 0,
    ) -> None:
        if convention not in CONVENTIONS:
            raise ArgumentError(
                f"Got convention={convention!r}. {nearest(convention, CONVENTIONS)}"
            )
        self.measurements, self.words, self.convention = measurements, words, convention
        self.wanted_grid, self.picture = grid, picture

    def __getitem__(self, word: str) -> Tensor:
        map_HW = self._map(word)
        return stretched(map_HW) if self.convention == "default" else map_HW

    def __iter__(self) -> Iterator[str]:
        return iter(self.words)

    def __len__(self) -> int:
        return len(self.words)

    def of(self, picture: int) -> "HeatMaps":
        """The maps of another of the prompt's pictures."""
        return HeatMaps(self.measurements, self.words, self.convention, self.wanted_grid, picture)

    @property
    def sites(self) -> tuple[Site, ...]:
        """Where they come from."""
        return tuple(plane.site for plane in self._planes())

    @property
    def grid(self) -> Size:
        """H, W of every map: as asked for, else the latents', else the largest site's."""
        sizes = [plane.site.size for plane in self._planes() if plane.site.size]
        if self.wanted_grid or self.measurements.latent_size:
            return self.wanted_grid or self.measurements.latent_size or (0, 0)
        return max(sizes) if sizes else (1, self._planes()[0].site.positions)

    def at(self, word: str, site: str) -> Tensor:
        """The word's mean probability at one site, (H, W) there: over heads, steps, tokens."""
        plane = self.measurements.accumulators.get((self.picture, site))
        if plane is None:
            names = [
                name for picture, name in self.measurements.accumulators if picture == self.picture
            ]
            raise ArgumentError(f"No map of the site {site!r}. {nearest(site, names)}")
        mean_Q = plane.mean_NSQ[:, self._columns(word)].cpu().float().mean(dim=(0, 1))
        return mean_Q.view(plane.site.size or (1, -1))

    def mask(self, word: str, threshold: float | None = None) -> Tensor:
        """Where the map, stretched to 0..1, is at least `threshold`: (H, W) bool.

        Left out it is that of the convention, see THRESHOLDS.
        """
        least = THRESHOLDS[self.convention] if threshold is None else threshold
        return stretched(self._map(word)) >= least

    def overlay(self, word: str, image: Image.Image) -> Image.Image:
        """The picture with the word's map over it: from blue, where it is lowest, to red."""
        if not isinstance(image, Image.Image):
            raise ArgumentError(
                f"Got a {type(image).__name__}, expected a PIL picture: pipe(..., "
                'output_type="pil").images[0].'
            )
        map_11HW = stretched(self._map(word))[None, None]
        heat = functional.interpolate(map_11HW, (image.height, image.width), mode="bicubic")
        heat = heat[0, 0].clamp(0, 1)
        share = 0.25 + 0.45 * heat.numpy()[..., None]
        mixed = np.asarray(image.convert("RGB")) * (1 - share) + colours(heat.numpy()) * share
        return Image.fromarray(mixed.round().astype(np.uint8))

    def sheet(self, picture: Image.Image | None = None) -> Image.Image:
        """Every word's map side by side with labels: over the picture, or in colours alone."""
        shown = []
        for word in self.words:
            heat = stretched(self._map(word)).numpy()
            alone = Image.fromarray(colours(heat).round().astype(np.uint8))
            shown.append(alone if picture is None else self.overlay(word, picture))
        cell = max(SHOWN_WIDTH, shown[0].width)
        return picture_grid(shown, self.words, columns=len(shown), cell=cell).convert("RGB")

    def _repr_png_(self) -> bytes | None:
        """What Jupyter shows; None, and so the plain text, while there are no maps."""
        try:
            drawn = self.sheet()
        except ArgumentError:
            return None
        stream = io.BytesIO()
        drawn.save(stream, "PNG")
        return stream.getvalue()

    def peak(self, word: str) -> tuple[float, float]:
        """Where the map is highest: across and down, as shares of the picture."""
        map_HW = self._map(word)
        row, column = divmod(int(map_HW.argmax()), map_HW.shape[1])
        return (column + 0.5) / map_HW.shape[1], (row + 0.5) / map_HW.shape[0]

    def centre(self, word: str) -> tuple[float, float]:
        """The middle of the places where the word's `mask` is: across and down, as shares."""
        mask_HW = self.mask(word)
        rows, columns = mask_HW.nonzero(as_tuple=True)
        across, down = columns.float().mean() + 0.5, rows.float().mean() + 0.5
        return float(across) / mask_HW.shape[1], float(down) / mask_HW.shape[0]

    def share(self, word: str) -> float:
        """The word's part in the probability that all the probed words have together, 0 to 1."""
        total = sum(self._probability(other).sum() for other in self.words)
        return float(self._probability(word).sum() / total)

    def save(self, path: str | Path) -> None:
        """Write maps and what they are to a .safetensors file."""
        maps = {word: self[word].contiguous() for word in self.words}
        facts = {
            "words": json.dumps(self.words),
            "convention": self.convention,
            "sites": json.dumps([site.name for site in self.sites]),
        }
        write_atomically(Path(path), lambda part: save_file(maps, part, metadata=facts))

    def _map(self, word: str) -> Tensor:
        """All sites, heads, steps and tokens of the word as one, (H, W)."""
        if self.convention != "default":
            return self._probability(word)
        return self._one(word, [plane.mean_relative_1SQ for plane in self._planes()])

    def _probability(self, word: str) -> Tensor:
        """The same of the probabilities, whatever the map is made of."""
        if self.convention == "daam":
            return self._one(word, [plane.total_NSQ for plane in self._planes()])
        return self._one(word, [plane.mean_NSQ for plane in self._planes()])

    def _one(self, word: str, kept: Sequence[Tensor]) -> Tensor:
        """What is kept of each site, (N or 1, S, Q), as one map (H, W)."""
        grid, columns = self.grid, self._columns(word)
        maps: list[Tensor] = []
        for plane, kept_NSQ in zip(self._planes(), kept, strict=True):
            map_NSHW = kept_NSQ[:, columns].cpu().float().unflatten(-1, plane.site.size or (1, -1))
            if self.convention == "daam":  # every head counts alike, however many a site has
                resized_NSHW = functional.interpolate(map_NSHW, grid, mode="bicubic")
                maps += list(resized_NSHW.clamp(min=0).mean(dim=1))
            else:
                resized_NSHW = functional.interpolate(
                    map_NSHW, grid, mode="bilinear", antialias=True
                )
                maps.append(resized_NSHW.mean(dim=(0, 1)))
        return torch.stack(maps).mean(0)

    def _planes(self) -> list[SiteAccumulator]:
        accumulators = [
            p
            for (picture, _), p in self.measurements.accumulators.items()
            if picture == self.picture
        ]
        if not accumulators:
            pictures = {picture for picture, _ in self.measurements.accumulators}
            raise ArgumentError(
                f"There are maps of {several(len(pictures), 'picture')}, none of number "
                f"{self.picture}."
                if pictures
                else "There are no maps yet: make a picture inside `with attend(...)` first."
            )
        return accumulators

    def _columns(self, word: str) -> list[int]:
        if word not in self.words:
            raise ArgumentError(f"No probe was asked for {word!r}. {nearest(word, self.words)}")
        self._planes()
        if word not in self.measurements.tokens:
            raise ArgumentError(f"There is no map of {word!r} yet: no step so far has said it.")
        return list(self.measurements.tokens[word])


def load_maps(path: str | Path) -> dict[str, Tensor]:
    """The maps of a file that HeatMaps.save wrote."""
    try:
        with open_tensors(path) as file:
            return {word: file.get_tensor(word) for word in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise DataError(f"Cannot read maps from {path}: {error}") from error


def stretched(map_HW: Tensor) -> Tensor:
    """From 0, where it is lowest, to 1."""
    low, high = map_HW.min(), map_HW.max()
    return (map_HW - low) / (high - low).clamp(min=1e-12)


def colours(
    heat_HW: np.ndarray[tuple[int, int], np.dtype[np.float32]],
) -> np.ndarray[tuple[int, int, int], np.dtype[np.float32]]:
    """0..1 from blue over green and yellow to red, (H, W, 3) of 0..255."""
    stops = np.linspace(0, 1, len(RAMP))
    channels = [np.interp(heat_HW, stops, [colour[c] for colour in RAMP]) for c in range(3)]
    return np.stack(channels, axis=-1).astype(np.float32)


RAMP = ((20, 20, 110), (0, 90, 230), (0, 200, 170), (250, 220, 0), (220, 20, 20))
