"""Digests of models and tokenizers: equal ones compute the same, whatever folder they are in."""

import hashlib
import json
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

UNHASHED_CONFIG_KEYS = ("transformers_version", "dtype", "torch_dtype")
"""Keys of a config that do not affect what a model computes; so do keys that begin with _."""
UNHASHED_TOKENIZER_KEYS = ("truncation", "padding")
"""Keys of a tokenizer that the last call left behind."""


def compute_config_and_weights_digest(model: nn.Module) -> str:
    """Return the SHA-256 of a model's config and weights."""
    config: Any = model.config
    settings = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    kept = {
        n: v for n, v in settings.items() if not n.startswith("_") and n not in UNHASHED_CONFIG_KEYS
    }
    digest = hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor_to_bytes(tensor))
    return digest.hexdigest()


def tensor_to_bytes(tensor: Tensor) -> memoryview:
    """Return the bytes of a tensor in row-major order, for hashing."""
    flat = tensor.detach().cpu().contiguous().flatten()
    return flat.view(torch.uint8).numpy().data


def compute_tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the SHA-256 of all settings of a tokenizer that decide its tokens."""
    settings = json.loads(tokenizer.backend_tokenizer.to_str())
    for name in UNHASHED_TOKENIZER_KEYS:
        settings.pop(name, None)
    own = [tokenizer.model_max_length, tokenizer.all_special_ids, tokenizer.pad_token_id]
    return hashlib.sha256(json.dumps([settings, own], sort_keys=True).encode()).hexdigest()
