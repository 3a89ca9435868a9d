"""Local blend: the image changes only where the edited words are."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from t2i.attention.denoiser_pass import DenoiserPass
from t2i.attention.edits.base.edit import Edit
from t2i.attention.probes.probe import Probe
from t2i.attention.prompts.prompt_tokens import PromptTokens, Words, as_word_tuple
from t2i.attention.site import Sites
from t2i.errors import ArgumentError

PUBLISHED_POSITIONS, MAX_POSITIONS = 16 * 16, 48 * 48
"""Largest sites that the published code reads, and that are kept to choose from."""


@dataclass(frozen=True, kw_only=True)
class LocalBlend(Edit):
    """Edit that keeps an image unchanged outside some words: after each step it resets the target's
    latents to the source's outside a mask, made from the words' attention maps.

    Prompt-to-prompt's local editing (Hertz et al. 2022, Section 4, arXiv 2208.01626) with the
    published constants: the words' maps of the sites of at most 16 x 16 positions, of several sizes
    the largest, summed over the steps so far, dilated by one position, scaled to a maximum of 1,
    above `threshold`. Where no site is so small, the smallest are read, up to MAX_POSITIONS unless
    `sites` says otherwise.

    words : of the source and of the target, each one word or several; () for none, as for a source
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
        if not any(map(as_word_tuple, self.words)):
            raise ArgumentError(
                f"Got words={self.words!r}: name a word of the source or of the target, as in "
                'words=((), ("dog",)).'
            )

    def acts_at_site(self, site: object) -> bool:
        """Return False for every attention site: local blend changes latents, not attention."""
        return False  # it changes no attention

    def check_prompts_and_words(self, prompt_tokens: PromptTokens) -> None:
        """Raise ArgumentError if the edit names prompts, or words of the mask, that the run does
        not have.
        """
        super().check_prompts_and_words(prompt_tokens)
        for prompt, words in zip((self.source, self.target), self.words, strict=True):
            for word in as_word_tuple(words):
                prompt_tokens.find_word_token_positions(prompt, word)

    def list_probes(self) -> Sequence[Probe]:
        """Return probes, one for each prompt, source and target, that has words of the mask: the
        mask is made from their attention maps.
        """
        sites = self.sites
        if sites is None:
            sites = Sites(kind="cross", place=("down", "up"), max_positions=MAX_POSITIONS)
        return [
            Probe(as_word_tuple(words), prompt, sites, heads=self.heads, convention="mean")
            for prompt, words in zip((self.source, self.target), self.words, strict=True)
            if as_word_tuple(words)
        ]

    def edit_latents_after_step(
        self, latents_BCHW: Tensor, denoiser_pass: DenoiserPass, probes: Sequence[Probe]
    ) -> Tensor:
        """Return the latents (B, C, H, W), the target's reset to the source's outside the mask of
        the words.
        """
        count = denoiser_pass.images_per_prompt
        blended = latents_BCHW.clone()
        for image_index in range(count):
            source, target = (p * count + image_index for p in (self.source, self.target))
            size = (latents_BCHW.shape[2], latents_BCHW.shape[3])
            masks = [self.compute_blend_mask(probe, image_index, size) for probe in probes]
            mask_HW = torch.stack(masks).any(dim=0).to(latents_BCHW)
            source_CHW = latents_BCHW[source]
            blended[target] = source_CHW + mask_HW * (latents_BCHW[target] - source_CHW)
        return blended

    def compute_blend_mask(self, probe: Probe, image_index: int, size: tuple[int, int]) -> Tensor:
        """Return the blend mask (H, W) bool of a probe's words, from the steps so far."""
        accumulators = [
            accumulator
            for (number, _), accumulator in probe.measurements.accumulators.items()
            if number == image_index
        ]
        sizes = {accumulator.site.num_positions for accumulator in accumulators}
        published = {size for size in sizes if size <= PUBLISHED_POSITIONS}
        read = max(published) if published else min(sizes)
        accumulators = [one for one in accumulators if one.site.num_positions == read]
        maps = [
            accumulator.total_NSQ.sum(dim=1).mean(dim=0).view(accumulator.site.size or (1, -1))
            for accumulator in accumulators
        ]
        mean_11HW = torch.stack(maps).mean(dim=0)[None, None]
        dilated_11HW = functional.max_pool2d(mean_11HW, 3, stride=1, padding=1)
        upsampled_HW = functional.interpolate(dilated_11HW, size)[0, 0]
        return upsampled_HW / upsampled_HW.max() > self.threshold
