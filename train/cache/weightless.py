"""Models without their weights: they keep their place and their config, and take no memory."""

import hashlib
import json
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

OF_A_PLACE = ("transformers_version", "dtype", "torch_dtype")
"""Of a config: what says nothing of the numbers that a model computes, as what begins with _."""
OF_A_CALL = ("truncation", "padding")
"""Of a tokenizer: what the last call left behind."""


def hollow(model: nn.Module) -> None:
    """Let its weights go; whoever has the model keeps it, and cannot compute with it."""
    for module in model.modules():
        module._parameters = dict.fromkeys(module._parameters)
        module._buffers = dict.fromkeys(module._buffers)


def fill(model: nn.Module, source: nn.Module) -> None:
    """Give a hollow model the weights of another one of its kind."""
    found = dict(source.named_modules())
    for name, module in model.named_modules():
        module._parameters = dict(found[name]._parameters)
        module._buffers = dict(found[name]._buffers)


def is_hollow(model: nn.Module) -> bool:
    return next(model.parameters(), None) is None


def weights_digest(model: nn.Module) -> str:
    """SHA-256 of a model's config and weights."""
    config: Any = model.config
    told = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    kept = {n: v for n, v in told.items() if not n.startswith("_") and n not in OF_A_PLACE}
    digest = hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(plain_bytes(tensor))
    return digest.hexdigest()


def plain_bytes(tensor: Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().flatten()
    return flat.view(torch.uint8).numpy().data


def words_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 of all that tells which tokens a text becomes."""
    told = json.loads(tokenizer.backend_tokenizer.to_str())
    for name in OF_A_CALL:
        told.pop(name, None)
    own = [tokenizer.model_max_length, tokenizer.all_special_ids, tokenizer.pad_token_id]
    return hashlib.sha256(json.dumps([told, own], sort_keys=True).encode()).hexdigest()
