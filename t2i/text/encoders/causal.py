"""Text encoder for causal language models such as GPT-2 and Llama."""

from typing import ClassVar

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from t2i.text.encoders.windows import WindowedEncoder, check_no_output_head


class Causal(WindowedEncoder):
    """Text encoder around a causal decoder without its output layer. The denoiser must not look at
    padding: use the mask.

    A text begins with BOS (or EOS), also where the tokenizer adds none: the empty prompt is a
    token too. Padding stands at the right and is masked, so that any token serves where the
    tokenizer has none for it.
    """

    begins: ClassVar[bool] = True

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        model: PreTrainedModel,
        window: int | None = None,
    ) -> None:
        check_no_output_head(model)
        super().__init__(tokenizer, model, window)

    def run_model(
        self, ids_RW: Tensor, mask_RW: Tensor, clip_skip: int | None
    ) -> tuple[Tensor, Tensor | None]:
        """Run the text model: return the last hidden states (windows, tokens, width), and None, as
        causal models have no pooled vector.
        """
        output = self.model(ids_RW, attention_mask=mask_RW, use_cache=False)
        text_RWD: Tensor = output.last_hidden_state
        return text_RWD, None
