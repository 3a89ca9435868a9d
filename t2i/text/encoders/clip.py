"""Text encoder for CLIP, equal bit for bit to what StableDiffusionPipeline computes."""

from typing import ClassVar

from torch import Tensor, nn
from transformers import PreTrainedModel

from t2i.errors import ArgumentError
from t2i.terminal import plural
from t2i.text.encoders.windows import WindowedEncoder


class Clip(WindowedEncoder):
    """Text encoder around CLIPTextModel, or CLIPTextModelWithProjection for pooled vectors too.

    >>> encoder = Clip(pipe.tokenizer, pipe.text_encoder)
    >>> encoder.encode(["a red apple", ""]).text_BTD.shape
    torch.Size([2, 77, 768])
    """

    # Stable Diffusion's denoisers were trained to look at CLIP's padding.
    masked: ClassVar[bool] = False

    def run_model(
        self, ids_RW: Tensor, mask_RW: Tensor, clip_skip: int | None
    ) -> tuple[Tensor, Tensor | None]:
        """Run CLIP's text model: return the hidden states (windows, tokens, width) of the last
        layer or, with clip_skip, an earlier one, and the pooled `text_embeds` if the model has
        them.
        """
        output = self.model(
            ids_RW,
            attention_mask=mask_RW if uses_attention_mask(self.model) else None,
            output_hidden_states=clip_skip is not None,
        )
        if clip_skip is None:
            text_RWD: Tensor = output.last_hidden_state
        else:
            text_RWD = find_final_norm(self.model)(output.hidden_states[-1 - clip_skip])
        return text_RWD, getattr(output, "text_embeds", None)

    def check_clip_skip(self, clip_skip: int) -> None:
        """Raise ArgumentError unless `clip_skip` is from 0 to the model's number of layers."""
        layers = self.model.config.num_hidden_layers
        if not 0 <= clip_skip <= layers:
            raise ArgumentError(
                f"Got clip_skip={clip_skip}, but this text encoder has {plural(layers, 'layer')}: "
                f"choose a number from 0 (skip none) to {layers}."
            )


def uses_attention_mask(model: PreTrainedModel) -> bool:
    """Return True if a text model's config asks for an attention mask over the prompt's tokens."""
    return bool(getattr(model.config, "use_attention_mask", False))


def find_final_norm(model: PreTrainedModel) -> nn.Module:
    """Return the final layer norm of a CLIP text model."""
    # Some versions of transformers keep the layers in `model.text_model`, others in the model.
    norm = getattr(model, "text_model", model).final_layer_norm
    assert isinstance(norm, nn.Module)
    return norm
