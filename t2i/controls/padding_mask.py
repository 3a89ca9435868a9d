"""Mask of the prompts' padding in the cross-attention of a ControlNet.

diffusers' ControlNets take none, so that a row would see how long the other prompts of its batch
are. B batch rows, T text tokens.
"""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import Tensor, nn

from t2i.attention.hooks.compiled import is_compiled


@contextmanager
def masking_padding_tokens(network: nn.Module, mask_BT: Tensor | None) -> Iterator[None]:
    """Let the cross-attention of a ControlNet see only some tokens within the block, as a UNet's
    does with `encoder_attention_mask`; calls of other threads are left as they are.

    network : the network as it is called; torch.compile may have wrapped it, and it then runs
        uncompiled
    mask_BT : True for the tokens that each row sees; None for all
    """
    if mask_BT is None:
        yield
        return
    thread = threading.get_ident()

    def add_mask(
        _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        own = threading.get_ident() == thread
        return args, (kwargs | {"encoder_attention_mask": mask_BT} if own else kwargs)

    with ExitStack() as stack:
        if is_compiled(network):
            # A compiled network does not look for hooks that were added later.
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        for module in network.modules():
            if isinstance(module, Transformer2DModel):
                handle = module.register_forward_pre_hook(add_mask, with_kwargs=True)
                stack.callback(handle.remove)
        yield
