"""Attention computed by hand, in float64, to hold sessions against.

B batch rows, N heads, Q query positions, K key positions, E width of a head.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from t2i.attention.session.session import Session


@dataclass(frozen=True)
class Asked:
    """What one call of attention was given."""

    query_BNQE: Tensor
    key_BNKE: Tensor
    value_BNKE: Tensor
    mask: Tensor | None
    scale: float | None

    @property
    def keys(self) -> int:
        return self.key_BNKE.shape[2]

    def probs(self) -> Tensor:
        """(B, N, Q, K)"""
        scale = self.query_BNQE.shape[-1] ** -0.5 if self.scale is None else self.scale
        scores_BNQK = self.query_BNQE.double() @ self.key_BNKE.double().transpose(-1, -2) * scale
        if self.mask is not None and self.mask.dtype == torch.bool:
            scores_BNQK = scores_BNQK.masked_fill(~self.mask, -torch.inf)
        elif self.mask is not None:
            scores_BNQK = scores_BNQK + self.mask
        return scores_BNQK.softmax(dim=-1)


@contextmanager
def asked(root: nn.Module) -> Iterator[list[Asked]]:
    """All that attention is asked while `root` runs, in order."""
    heard: list[Asked] = []

    def answer(one: Asked, kernel: Callable[[], Tensor]) -> Tensor:
        heard.append(one)
        return kernel()

    with answered(root, answer):
        yield heard


@contextmanager
def edited(
    root: nn.Module, keys: int, change: Callable[[Tensor], Tensor], passes: Sequence[int]
) -> Iterator[None]:
    """The maps (B, N, Q, K) of so many keys are replaced, in these passes of `root`."""
    begun = -1

    def count(*_: object) -> None:
        nonlocal begun
        begun += 1

    def answer(one: Asked, kernel: Callable[[], Tensor]) -> Tensor:
        if one.keys != keys or begun not in passes:
            return kernel()
        made = change(one.probs()) @ one.value_BNKE.double()
        return made.to(one.value_BNKE.dtype)

    handle = root.register_forward_pre_hook(count)
    try:
        with answered(root, answer):
            yield
    finally:
        handle.remove()


@contextmanager
def answered(
    root: nn.Module, answer: Callable[[Asked, Callable[[], Tensor]], Tensor]
) -> Iterator[None]:
    kernel, inside = functional.scaled_dot_product_attention, False

    def attention(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        def run() -> Tensor:
            return kernel(query, key, value, attn_mask, dropout_p, is_causal, scale=scale)

        if not inside:
            return run()
        return answer(Asked(query, key, value, attn_mask, scale), run)

    def enter(*_: object) -> None:
        nonlocal inside
        inside = True

    def leave(*_: object) -> None:
        nonlocal inside
        inside = False

    with ExitStack() as stack:
        stack.callback(root.register_forward_pre_hook(enter).remove)
        stack.callback(root.register_forward_hook(leave).remove)
        functional.scaled_dot_product_attention = attention
        stack.callback(setattr, functional, "scaled_dot_product_attention", kernel)
        yield


def word_maps(
    calls: Sequence[Asked], keys: int, sites: int, row: int, columns: Sequence[int], image: slice
) -> list[Tensor]:
    """For each site the mean over passes, heads and columns of what a row looks at, (Q,).

    sites : how many there are of so many keys; every pass comes to them in the same order
    """
    own = [call for call in calls if call.keys == keys]
    assert own
    assert len(own) % sites == 0
    means = [call.probs()[row, :, image][..., list(columns)].mean(dim=(0, 2)) for call in own]
    return [torch.stack(means[number::sites]).mean(dim=0) for number in range(sites)]


def assert_maps(
    attn: Session,
    maps: Any,
    word: str,
    calls: Sequence[Asked],
    keys: int,
    row: int,
    columns: Sequence[int],
) -> None:
    """The maps of a word are at every site what softmax gives for this row and these columns."""
    sites = [site for site in attn.sites() if site.keys == keys and site.kind != "self"]
    for number, site in enumerate(sites):
        first, end = site.image
        expected_Q = word_maps(calls, keys, len(sites), row, columns, slice(first, end))[number]
        seen_Q = maps.site_map(word, site.name).flatten()
        difference = (seen_Q.double() - expected_Q).abs().max().item()
        assert difference < 1e-6, f"{site} row {row} {word}: {difference}"
        assert expected_Q.std() > 0  # thus no other row or column would do
