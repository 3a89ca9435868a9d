"""A stand-in of the package `daam` 0.2.0: what its `trace` takes, keeps and gives, written anew."""

import math
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional

MAPS_SIDE = 96
"""Side of its maps, where the model is not of 512 or 1024 pixels."""


class AttentionHook:
    """Processor of a cross-attention module that keeps the maps of texts of `context_size`."""

    def __init__(self, module: Any, kept: dict[tuple[int, int], list[Tensor]]) -> None:
        self.module, self.kept, self.context_size = module, kept, 77
        self.before = module.processor

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        assert attention_mask is None
        text = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = (
            attn.head_to_batch_dim(layer(one))
            for layer, one in ((attn.to_q, hidden_states), (attn.to_k, text), (attn.to_v, text))
        )
        probs = attn.get_attention_scores(query, key, None)
        if probs.shape[-1] == self.context_size:
            factor = int(math.sqrt(MAPS_SIDE**2 // probs.shape[1]))
            cond = probs[len(probs) // 2 :]  # rows and heads in one axis
            self.kept.setdefault((id(self.module), factor), []).append(cond)
        return attn.to_out[0](attn.batch_to_head_dim(probs @ value))


class Trace:
    """Context in which a pipeline's maps are kept."""

    def __init__(self, pipe: Any) -> None:
        self.pipe, self.prompt = pipe, ""
        self.kept: dict[tuple[int, int], list[Tensor]] = {}
        blocks = [*pipe.unet.up_blocks, *pipe.unet.down_blocks]
        self.module = [
            AttentionHook(one.attn2, self.kept)
            for block in blocks
            for transformer in getattr(block, "attentions", ())
            for one in transformer.transformer_blocks
        ]
        self.module.append(SimpleNamespace())  # type: ignore[arg-type]  # that of the pipeline

    def __enter__(self) -> Self:
        check = self.pipe.check_inputs

        def check_inputs(prompt: str, *args: Any) -> None:
            self.prompt = prompt
            check(prompt, *args)

        self.pipe.check_inputs = check_inputs
        for hook in self.module[:-1]:
            hook.module.set_processor(hook)
        return self

    def __exit__(self, *_: object) -> None:
        del self.pipe.check_inputs
        for hook in self.module[:-1]:
            hook.module.set_processor(hook.before)

    def compute_global_heat_map(self, factors: Iterable[int] = (0, 1, 2, 4, 8, 16, 32, 64)) -> Any:
        chosen, maps = set(factors), []
        for (_, factor), steps in self.kept.items():
            if factor in chosen:
                total_NQT = torch.stack(steps).sum(dim=0)
                side = int(math.sqrt(total_NQT.shape[1]))
                map_NTHW = total_NQT.transpose(1, 2).unflatten(-1, (side, side))
                size = (MAPS_SIDE, MAPS_SIDE)
                maps += [*functional.interpolate(map_NTHW, size, mode="bicubic").clamp(min=0)]
        if not maps:
            raise RuntimeError("No heat maps found.")
        return SimpleNamespace(compute_word_heat_map=self._words(torch.stack(maps).mean(dim=0)))

    def _words(self, map_THW: Tensor) -> Any:
        tokenizer = self.pipe.tokenizer

        def compute_word_heat_map(word: str) -> SimpleNamespace:
            tokens, own = tokenizer.tokenize(self.prompt), tokenizer.tokenize(word)
            places = [
                first + one + 1
                for first in range(len(tokens))
                if tokens[first : first + len(own)] == own
                for one in range(len(own))
            ]
            return SimpleNamespace(value=map_THW[places].mean(dim=0))

        return compute_word_heat_map


def build_daam_stand_in() -> Any:
    """Return what `import daam` gives."""
    return SimpleNamespace(trace=Trace)
