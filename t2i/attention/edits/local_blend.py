"""Change a picture only where the changed words are."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from t2i.attention.denoiser_pass import DenoiserPass
from t2i.attention.edits.base.edit import Edit
from t2i.attention.probes.probe import Probe
from t2i.attention.prompts.prompt_tokens import PromptTokens, Words, as_words
from t2i.attention.site import Sites
from t2i.errors import ArgumentError

FEW, SOME = 16 * 16, 48 * 48
"""Positions of the sites that the published code reads, and of those that are kept to choose of."""


@dataclass(frozen=True, kw_only=True)
class LocalBlend(Edit):
    """After each step the target is the source again, but where either picture's words are.

    Prompt-to-prompt's local editing (Hertz et al. 2022, Section 4, arXiv 2208.01626) with the
    published constants: the words' maps of the sites of at most 16 x 16 positions, summed over the
    steps so far, widened by one place, stretched to a maximum of 1, above `threshold`. Where a
    model has no site so small, its smallest are read.

    words : of the source and of the target, each one word or several; () for none, as of a source
        that lacks what the target adds
    """

    edits_latents = True

    source: int = 0
    target: int = 1
    words: tuple[Words, Words]
    threshold: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.words, tuple | list) or len(self.words) != 2:
            raise ArgumentError(
                f"Got words={self.words!r}, expected the source's and the target's: "
                'words=("cat", "dog"), or several, words=(("cat", "bowl"), ("dog",)).'
            )
        if not any(map(as_words, self.words)):
            raise ArgumentError(
                f"Got words={self.words!r}: name a word of the source or of the target, as in "
                'words=((), ("dog",)).'
            )

    def fits(self, site: object) -> bool:
        return False  # it changes no attention

    def check(self, prompt_tokens: PromptTokens) -> None:
        super().check(prompt_tokens)
        for prompt, words in zip((self.source, self.target), self.words, strict=True):
            for word in as_words(words):
                prompt_tokens.span(prompt, word)

    def probes(self) -> Sequence[Probe]:
        sites = self.sites
        if sites is None:
            sites = Sites(kind="cross", place=("down", "up"), max_positions=SOME)
        return [
            Probe(as_words(words), prompt, sites, heads=self.heads, convention="mean")
            for prompt, words in zip((self.source, self.target), self.words, strict=True)
            if as_words(words)
        ]

    def after_step(
        self, latents_BCHW: Tensor, denoiser_pass: DenoiserPass, probes: Sequence[Probe]
    ) -> Tensor:
        count = denoiser_pass.images_per_prompt
        changed = latents_BCHW.clone()
        for picture in range(count):
            source, target = (p * count + picture for p in (self.source, self.target))
            size = (latents_BCHW.shape[2], latents_BCHW.shape[3])
            masks = [self.mask(probe, picture, size) for probe in probes]
            mask_HW = torch.stack(masks).any(dim=0).to(latents_BCHW)
            kept = latents_BCHW[source]
            changed[target] = kept + mask_HW * (latents_BCHW[target] - kept)
        return changed

    def mask(self, probe: Probe, picture: int, size: tuple[int, int]) -> Tensor:
        """Where the words of a probe are by now, (H, W) bool."""
        accumulators = [
            plane
            for (number, _), plane in probe.measurements.accumulators.items()
            if number == picture
        ]
        if self.sites is None:
            small = [plane for plane in accumulators if plane.site.positions <= FEW]
            least = min(plane.site.positions for plane in accumulators)
            accumulators = small or [
                plane for plane in accumulators if plane.site.positions == least
            ]
            largest = max(plane.site.positions for plane in accumulators)
            accumulators = [plane for plane in accumulators if plane.site.positions == largest]
        maps = [
            plane.total_NSQ.sum(dim=1).mean(dim=0).view(plane.site.size or (1, -1))
            for plane in accumulators
        ]
        mean_11HW = torch.stack(maps).mean(dim=0)[None, None]
        wide_11HW = functional.max_pool2d(mean_11HW, 3, stride=1, padding=1)
        large_HW = functional.interpolate(wide_11HW, size)[0, 0]
        return large_HW / large_HW.max() > self.threshold
