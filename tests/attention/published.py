"""The published prompt-to-prompt controllers, written plainly: every map is made and changed.

Hertz et al. 2022 (arXiv 2208.01626) with the conventions of its published code: the batch is
[uncond x P, cond x P], only the cond rows are changed, and row 0 of them is the source.

B batch rows, P prompts, N heads, Q query positions, K key positions, T text tokens, C channels,
H W latent size.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor

Share = float | tuple[float, float]
BEGIN = 1
"""Tokens before the first word."""


@dataclass
class Controller:
    """What is done to the maps of one run.

    swap : (source, target) -> what is taken of the source's map: "replace" or "refine"; None for
        re-weighting alone
    cross : the share of the run in which words are changed, {"default_": share, word: share}
    self_steps : the share in which the picture's own maps are the source's
    weights : for each word of the targets a factor
    blend : the words of every prompt between which latents are blended, or none
    blend_positions : those of the sites that they are blended by, 16 x 16 in the published code
    """

    prompts: Sequence[str]
    tokenizer: Any
    steps: int
    swap: str | None = None
    cross: Mapping[str, Share] = field(default_factory=lambda: {"default_": 0.0})
    self_steps: Share = 0.0
    self_positions: int = 16 * 16
    blend_positions: int = 16 * 16
    weights: Mapping[str, float] | None = None
    blend: Sequence[Sequence[str]] | None = None
    threshold: float = 0.3

    def __post_init__(self) -> None:
        self.step = 0
        self.length = self.tokenizer.model_max_length
        self.table = [self.windows(target) for target in self.prompts[1:]]
        self.stored: list[Tensor] = []
        self.order = 0

    # the plan

    def windows(self, target: str) -> Tensor:
        """(steps + 1, T): 1 where a token is changed."""
        rows = self.steps + 1
        table = torch.zeros(rows, self.length, dtype=torch.float64)
        for word, share in self.cross.items():
            first, end = share if isinstance(share, tuple) else (0.0, share)
            tokens = range(self.length) if word == "default_" else self.tokens(target, word)
            for token in tokens:
                table[:, token] = 0
                table[int(first * rows) : int(end * rows), token] = 1
        return table

    def spans(self, prompt: str) -> list[tuple[str, list[int]]]:
        place, spans = BEGIN, []
        for word in prompt.split(" "):
            count = len(self.tokenizer(word, add_special_tokens=False).input_ids)
            spans.append((word, list(range(place, place + count))))
            place += count
        return spans

    def tokens(self, prompt: str, word: str) -> list[int]:
        return [token for said, span in self.spans(prompt) if said == word for token in span]

    def taken(self, source_NQT: Tensor, target_NQT: Tensor, number: int) -> Tensor:
        """The target's map made of the source's, before windows."""
        target = self.prompts[number]
        made = source_NQT
        if self.swap == "replace":
            made = source_NQT @ self.replacement(self.prompts[0], target)
        elif self.swap == "refine":
            places, found = self.refinement(self.prompts[0], target)
            made = torch.where(found, source_NQT[..., places], target_NQT)
        if self.weights is not None:
            factors = torch.ones(self.length, dtype=torch.float64)
            for word, factor in self.weights.items():
                factors[self.tokens(target, word)] = factor
            made = made * factors
        return made

    def replacement(self, source: str, target: str) -> Tensor:
        matrix = torch.zeros(self.length, self.length, dtype=torch.float64)
        i = j = 0
        for (old, a), (new, b) in zip(self.spans(source), self.spans(target), strict=True):
            if old == new:
                continue
            for offset in range(a[0] - i):
                matrix[i + offset, j + offset] = 1
            for row, p in enumerate(a):
                for column, q in enumerate(b):
                    matrix[p, q] = float(row == column) if len(a) == len(b) else 1 / len(b)
            i, j = a[-1] + 1, b[-1] + 1
        for token in range(j, j + self.length - max(i, j)):
            matrix[token, token] = 1
        return matrix

    def refinement(self, source: str, target: str) -> tuple[Tensor, Tensor]:
        """The longest common subsequence: match 1, mismatch -1, gap 0 reward nothing else."""
        old, new = (tuple(self.tokenizer(text).input_ids) for text in (source, target))

        @cache
        def best(i: int, j: int) -> tuple[tuple[int, int], ...]:
            if i == len(old) or j == len(new):
                return ()
            ways = [best(i + 1, j), best(i, j + 1)]
            if old[i] == new[j]:
                ways.append(((i, j), *best(i + 1, j + 1)))
            return max(ways, key=len)

        places, found = torch.arange(self.length), torch.ones(self.length, dtype=torch.bool)
        found[: len(new)] = False
        for i, j in best(0, 0):
            places[j], found[j] = i, True
        return places, found

    # the run

    def change(self, probs_BNQK: Tensor, is_cross: bool, place: str) -> Tensor:
        """The maps of all rows; those of the targets are replaced."""
        cond_PNQK = probs_BNQK[-len(self.prompts) :].double()
        source = cond_PNQK[0]
        for number in range(1, len(self.prompts)):
            own = cond_PNQK[number]
            if is_cross:
                open_T = self.table[number - 1][self.step]
                made = self.taken(source, own, number)
                cond_PNQK[number] = made * open_T + own * (1 - open_T)
            elif self.copies_self(own.shape[-1]):
                cond_PNQK[number] = source
        if is_cross and place in ("down", "up") and probs_BNQK.shape[2] == self.blend_positions:
            self.store(cond_PNQK)
        return torch.cat([probs_BNQK[: -len(self.prompts)], cond_PNQK.to(probs_BNQK)])

    def copies_self(self, positions: int) -> bool:
        share = self.self_steps
        first, end = share if isinstance(share, tuple) else (0.0, share)
        inside = int(self.steps * first) <= self.step < int(self.steps * end)
        return inside and positions <= self.self_positions

    def store(self, cond_PNQK: Tensor) -> None:
        if self.order == len(self.stored):
            self.stored.append(torch.zeros_like(cond_PNQK))
        self.stored[self.order] = self.stored[self.order] + cond_PNQK
        self.order += 1

    def end_step(self, _pipe: object, _step: int, _time: object, tensors: dict[str, Any]) -> Any:
        self.step, self.order = self.step + 1, 0
        if self.blend is not None:
            tensors["latents"] = self.blended(tensors["latents"])
        return tensors

    def blended(self, latents_PCHW: Tensor) -> Tensor:
        assert self.blend is not None
        masks = []
        for number, (prompt, words) in enumerate(zip(self.prompts, self.blend, strict=True)):
            tokens = sorted({token for word in words for token in self.tokens(prompt, word)})
            heads = torch.cat([kept[number][..., tokens].sum(-1) for kept in self.stored])
            side = int(self.blend_positions**0.5)
            mean_HW = heads.mean(0).view(1, 1, side, side)
            wide_HW = torch.nn.functional.max_pool2d(mean_HW, 3, 1, 1)
            large_HW = torch.nn.functional.interpolate(wide_HW, latents_PCHW.shape[-2:])
            masks.append(large_HW[0, 0] / large_HW.max() > self.threshold)
        source = latents_PCHW[0]
        return torch.stack(
            [
                source + (masks[0] | mask).to(source) * (own - source)
                for own, mask in zip(latents_PCHW, masks, strict=True)
            ]
        )


class Eager:
    """A processor of diffusers' Attention that makes the maps and hands them to `change`."""

    def __init__(self, change: Callable[[Tensor, bool, str], Tensor], place: str) -> None:
        self.change, self.place = change, place

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        **_: Any,
    ) -> Tensor:
        told = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = (
            layer(given).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for layer, given in (
                (attn.to_q, hidden_states),
                (attn.to_k, told),
                (attn.to_v, told),
            )
        )
        probs_BNQK = (query @ key.transpose(-1, -2) * attn.scale).softmax(dim=-1)
        probs_BNQK = self.change(probs_BNQK, encoder_hidden_states is not None, self.place)
        out = (probs_BNQK @ value).transpose(1, 2).flatten(2)
        made: Tensor = attn.to_out[0](out)
        return made


def controlled(unet: Any, change: Callable[[Tensor, bool, str], Tensor]) -> None:
    """Every attention of the UNet hands its maps to `change`."""
    unet.set_attn_processor(
        {name: Eager(change, name.split("_")[0]) for name in unet.attn_processors}
    )
