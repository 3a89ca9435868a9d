"""Perturbed self-attention: an identity attention map in some rows of a denoiser pass.

B batch rows, C channels, H W latent size.
"""

import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from t2i.attention.compute.identity_rows import using_identity_attention_rows
from t2i.attention.compute.tap import tapping_attention, tapping_eager_attention
from t2i.attention.hooks.compiled import is_compiled
from t2i.attention.hooks.module_hooks import running_forward_in_context
from t2i.conditioning.conditioning import Branch, Conditioning
from t2i.errors import ArgumentError, AttentionError, suggest_choice
from t2i.terminal import plural

DenoiseFunction = Callable[[Tensor, Tensor, Conditioning], Tensor]
"""(latents (rows, C, H, W), timestep, conditioning of the rows) -> prediction (rows, C, H, W)."""


@contextmanager
def perturbing_self_attention(
    unet: nn.Module,
    sites: Sequence[str],
    row_branches: Sequence[Branch],
    branch: Branch = "perturbed",
) -> Iterator[None]:
    """Replace the self-attention maps at some sites by the identity within the block, in the batch
    rows of one guidance branch.

    "Perturbed self-attention" of Ahn et al. 2024, https://arxiv.org/abs/2403.17377: each position
    attends to itself alone. It passes through the tap of t2i.attention, after the edits of any
    session; the other rows are bit for bit those without it.

    sites : parts of module names, as PerturbedAttention.sites
    row_branches : branch of each row of the passes inside, see Conditioning.row_branches

    Raises ArgumentError for a pass of another number of rows, AttentionError for a processor that
    computes attention without the tap.
    """
    rows = [row for row, own in enumerate(row_branches) if own == branch]
    modules = find_self_attention_modules(unet, sites)
    if not rows:
        yield
        return
    thread = threading.get_ident()

    def context_of(
        name: str,
    ) -> Callable[[tuple[Any, ...], dict[str, Any]], AbstractContextManager[object]]:
        def make_context(
            args: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> AbstractContextManager[object]:
            if threading.get_ident() != thread:
                return nullcontext()
            hidden = args[0] if args else kwargs["hidden_states"]
            if len(hidden) != len(row_branches):
                raise ArgumentError(
                    f"Got a pass of {plural(len(hidden), 'row')}, but branches for "
                    f"{len(row_branches)}: expected one each."
                )
            return _identity_rows_checked(name, rows)

        return make_context

    with tapping_attention(), ExitStack() as stack:
        for name, module in modules.items():
            stack.enter_context(tapping_eager_attention(module))
            stack.enter_context(running_forward_in_context(module, context_of(name)))
        yield


@contextmanager
def _identity_rows_checked(name: str, rows: Sequence[int]) -> Iterator[None]:
    with using_identity_attention_rows(rows) as identity:
        yield
    if identity.num_calls == 0:
        raise AttentionError(
            f"The attention of {name!r} never came to the tap, so that it cannot be perturbed: a "
            "backend or processor goes another way there (xformers, flex or sage attention). Take "
            "it off, with set_default_attn_processor() of the pipeline's denoiser, and try again."
        )


def find_self_attention_modules(unet: nn.Module, sites: Sequence[str]) -> Mapping[str, nn.Module]:
    """Return the self-attention modules whose names match one of the site patterns, by name.

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
                f"{suggest_choice(site, blocks or known)}"
            )
        found |= matching
    return found


def wrap_perturbed_denoiser(
    denoise: DenoiseFunction, unet: nn.Module, sites: Sequence[str]
) -> DenoiseFunction:
    """Wrap a denoiser so that the rows of the "perturbed" branch have identity self-attention.

    The rows are those of each pass's conditioning. Without sites it is `denoise` itself. Raises
    ArgumentError for sites that the model does not have.
    """
    if not sites:
        return denoise
    find_self_attention_modules(unet, sites)

    compiled = is_compiled(unet)

    def denoise_perturbed(
        latents_BCHW: Tensor, timestep: Tensor, conditioning: Conditioning
    ) -> Tensor:
        # Code that was compiled without the patches does not run them.
        eager = torch.compiler.set_stance("force_eager") if compiled else nullcontext()
        with perturbing_self_attention(unet, sites, conditioning.row_branches), eager:
            return denoise(latents_BCHW, timestep, conditioning)

    return denoise_perturbed
