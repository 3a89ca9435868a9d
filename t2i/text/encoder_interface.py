"""Interface of all text encoders.

B prompts, T text tokens, D embedding width.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from t2i.errors import ArgumentError
from t2i.terminal import plural
from t2i.text.grammar import MAX_PROMPT_CHARACTERS
from t2i.text.prompt import Prompt, WeightedText
from t2i.text.token_windows import EncoderInput, TokenWindow


@dataclass(frozen=True, slots=True)
class EncodedText:
    """Text embeddings of a batch of prompts, with mask and pooled vectors."""

    text_BTD: Tensor
    mask_BT: Tensor | None = None
    """True where the denoiser may look; None where it may look everywhere."""
    pooled_BD: Tensor | None = None
    """One vector for the whole prompt, where the model gives one; of the first window."""


class TextEncoder(ABC):
    """Interface of a text encoder: prompts to embeddings, in as many windows as the longest one
    needs.
    """

    @property
    @abstractmethod
    def token_window(self) -> TokenWindow:
        """Token window of the text encoder: its size and its special tokens."""

    @property
    def window_size(self) -> int:
        """Number of tokens the model reads at once, special tokens included."""
        return self.token_window.size

    @abstractmethod
    def encode(
        self,
        prompts: Sequence[EncoderInput],
        *,
        clip_skip: int | None = None,
        chunks: int | None = None,
        length: int | None = None,
        device: torch.device | None = None,
    ) -> EncodedText:
        """Encode prompts to text embeddings; gradients flow when they are enabled.

        Parameters
        ----------
        prompts : B strings, each literal text, or what Prompt.texts_at_step gives; "" is
            unconditional
        clip_skip : layers left out before the final norm; None takes the model's own output
        chunks : windows per row at least, to match other rows
        length : tokens per row exactly, to match embeddings made elsewhere: a number of windows,
            or less than one; words that do not fit are dropped with a warning
        device : where the model will compute, when hooks move its weights (offload)

        Returns
        -------
        encoded : text_BTD (B, T, D) in the model's dtype, with mask and pooled vectors
        """

    @abstractmethod
    def count_chunks_of_longest(self, prompts: Sequence[EncoderInput]) -> int:
        """Return the number of token windows that the longest prompt needs."""


def check_encoder_prompts(prompts: Sequence[EncoderInput]) -> None:
    """Raise ArgumentError unless `prompts` is a list of strings or weighted texts of readable
    length.
    """
    if isinstance(prompts, str):
        raise ArgumentError(
            f"Got the single string {prompts[:40]!r} where a list of prompts is expected: "
            "put it into a list, [prompt]."
        )
    for index, prompt in enumerate(prompts):
        if isinstance(prompt, Prompt):
            raise ArgumentError(
                f"Prompt {index} is a Prompt, which may say another thing at each step: encode "
                "what prompt.texts_at_step(step, steps) gives."
            )
        if not isinstance(prompt, (str, WeightedText)):
            raise ArgumentError(
                f"Prompt {index} is a {type(prompt).__name__}, expected a string: {prompt!r:.80}."
            )
        text = prompt if isinstance(prompt, str) else "".join(prompt.section_texts)
        if len(text) > MAX_PROMPT_CHARACTERS:
            raise ArgumentError(
                f"Prompt {index} has {plural(len(text), 'character')}; at most "
                f"{MAX_PROMPT_CHARACTERS:,} are read."
            )
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ArgumentError(
                f"Prompt {index} has half a character at {error.start}: {text[error.start]!r}. "
                "Take it out."
            ) from error
    if len(prompts) == 0:
        raise ArgumentError('Got an empty list of prompts: give at least one; "" is a prompt.')
