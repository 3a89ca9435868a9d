"""Text encoder for T5: no first token, an end token, relative positions."""

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from t2i.errors import ArgumentError
from t2i.text.encoders.windows import WindowedEncoder


class T5(WindowedEncoder):
    """Text encoder around T5EncoderModel and its kin. The denoiser must not look at padding: use
    the mask.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        model: PreTrainedModel,
        window: int | None = None,
    ) -> None:
        if hasattr(model, "decoder"):
            raise ArgumentError(
                f"Got a {type(model).__name__}, which has a decoder that nothing here reads: "
                "load T5EncoderModel from the same folder."
            )
        super().__init__(tokenizer, model, window)
