"""Choice of the text encoder class by the model's config."""

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from t2i.errors import ArgumentError, suggest_choice
from t2i.text.encoder_interface import EncodedText, TextEncoder
from t2i.text.encoders.bert import Bert
from t2i.text.encoders.causal import Causal
from t2i.text.encoders.clip import Clip
from t2i.text.encoders.t5 import T5
from t2i.text.encoders.two_clip import TwoClip
from t2i.text.encoders.windows import WindowedEncoder

__all__ = [
    "ENCODER_CLASS_BY_MODEL_TYPE",
    "Clip",
    "EncodedText",
    "TextEncoder",
    "TwoClip",
    "WindowedEncoder",
    "select_text_encoder",
]


def select_text_encoder(
    tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, window: int | None = None
) -> WindowedEncoder:
    """Return the text encoder for a transformers model, chosen by `model.config.model_type`.

    `window` is the number of tokens read at once; left out, the tokenizer, the model and 512
    decide, whichever is least. SDXL's two models: use TwoClip.

    >>> encoder = select_text_encoder(pipe.tokenizer, pipe.text_encoder)
    >>> encoder.encode(["a red apple", ""]).text_BTD.shape
    torch.Size([2, 77, 768])
    """
    family = ENCODER_CLASS_BY_MODEL_TYPE.get(model.config.model_type)
    if family is None:
        raise ArgumentError(
            f"No text encoder is made of a {model.config.model_type!r}. "
            f"{suggest_choice(model.config.model_type, ENCODER_CLASS_BY_MODEL_TYPE)}"
        )
    return family(tokenizer, model, window)


ENCODER_CLASS_BY_MODEL_TYPE: dict[str, type[WindowedEncoder]] = {
    "clip_text_model": Clip,
    "t5": T5,
    "mt5": T5,
    "umt5": T5,
    "bert": Bert,
    "distilbert": Bert,
    "gpt2": Causal,
    "gpt_neox": Causal,
    "llama": Causal,
    "mistral": Causal,
    "qwen2": Causal,
    "qwen3": Causal,
}
"""By model_type of the model's config."""
