"""Prompts to embeddings, equal bit for bit to what StableDiffusionPipeline computes.

B prompts, T tokens of the window, D width of an embedding.
"""

import re
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import BatchEncoding, PreTrainedModel, PreTrainedTokenizerBase

from t2i.errors import ArgumentError

NAMED_WORDS = 12
"""Words of the lost end that a warning spells out; of the rest it gives the number."""
LONGEST_WORD = 40
"""Letters in a row beyond which a text is taken to be written without spaces."""


class Tokens(NamedTuple):
    """What the text model reads."""

    ids_BT: Tensor
    mask_BT: Tensor
    """1 for a token of the prompt, BOS or EOS; 0 for padding."""


class TextEncoder:
    """A tokenizer and the CLIP text model it belongs to.

    >>> te = TextEncoder(pipe.tokenizer, pipe.text_encoder)
    >>> te.encode(["a red apple", ""]).shape
    torch.Size([2, 77, 768])
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> None:
        self.tokenizer = tokenizer
        self.model = model

    @property
    def window(self) -> int:
        """Tokens the model can read at once, BOS and EOS included."""
        # A tokenizer saved without model_max_length reports 1e30.
        positions: int = self.model.config.max_position_embeddings
        return min(self.tokenizer.model_max_length, positions)

    def encode(
        self,
        prompts: Sequence[str],
        *,
        clip_skip: int | None = None,
        length: int | None = None,
        device: torch.device | None = None,
    ) -> Tensor:
        """Embed each prompt, padded to the window; gradients flow when they are enabled.

        Parameters
        ----------
        prompts : B strings; "" is the unconditional prompt
        clip_skip : layers left out before the final norm; None takes the model's own output
        length : tokens per row when not the whole window
        device : where the model will compute, when hooks move its weights (offload)

        Returns
        -------
        text_BTD : (B, T, D) Tensor in the model's dtype
        """
        if clip_skip is not None:
            check_clip_skip(clip_skip, self.model.config.num_hidden_layers)
        tokens = self.tokenize(prompts, length)
        device = device or self.model.device

        mask_BT = None
        if getattr(self.model.config, "use_attention_mask", False):
            mask_BT = tokens.mask_BT.to(device)
        output = self.model(
            tokens.ids_BT.to(device),
            attention_mask=mask_BT,
            output_hidden_states=clip_skip is not None,
        )
        if clip_skip is None:
            text_BTD: Tensor = output.last_hidden_state
        else:
            text_BTD = final_norm(self.model)(output.hidden_states[-1 - clip_skip])
        return text_BTD

    def tokenize(self, prompts: Sequence[str], length: int | None = None) -> Tokens:
        """Token ids between BOS and EOS, padded to `length`; warns of words that do not fit."""
        check_prompts(prompts)
        rows = self.tokenizer(
            list(prompts),
            padding="max_length",
            max_length=length or self.window,
            truncation=True,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            return_tensors="pt",
            verbose=False,
        )
        # A prompt that overflows has several rows: the first is its beginning, the rest are lost.
        prompt_of_row = rows["overflow_to_sample_mapping"].tolist()
        first_rows = [prompt_of_row.index(b) for b in range(len(prompts))]
        if len(prompt_of_row) > len(prompts):
            warn_of_lost_words(prompts, rows, first_rows, prompt_of_row)
        return Tokens(rows["input_ids"][first_rows], rows["attention_mask"][first_rows])


def final_norm(model: PreTrainedModel) -> nn.Module:
    # Some versions of transformers keep the layers in `model.text_model`, others in the model.
    norm = getattr(model, "text_model", model).final_layer_norm
    assert isinstance(norm, nn.Module)
    return norm


def check_prompts(prompts: Sequence[str]) -> None:
    if isinstance(prompts, str):
        raise ArgumentError(
            f"Got the single string {prompts[:40]!r} where a list of prompts is expected: "
            "put it into a list, [prompt]."
        )
    for index, prompt in enumerate(prompts):
        if not isinstance(prompt, str):
            raise ArgumentError(
                f"Prompt {index} is a {type(prompt).__name__}, expected a string: {prompt!r:.80}."
            )
    if len(prompts) == 0:
        raise ArgumentError('Got an empty list of prompts: give at least one; "" is a prompt.')


def check_clip_skip(clip_skip: int, layers: int) -> None:
    if not 0 <= clip_skip <= layers:
        raise ArgumentError(
            f"Got clip_skip={clip_skip}, but this text encoder has {layers} layers: "
            f"choose a number from 0 (skip none) to {layers}."
        )


def warn_of_lost_words(
    prompts: Sequence[str],
    rows: BatchEncoding,
    first_rows: Sequence[int],
    prompt_of_row: Sequence[int],
) -> None:
    for prompt, first_row in zip(prompts, first_rows, strict=True):
        next_row = first_row + 1
        if next_row == len(prompt_of_row) or prompt_of_row[next_row] != prompt_of_row[first_row]:
            continue
        # Position 0 is BOS, so 1 is the first token that did not fit.
        first_lost = int(rows["offset_mapping"][next_row, 1, 0])
        kept, lost = split_before_word(prompt, first_lost)
        window = rows["input_ids"].shape[1]
        warnings.warn(
            f"The prompt is longer than the {window} tokens this model reads. Left out: "
            f"{spell_words(lost)}. The picture is made from: {shorten(kept)!r}. "
            "Shorten the prompt, or move what matters to its beginning.",
            stacklevel=4,
        )


def split_before_word(prompt: str, position: int) -> tuple[str, str]:
    """Cut at `position`, or before the word it lies in: a word read in part counts as lost."""
    beginning = re.search(r"\w+\Z", prompt[max(0, position - LONGEST_WORD) : position])
    if beginning and beginning.start() > 0 and prompt[position : position + 1].isalnum():
        position -= len(beginning.group())
    return prompt[:position].rstrip(), prompt[position:].strip()


def spell_words(text: str) -> str:
    words = text.split()
    named = ", ".join(repr(shorten(word)) for word in words[:NAMED_WORDS])
    more = len(words) - NAMED_WORDS
    return f"{named} and {more} more words" if more > 0 else named


def shorten(text: str, letters: int = 60) -> str:
    return text if len(text) <= letters else f"...{text[-letters:]}"
