"""Weights of text encoders that the denoiser does not depend on, and that stay untrained."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel


def freeze_unused_weights(
    encoders: Sequence[PreTrainedModel], compute_outputs: Callable[[], Iterable[Tensor]]
) -> None:
    """Freeze the text encoder weights that the outputs do not depend on, so that every trained
    weight has a gradient.

    Several processes wait for the gradient of every trained weight, so that none may stay without
    one. Of SDXL's first encoder the layer before the last is read: its last layer and the final
    norm are frozen here.
    """
    training = [encoder.training for encoder in encoders]
    for encoder in encoders:
        encoder.eval()  # dropout would draw from the generator of the run
    with torch.enable_grad():
        reached = find_leaf_tensors(compute_outputs())
    for encoder, was_training in zip(encoders, training, strict=True):
        encoder.train(was_training)
    for encoder in encoders:
        for weight in encoder.parameters():
            weight.requires_grad_(weight.requires_grad and weight in reached)


def find_leaf_tensors(outputs: Iterable[Tensor]) -> set[Tensor]:
    """Find the leaf tensors, such as parameters, that a gradient of the outputs reaches."""
    leaves: set[Tensor] = set()
    seen: set[object] = set()
    nodes = [output.grad_fn for output in outputs]
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if (leaf := getattr(node, "variable", None)) is not None:
            leaves.add(leaf)
        nodes += [following for following, _ in node.next_functions]
    return leaves
