"""Self-attention that sees nothing but its own place, in some rows of a pass.

B batch rows, Q image positions at a site, D its width, C channels, H W its size.
"""

import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from t2i.attention.hooks.compiled import is_compiled
from t2i.conditioning.conditioning import Branch, Conditioning
from t2i.errors import ArgumentError, nearest
from t2i.terminal import several

Denoise = Callable[[Tensor, Tensor, Conditioning], Tensor]
"""(latents (rows, C, H, W), timestep, what each row is told) -> prediction (rows, C, H, W)."""


@contextmanager
def perturbed(
    unet: nn.Module, sites: Sequence[str], roles: Sequence[str], role: Branch = "perturbed"
) -> Iterator[None]:
    """The rows of this role get the identity as their self-attention map: each image position
    hears its own value only (Ahn et al. 2024, https://arxiv.org/abs/2403.17377, "perturbed
    self-attention").

    `roles` are those of the rows of the passes made inside (Conditioning.row_branches). The other
    rows are the same bit for bit as without; the attention processors are never touched.
    """
    rows = [row for row, its in enumerate(roles) if its == role]
    modules = self_attentions(unet, sites)
    if not rows:
        yield
        return

    thread = threading.get_ident()

    def replace_rows(attention: nn.Module, args: tuple[Any, ...], *rest: Any) -> Tensor | None:
        # Another thread's pass is none of ours; torch leaves out its kwargs where the hook was
        # taken away when it had begun.
        if threading.get_ident() != thread:
            return None
        kwargs: dict[str, Any] = rest[0]
        attended: Tensor = rest[1]
        hidden = args[0] if args else kwargs["hidden_states"]
        if len(hidden) != len(roles):
            raise ArgumentError(
                f"Got a pass of {several(len(hidden), 'row')}, but roles for {len(roles)}: "
                "expected one each."
            )
        # Not in place: a probe may hold what the attention returned.
        attended = attended.clone()
        attended[rows] = identity_attention(attention, hidden[rows]).to(attended)
        return attended

    hooks = [
        module.register_forward_hook(replace_rows, with_kwargs=True) for module in modules.values()
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def identity_attention(attention: Any, hidden: Tensor) -> Tensor:
    """What a diffusers Attention returns for hidden (B, Q, D) or (B, C, H, W) if its map is I."""
    tokens_BQD = hidden.flatten(2).transpose(1, 2) if hidden.ndim == 4 else hidden
    if attention.group_norm is not None:
        tokens_BQD = attention.group_norm(tokens_BQD.transpose(1, 2)).transpose(1, 2)

    out_BQD = attention.to_v(tokens_BQD)
    for layer in attention.to_out:
        out_BQD = layer(out_BQD)

    out = out_BQD
    if hidden.ndim == 4:
        out = out_BQD.transpose(1, 2).unflatten(2, hidden.shape[-2:])
    if attention.residual_connection:
        out = out + hidden
    rescaled: Tensor = out / attention.rescale_output_factor
    return rescaled


def self_attentions(unet: nn.Module, sites: Sequence[str]) -> Mapping[str, nn.Module]:
    """The self-attention modules whose names match one of the patterns.

    A pattern is a regular expression searched in the name, as diffusers' pag_applied_layers: "mid",
    "up_blocks.1". Raises ArgumentError for a pattern that matches none.
    """
    known = {
        name: module
        for name, module in unet.named_modules()
        if isinstance(module, Attention) and not module.is_cross_attention
    }
    found: dict[str, nn.Module] = {}
    for site in sites:
        try:
            matching = {name: m for name, m in known.items() if re.search(site, name)}
        except re.error as error:
            raise ArgumentError(
                f"Got the site {site!r}, which is no regular expression: {error}"
            ) from error
        if not matching:
            blocks = {re.split(r"\.attentions|\.transformer", name)[0] for name in known}
            raise ArgumentError(
                f"No self-attention of this model is called {site!r}. "
                f"{nearest(site, blocks or known)}"
            )
        found |= matching
    return found


def perturbing(denoise: Denoise, unet: nn.Module, sites: Sequence[str]) -> Denoise:
    """The same denoiser, with the rows of the branch "perturbed" perturbed at these sites.

    Which rows those are is asked of what each pass is told. Without sites it is `denoise` itself;
    sites that the model has not are an ArgumentError now, not at the first pass.
    """
    if not sites:
        return denoise
    self_attentions(unet, sites)

    compiled = is_compiled(unet)

    def with_perturbed_rows(latents_BCHW: Tensor, timestep: Tensor, told: Conditioning) -> Tensor:
        # Code that was compiled without hooks does not hear them.
        eager = torch.compiler.set_stance("force_eager") if compiled else nullcontext()
        with perturbed(unet, sites, told.row_branches), eager:
            return denoise(latents_BCHW, timestep, told)

    return with_perturbed_rows
