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

    def probs(self, rows: slice = slice(None)) -> Tensor:
        """(B, N, Q, K) of these rows."""
        scale = self.query_BNQE.shape[-1] ** -0.5 if self.scale is None else self.scale
        query_BNQE, key_BNKE = (part[rows].double() for part in (self.query_BNQE, self.key_BNKE))
        scores_BNQK = query_BNQE @ key_BNKE.transpose(-1, -2) * scale
        if self.mask is not None:
            mask_BNQK = self.mask.expand(len(self.query_BNQE), *self.mask.shape[-3:])[rows]
            if mask_BNQK.dtype == torch.bool:
                scores_BNQK = scores_BNQK.masked_fill(~mask_BNQK, -torch.inf)
            else:
                scores_BNQK = scores_BNQK + mask_BNQK
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


def word_map(calls: Sequence[Asked], row: int, columns: Sequence[int], image: slice) -> Tensor:
    """The mean over calls, heads and columns of what a row looks at, (Q,)."""
    rows = slice(row, row + 1)
    means = [call.probs(rows)[0, :, image][..., list(columns)].mean(dim=(0, 2)) for call in calls]
    return torch.stack(means).mean(dim=0)


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
    own = [call for call in calls if call.keys == keys]
    assert own
    assert len(own) % len(sites) == 0
    for number, site in enumerate(sites):
        # Every pass comes to the sites in the same order.
        expected_Q = word_map(own[number :: len(sites)], row, columns, slice(*site.image))
        seen_Q = maps.site_map(word, site.name).flatten()
        difference = (seen_Q.double() - expected_Q).abs().max().item()
        assert difference < 1e-6, f"{site} row {row} {word}: {difference}"
        assert expected_Q.std() > 0  # thus no other row or column would do
