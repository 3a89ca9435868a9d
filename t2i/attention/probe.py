"""A probe reads where words land, and never touches what it reads.

N heads, Q positions of a site, T text tokens, S those of the probed words.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from t2i.attention.at import At
from t2i.attention.attended import Attended
from t2i.attention.maps import Convention, HeatMaps, Plane, Recorded
from t2i.attention.said import Said, Word
from t2i.attention.site import Site, Sites, Window, check_heads, check_window, sites_of, steps_of
from t2i.errors import ArgumentError

DAAM_SITES = Sites(kind="cross", place=("up", "down"))


@dataclass(slots=True)
class Probe:
    """What somebody wants to see; its `maps` fill as the run goes on."""

    words: tuple[Word, ...]
    prompt: int = 0
    sites: Sites | str | None = None
    steps: Window = None
    heads: tuple[int, ...] | None = None
    grid: tuple[int, int] | None = None
    convention: Convention = "default"
    grad: bool = False
    raw: bool = False
    recorded: Recorded = field(default_factory=Recorded)
    maps: HeatMaps = field(init=False)
    _columns: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.words:
            raise ArgumentError('A probe needs a word: attn.probe("cat").')
        check_window("steps", self.steps)
        check_heads(self.heads)
        if self.sites is None and self.convention == "daam":
            self.sites = DAAM_SITES
        self.sites = sites_of(self.sites)
        names = tuple(map(str, self.words))
        self.maps = HeatMaps(self.recorded, names, self.convention, self.grid)

    def __str__(self) -> str:
        return f"Probe({', '.join(map(repr, self.words))}, prompt={self.prompt})"

    @property
    def does_nothing(self) -> bool:
        return False

    def fits(self, site: Site) -> bool:
        assert isinstance(self.sites, Sites)
        return site.kind != "self" and self.sites.fit(site)

    def covers(self, step: int, num_steps: int) -> bool:
        return step in steps_of(self.steps, num_steps)

    def check(self, said: Said) -> None:
        for word in self.words:
            said.span(self.prompt, word)

    def begin(self, said: Said, latent_size: tuple[int, int] | None) -> None:
        """A run begins: what was kept of the one before is let go."""
        self.recorded.clear()
        self.recorded.latent_size = latent_size
        places: list[int] = []
        for word, name in zip(self.words, self.maps.words, strict=True):
            span = said.span(self.prompt, word)
            self.recorded.tokens[name] = tuple(range(len(places), len(places) + len(span)))
            places += span
        self._columns = places

    def bytes_at(self, site: Site, pictures: int, steps: int) -> int:
        """What it keeps of a site in a run."""
        heads = len(self.heads) if self.heads is not None else site.heads
        number = pictures * len(self._columns) * site.positions * 4
        kept_heads = heads if self.convention == "daam" else 1
        return number * kept_heads + (number * heads * steps if self.raw else 0)

    def hear(self, attended: Attended, at: At) -> None:
        """Take down what this call shows of the words."""
        rows = at.passing.rows_of(self.prompt)
        live = []
        for picture, row in enumerate(rows):
            with torch.set_grad_enabled(self.grad and torch.is_grad_enabled()):
                probs_NQT = attended.maps(row)
                if self.heads is not None:
                    probs_NQT = probs_NQT[list(self.heads)]
                words_NSQ = probs_NQT[..., self._columns].transpose(-1, -2)
            live.append(words_NSQ)
            self._take(at.site, picture, words_NSQ.detach())
        if live and (self.grad or self.raw):
            all_BNSQ = torch.stack(live)
            if self.grad:
                self.recorded.live[at.site.name] = all_BNSQ
            if self.raw:
                self.recorded.raw.setdefault(at.site.name, []).append(all_BNSQ.detach().cpu())

    def _take(self, site: Site, picture: int, words_NSQ: Tensor) -> None:
        if self.convention != "daam":
            words_NSQ = words_NSQ.mean(dim=0, keepdim=True)
        plane = self.recorded.planes.get((picture, site.name))
        if plane is None:
            self.recorded.planes[picture, site.name] = Plane(site, words_NSQ.clone())
        else:
            plane.total_NSQ += words_NSQ
            plane.steps += 1
