"""Text encoder of SDXL's two CLIP models, equal bit for bit to StableDiffusionXLPipeline's.

B prompts, T tokens of a row, D width of an embedding.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from t2i.errors import ArgumentError
from t2i.terminal import plural
from t2i.text.encoder_interface import EncodedText, TextEncoder
from t2i.text.encoders.clip import Clip
from t2i.text.encoders.windows import WindowedEncoder
from t2i.text.token_windows import EncoderInput, TokenWindow


class PenultimateClip(Clip):
    """CLIP encoder that returns the layer before the last, without the final norm; clip_skip
    counts from there.
    """

    def run_model(
        self, ids_RW: Tensor, mask_RW: Tensor, clip_skip: int | None
    ) -> tuple[Tensor, Tensor | None]:
        """Run CLIP's text model: return the hidden states (windows, tokens, width) of the last
        layer but one or, with clip_skip, an earlier one, and the pooled `text_embeds` if the model
        has them.
        """
        output = self.model(ids_RW, output_hidden_states=True)
        text_RWD: Tensor = output.hidden_states[-2 - (clip_skip or 0)]
        return text_RWD, getattr(output, "text_embeds", None)

    def check_clip_skip(self, clip_skip: int) -> None:
        """Raise ArgumentError unless `clip_skip` is at least 0 and less than the model's number of
        layers, of which the last is always skipped.
        """
        layers = self.model.config.num_hidden_layers
        if not 0 <= clip_skip < layers:
            raise ArgumentError(
                f"Got clip_skip={clip_skip}, but this text encoder has "
                f"{plural(layers, 'layer')}, of which SDXL leaves out the last: choose a number "
                f"from 0 (skip no more) to {layers - 1}."
            )


class TwoClip(TextEncoder):
    """Text encoder of two CLIP models, their embeddings joined along D; pooled is the second's.

    Weights act on each model's embeddings by themselves, and leave the pooled vector alone.

    >>> encoder = TwoClip(
    ...     Clip(pipe.tokenizer, pipe.text_encoder), Clip(pipe.tokenizer_2, pipe.text_encoder_2)
    ... )
    >>> encoder.encode(["a red apple"]).text_BTD.shape
    torch.Size([1, 77, 2048])
    """

    def __init__(self, first: WindowedEncoder, second: WindowedEncoder) -> None:
        for encoder in (first, second):
            if not isinstance(encoder, Clip):
                raise ArgumentError(
                    f"Got a {type(encoder).__name__} of a {encoder.model.config.model_type}; "
                    "expected two CLIPs, as SDXL has them."
                )
        if first.window_size != second.window_size:
            raise ArgumentError(
                f"The two text encoders read {first.window_size} and {second.window_size} "
                "tokens at once; "
                "expected the same number. Give both the smaller one, window=."
            )
        self.first = PenultimateClip(first.tokenizer, first.model, first.window_size)
        self.second = PenultimateClip(second.tokenizer, second.model, second.window_size)

    @property
    def token_window(self) -> TokenWindow:
        """Token window that both CLIP models of the text encoder share."""
        return self.first.token_window

    def encode(
        self,
        prompts: Sequence[EncoderInput],
        prompts_2: Sequence[EncoderInput] | None = None,
        *,
        clip_skip: int | None = None,
        chunks: int | None = None,
        length: int | None = None,
        device: torch.device | None = None,
    ) -> EncodedText:
        """Return the embeddings of each prompt by both models; `prompts_2` are for the second
        model, by default the same.

        See TextEncoder.encode for the other parameters.
        """
        prompts_2 = prompts if prompts_2 is None else prompts_2
        if len(prompts) != len(prompts_2):
            raise ArgumentError(
                f"Got {plural(len(prompts), 'prompt')} and {len(prompts_2)} for the second text "
                "encoder; expected as many."
            )
        if length is None:
            chunks = max(chunks or 1, self.count_chunks_of_longest(prompts, prompts_2))
        first, second = (
            model.encode(texts, clip_skip=clip_skip, chunks=chunks, length=length, device=device)
            for model, texts in ((self.first, prompts), (self.second, prompts_2))
        )
        text_BTD = torch.cat([first.text_BTD, second.text_BTD], dim=-1)
        return EncodedText(
            text_BTD, union_token_mask(first.mask_BT, second.mask_BT), second.pooled_BD
        )

    def count_chunks_of_longest(
        self, prompts: Sequence[EncoderInput], prompts_2: Sequence[EncoderInput] | None = None
    ) -> int:
        """Return the number of token windows that the longest prompt of either list, one for each
        CLIP model, needs.
        """
        second = prompts if prompts_2 is None else prompts_2
        return max(
            self.first.count_chunks_of_longest(prompts), self.second.count_chunks_of_longest(second)
        )


def union_token_mask(first_BT: Tensor | None, second_BT: Tensor | None) -> Tensor | None:
    """Return the union of two text encoders' attention masks: True where either text has tokens;
    None if either encoder masks nothing.
    """
    if first_BT is None or second_BT is None:
        return None
    return first_BT | second_BT
