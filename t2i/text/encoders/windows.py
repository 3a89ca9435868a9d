"""Base class of single-model text encoders: windows of tokens, embeddings, weights.

B prompts, K windows of each, R = B K rows that the model reads, W tokens of a window, T = K W,
D width of an embedding.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from t2i.errors import ArgumentError
from t2i.text.encoder_interface import EncodedText, TextEncoder, check_encoder_prompts
from t2i.text.encoders.embedding_weights import weight_and_restore_mean, weight_away_from_empty
from t2i.text.encoders.output_cache import get_text_output_cache
from t2i.text.encoders.truncation import MAX_CHUNKS, tokenize_and_truncate
from t2i.text.prompt import WeightedText
from t2i.text.token_windows import EncoderInput, TokenChunk, TokenWindow, build_token_window


class TokenBatch(NamedTuple):
    """Token ids, masks and weights of a batch of prompts: one row for each token window, the
    windows of a prompt in consecutive rows.
    """

    ids_RW: Tensor
    mask_RW: Tensor
    """1 for a token of the prompt or a special one; 0 for padding."""
    weight_RW: Tensor
    chunks: int
    """Windows of each prompt, K."""
    own_RW: Tensor
    """False for padding, and for windows that only fill a row up."""


class WindowedEncoder(TextEncoder):
    """Base class of text encoders with one tokenizer and one model, which read a prompt in windows
    of tokens; families override `run_model`.
    """

    masked: ClassVar[bool] = True
    """Whether the denoiser must not look at padding."""
    begins: ClassVar[bool] = False
    """Whether a text starts with BOS where the tokenizer itself adds nothing."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        model: PreTrainedModel,
        window: int | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.model = model
        self._layout = build_token_window(tokenizer, model.config, window, begin=self.begins)

    def run_model(
        self, ids_RW: Tensor, mask_RW: Tensor, clip_skip: int | None
    ) -> tuple[Tensor, Tensor | None]:
        """Run the text model on windows of token ids: return embeddings (windows, tokens, width),
        and pooled vectors (windows, width) or None.
        """
        text_RWD: Tensor = self.model(ids_RW, attention_mask=mask_RW).last_hidden_state
        return text_RWD, None

    @property
    def token_window(self) -> TokenWindow:
        """Token window of the text encoder: its size in tokens and its special tokens."""
        return self._layout

    def encode(
        self,
        prompts: Sequence[EncoderInput],
        *,
        clip_skip: int | None = None,
        chunks: int | None = None,
        length: int | None = None,
        device: torch.device | None = None,
    ) -> EncodedText:
        """Encode prompts to text embeddings, window by window; see TextEncoder.encode."""
        if clip_skip is not None:
            self.check_clip_skip(clip_skip)
        tokens = self.tokenize(prompts, chunks=chunks, length=length)
        device = device or self.model.device

        text_RWD, pooled_RD = self._read(tokens, clip_skip, device)
        if (tokens.weight_RW != 1).any():
            text_RWD = self._weigh(text_RWD, tokens, prompts, clip_skip, device)

        text_BTD = text_RWD.reshape(len(prompts), -1, text_RWD.shape[-1])
        mask_BT = self._build_cross_attention_mask(tokens, len(prompts), device)
        pooled_BD = None if pooled_RD is None else pooled_RD[:: tokens.chunks]
        return EncodedText(text_BTD, mask_BT, pooled_BD)

    def count_chunks_of_longest(self, prompts: Sequence[EncoderInput]) -> int:
        """Return the number of token windows that the longest prompt needs."""
        check_encoder_prompts(prompts)
        return max(
            len(chunks) for chunks in tokenize_and_truncate(self.token_window, prompts, None)
        )

    def tokenize(
        self,
        prompts: Sequence[EncoderInput],
        *,
        chunks: int | None = None,
        length: int | None = None,
    ) -> TokenBatch:
        """Tokenize prompts into token windows, equally many for each prompt; the arguments are
        those of `encode`.
        """
        check_encoder_prompts(prompts)
        if chunks is not None and not 1 <= chunks <= MAX_CHUNKS:
            raise ArgumentError(f"Got chunks={chunks}: choose a number from 1 to {MAX_CHUNKS}.")
        window, most = self._fitting(length)
        divided = tokenize_and_truncate(window, prompts, most)

        count = most or max(chunks or 1, *(len(chunks) for chunks in divided))
        rows = [
            chunk
            for chunks in divided
            for chunk in [*chunks, *[TokenChunk(-1, ())] * (count - len(chunks))]
        ]
        places_W = torch.arange(window.size)
        mask_RW = places_W < torch.tensor([[window.count_unpadded_tokens(chunk)] for chunk in rows])
        filler_R = torch.tensor([chunk.section < 0 for chunk in rows])
        return TokenBatch(
            torch.tensor([window.build_token_ids(chunk) for chunk in rows]),
            mask_RW.long(),
            torch.tensor([window.build_token_weights(chunk) for chunk in rows]),
            count,
            mask_RW & ~filler_R[:, None],
        )

    def check_clip_skip(self, clip_skip: int) -> None:
        """Raise ArgumentError for any clip_skip but None: of the text encoders, only CLIP has
        layers to skip.
        """
        raise ArgumentError(
            f"Got clip_skip={clip_skip}, but this text encoder is a "
            f"{self.model.config.model_type}: only CLIP has layers to skip. Leave it out."
        )

    def _build_cross_attention_mask(
        self, tokens: TokenBatch, prompts: int, device: torch.device
    ) -> Tensor | None:
        """Where the denoiser may look; windows that only fill a row up are hidden from it, so that
        a prompt says the same beside a longer one as alone."""
        if self.masked:
            return tokens.own_RW.reshape(prompts, -1).to(device)
        own_R1 = tokens.own_RW.any(dim=1, keepdim=True)
        if own_R1.all():
            return None
        return own_R1.expand_as(tokens.own_RW).reshape(prompts, -1).to(device)

    def _fitting(self, length: int | None) -> tuple[TokenWindow, int | None]:
        """The window and the number of them that make rows of `length` tokens."""
        window = self.token_window
        if length is None:
            return window, None
        count, rest = divmod(length, window.size)
        if rest == 0 and 1 <= count <= MAX_CHUNKS:
            return window, count
        short = replace(window, size=length)
        if length < window.size and short.capacity >= 1:
            return short, 1
        raise ArgumentError(
            f"Got length={length}: rows have a multiple of {window.size} tokens, the window of "
            f"this text encoder, or from {window.size - window.capacity + 1} to {window.size}."
        )

    def _read(
        self, tokens: TokenBatch, clip_skip: int | None, device: torch.device
    ) -> tuple[Tensor, Tensor | None]:
        """Run the text model on token windows, or find its output in the cache of the block."""

        def run() -> tuple[Tensor, Tensor | None]:
            return self.run_model(tokens.ids_RW.to(device), tokens.mask_RW.to(device), clip_skip)

        cache = get_text_output_cache()
        if cache is None:
            return run()
        batch = (type(self), clip_skip, device, tokens.mask_RW.numpy().tobytes())
        return cache.get_or_run(self.model, tokens.ids_RW, batch, run)

    def _weigh(
        self,
        text_RWD: Tensor,
        tokens: TokenBatch,
        prompts: Sequence[EncoderInput],
        clip_skip: int | None,
        device: torch.device,
    ) -> Tensor:
        weight_RW = tokens.weight_RW.to(text_RWD.device)
        comfy = [
            isinstance(prompt, WeightedText) and prompt.weight_mode == "comfy" for prompt in prompts
        ]
        comfy_R = torch.tensor(comfy, device=text_RWD.device).repeat_interleave(tokens.chunks)
        comfy_R1 = comfy_R[:, None]

        if not all(comfy):
            mask_RW = tokens.mask_RW.to(text_RWD.device) if self.masked else None
            text_RWD = weight_and_restore_mean(
                text_RWD, weight_RW.masked_fill(comfy_R1, 1.0), mask_RW
            )
        if any(comfy):
            empty = self.tokenize([""], length=tokens.ids_RW.shape[1])
            empty_1WD, _ = self._read(empty, clip_skip, device)
            weight_RW = weight_RW.masked_fill(~comfy_R1, 1.0)
            text_RWD = weight_away_from_empty(text_RWD, weight_RW, empty_1WD[0])
        return text_RWD


def check_no_output_head(model: PreTrainedModel) -> None:
    """Raise ArgumentError for a text model with an output head, such as a language model's: text
    encoders need the model without it.
    """
    if model.base_model is not model:
        raise ArgumentError(
            f"Got a {type(model).__name__}, which ends in scores; expected the layers below: give "
            f"model.base_model, a {type(model.base_model).__name__}."
        )
