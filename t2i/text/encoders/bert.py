"""Text encoder for BERT, which puts every text between [CLS] and [SEP] and reads in both
directions.
"""

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from t2i.text.encoders.windows import WindowedEncoder, check_no_output_head


class Bert(WindowedEncoder):
    """Text encoder around BertModel and its kin. The denoiser must not look at padding: use the
    mask.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        model: PreTrainedModel,
        window: int | None = None,
    ) -> None:
        check_no_output_head(model)
        super().__init__(tokenizer, model, window)
