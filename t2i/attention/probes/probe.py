"""A probe reads where words land, and never touches what it reads.

N heads, Q positions of a site, T text tokens, S those of the probed words.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from t2i.attention.call import AttentionCall
from t2i.attention.compute.probabilities import AttentionProbabilities
from t2i.attention.denoiser_pass import check_prompt
from t2i.attention.probes.heat_maps import Convention, HeatMaps, ProbeMeasurements, SiteAccumulator
from t2i.attention.prompts.prompt_tokens import PromptTokens, Word
from t2i.attention.site import (
    Site,
    Sites,
    StepWindow,
    as_sites,
    check_heads,
    check_step_window,
    steps_in_window,
)
from t2i.errors import ArgumentError
from t2i.terminal import several

DAAM_SITES = Sites(kind="cross", place=("up", "down"))


@dataclass(slots=True)
class Probe:
    """What somebody wants to see; its `maps` fill as the run goes on."""

    words: tuple[Word, ...]
    prompt: int = 0
    sites: Sites | str | None = None
    steps: StepWindow = None
    heads: tuple[int, ...] | None = None
    grid: tuple[int, int] | None = None
    convention: Convention = "default"
    grad: bool = False
    raw: bool = False
    measurements: ProbeMeasurements = field(default_factory=ProbeMeasurements)
    maps: HeatMaps = field(init=False)
    _read: "Columns | None" = None

    def __post_init__(self) -> None:
        if not self.words:
            raise ArgumentError('A probe needs a word: attn.probe("cat").')
        check_step_window("steps", self.steps)
        check_heads(self.heads)
        if self.sites is None and self.convention == "daam":
            self.sites = DAAM_SITES
        self.sites = as_sites(self.sites)
        names = tuple(map(str, self.words))
        self.maps = HeatMaps(self.measurements, names, self.convention, self.grid)

    def __str__(self) -> str:
        return f"Probe({', '.join(map(repr, self.words))}, prompt={self.prompt})"

    # as a participant of a session: it reads, and changes neither attention nor latents

    @property
    def reads_only(self) -> bool:
        """Return True: a probe changes nothing."""
        return True

    @property
    def edits_latents(self) -> bool:
        """Return False, see `reads_only`."""
        return False

    @property
    def looks_ahead(self) -> bool:
        """Return False, see `reads_only`."""
        return False

    @property
    def does_nothing(self) -> bool:
        """Return False: a probe always has a word to read."""
        return False

    def probes(self) -> "Sequence[Probe]":
        """Return the probe itself."""
        return (self,)

    def before_pass(self, latents_BCHW: Tensor, *_: object) -> Tensor:
        """Return the latents as they are."""
        return latents_BCHW

    def apply(self, *_: object) -> None:
        """Change nothing of an attention call."""

    def after_step(self, latents_BCHW: Tensor, *_: object) -> Tensor:
        """Return the latents as they are."""
        return latents_BCHW

    def fits(self, site: Site) -> bool:
        """Whether it reads there."""
        assert isinstance(self.sites, Sites)
        return site.kind != "self" and self.sites.matches(site)

    def covers(self, step: int, num_steps: int) -> bool:
        """Whether it reads at this step."""
        return step in steps_in_window(self.steps, num_steps)

    def check(self, prompt_tokens: PromptTokens) -> None:
        """Raise ArgumentError for a prompt or words that are not there."""
        check_prompt("prompt", self.prompt, prompt_tokens.num_prompts)
        for word in self.words:
            prompt_tokens.span(self.prompt, word)

    def begin(self, prompt_tokens: PromptTokens, latent_size: tuple[int, int] | None) -> None:
        """A run begins: what was kept of the one before is let go."""
        self.measurements.clear()
        self.measurements.latent_size = latent_size
        self._read = None
        self._columns(prompt_tokens)

    def bytes_at(self, site: Site, pictures: int, steps: int) -> int:
        """What it keeps of a site in a run."""
        heads = len(self.heads) if self.heads is not None else site.heads
        number = pictures * self.measurements.columns * site.positions * 4
        kept = {"daam": heads, "default": 2, "mean": 1}[self.convention]
        return number * kept + (number * heads * steps if self.raw else 0)

    def on_attention(self, probabilities: AttentionProbabilities, call: AttentionCall) -> None:
        """Take down what this call shows of the words."""
        read = self._columns(call.prompt_tokens)
        if read.places and max(read.places) >= call.text_length:
            raise ArgumentError(
                f"{self} wants place {max(read.places)} of a text of "
                f"{several(call.text_length, 'token')}: they count from 0 to "
                f"{call.text_length - 1}."
            )
        live = []
        places_S = read.places_on(probabilities.inputs.query.device)
        heads = None if self.heads is None else list(self.heads)
        for picture, row in enumerate(call.denoiser_pass.cond_rows(self.prompt)):
            with torch.set_grad_enabled(self.grad and torch.is_grad_enabled()):
                words_NSQ = probabilities.token_probabilities(row, places_S)
                words_NSQ = words_NSQ if heads is None else words_NSQ[heads]
                relative_1SQ = None
                if self.convention == "default":
                    relative_1SQ = probabilities.relative_probability(row, places_S, heads)
                    relative_1SQ = read.spread(relative_1SQ, self.measurements.columns)
                words_NSQ = read.spread(words_NSQ, self.measurements.columns)
            live.append(words_NSQ)
            self._take(call.site, picture, words_NSQ.detach(), read, relative_1SQ)
        if live and (self.grad or self.raw):
            all_BNSQ = torch.stack(live)
            if self.grad:
                self.measurements.live[call.site.name] = all_BNSQ
            if self.raw:
                self.measurements.raw.setdefault(call.site.name, []).append(all_BNSQ.detach().cpu())

    def _take(
        self,
        site: Site,
        picture: int,
        words_NSQ: Tensor,
        read: "Columns",
        relative_1SQ: Tensor | None,
    ) -> None:
        if self.convention != "daam":
            words_NSQ = words_NSQ.mean(dim=0, keepdim=True)
        plane = self.measurements.accumulators.get((picture, site.name))
        if plane is None:
            plane = SiteAccumulator(site, torch.zeros_like(words_NSQ), [0] * words_NSQ.shape[1])
            self.measurements.accumulators[picture, site.name] = plane
        plane.add(words_NSQ, read.columns, relative_1SQ)

    def _columns(self, prompt_tokens: PromptTokens) -> "Columns":
        """Where the words stand in what is said now; the same token keeps its column."""
        if self._read is not None and self._read.prompt_tokens is prompt_tokens:
            return self._read
        column_at: dict[int, int] = {}
        places: dict[int, int] = {}
        for word, name in zip(self.words, self.maps.words, strict=True):
            own = list(self.measurements.tokens.get(name, ()))
            for number, place in enumerate(prompt_tokens.span(self.prompt, word)):
                if number == len(own):
                    own.append(column_at.get(place, self.measurements.columns))
                    self.measurements.columns = max(self.measurements.columns, own[number] + 1)
                column_at[place] = own[number]
                places[own[number]] = place
            if own:
                self.measurements.tokens[name] = tuple(own)
        self._read = Columns(prompt_tokens, tuple(places), tuple(places.values()))
        return self._read


@dataclass(frozen=True, slots=True)
class Columns:
    """Of what is said at a step: which columns along S are there, and their places along T."""

    prompt_tokens: PromptTokens
    columns: tuple[int, ...]
    places: tuple[int, ...]
    _there: dict[torch.device, Tensor] = field(default_factory=dict, repr=False, compare=False)

    def places_on(self, device: torch.device) -> Tensor:
        """To pick them out there."""
        if device not in self._there:
            self._there[device] = torch.tensor(self.places, dtype=torch.long, device=device)
        return self._there[device]

    def spread(self, words_NSQ: Tensor, columns: int) -> Tensor:
        """The same with all columns along S, 0 for those that are not there."""
        if self.columns == tuple(range(columns)):
            return words_NSQ
        heads, _, positions = words_NSQ.shape
        spread_NSQ = words_NSQ.new_zeros(heads, columns, positions)
        index = torch.tensor(self.columns, dtype=torch.long, device=words_NSQ.device)
        return spread_NSQ.index_copy(1, index, words_NSQ)
