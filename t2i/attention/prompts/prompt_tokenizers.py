"""Discovery of the tokenizers behind the text tokens that a pipeline's denoiser attends to."""

import inspect
from collections.abc import Callable
from typing import Any

from diffusers.utils.import_utils import is_bs4_available, is_ftfy_available
from torch import nn

from t2i.attention.prompts.prompt_tokens import PromptTokenizer
from t2i.conditioning.run_state import PipelineWithStepCallbacks
from t2i.errors import ArgumentError
from t2i.text.encoders.selection import select_text_encoder

CLIP_WINDOW_SIZE = 77


def find_prompt_tokenizers(x: Any, tokenizer: Any) -> tuple[PromptTokenizer, ...]:
    """Return the tokenizers of a pipeline's prompts, each with the range of text tokens that it
    fills in the denoiser's input, in that order; empty if no tokenizer is known.

    tokenizer : the tokenizer given to `attend`, or None
    Raises ArgumentError for a tokenizer of a pipeline that is conditioned on images only.
    """
    root = find_denoiser(x)
    if _has_image_conditioning_only(root):
        if tokenizer is not None:
            raise ArgumentError(
                f"Got a tokenizer, but a {type(x).__name__} is conditioned on an image embedding "
                "and no words: probe the positions of the embedding, attn.probe((0, 1))."
            )
        return ()
    first = _count_image_tokens(x, root)
    if tokenizer is not None:
        return (PromptTokenizer(tokenizer, first),)
    if isinstance(x, PipelineWithStepCallbacks):
        return _find_in_own_pipeline(x)
    if isinstance(x, nn.Module):
        return ()

    own = [getattr(x, name, None) for name in ("tokenizer", "tokenizer_2", "tokenizer_3")]
    if hasattr(x, "text_encoder_3"):  # SD3: two CLIPs at the same positions, then T5
        clip = own[0] or own[1]
        length = int(getattr(x, "tokenizer_max_length", CLIP_WINDOW_SIZE))
        t5 = own[2] if x.text_encoder_3 is not None else None
        ranges = [(clip, 0, length), (t5, length, None)]
        return tuple(PromptTokenizer(t, at, most) for t, at, most in ranges if t is not None)
    if own[1] is not None and hasattr(x, "transformer"):
        if "encoder_hidden_states_t5" in inspect.signature(root.forward).parameters:
            return ()  # HunyuanDiT joins two texts of any length: positions only
        return (PromptTokenizer(own[1]),)  # Flux: CLIP gives it one vector only, T5 the tokens
    found = next((one for one in own if one is not None), None)
    if found is None:
        return ()
    return (PromptTokenizer(found, first, preprocess=_find_preprocessing(x, found)),)


def find_denoiser(x: Any) -> Any:
    """Return the denoiser of a pipeline, or the model itself; None for a pipeline without one."""
    if isinstance(x, nn.Module):
        return x
    parts = (getattr(x, name, None) for name in ("unet", "transformer", "decoder"))
    return next((part for part in parts if part is not None), None)


def _find_in_own_pipeline(x: Any) -> tuple[PromptTokenizer, ...]:
    """Return the first encoder as tokenizer; the second has its tokens at the same positions."""
    for end in ("", "_2"):
        tokenizer = getattr(x, f"tokenizer{end}", None)
        if tokenizer is not None:
            encoder = select_text_encoder(tokenizer, getattr(x, f"text_encoder{end}"))
            return (PromptTokenizer(encoder, preprocess=_find_preprocessing(x, tokenizer)),)
    return ()


def _has_image_conditioning_only(root: Any) -> bool:
    """Return True for a denoiser without text, as Kandinsky 2.2's."""
    return getattr(getattr(root, "config", None), "encoder_hid_dim_type", None) == "image_proj"


def _count_image_tokens(x: Any, root: Any) -> int:
    """Return the number of tokens of an image embedding that precede the text tokens."""
    kandinsky = getattr(getattr(root, "encoder_hid_proj", None), "num_image_text_embeds", 0)
    unclip = getattr(getattr(x, "text_proj", None), "clip_extra_context_tokens", 0)
    return int(kandinsky or unclip)


def _find_preprocessing(x: Any, tokenizer: Any) -> Callable[[str], str] | None:
    """Return the pipeline's change of a prompt before it is tokenized, if it has one."""
    cleaned = getattr(x, "_text_preprocessing", None)
    if cleaned is not None:  # PixArt: lower case, and more where its packages are installed
        parameter = inspect.signature(type(x).__call__).parameters.get("clean_caption")
        clean = parameter is not None and parameter.default is True
        clean = clean and is_bs4_available() and is_ftfy_available()
        return lambda prompt: str(cleaned(prompt, clean_caption=clean)[0])
    converted = getattr(x, "maybe_convert_prompt", None)
    if converted is not None:  # learned words of several tokens
        return lambda prompt: str(converted(prompt, tokenizer))
    return None
