"""What turns the prompts of a pipeline into the tokens that its denoiser looks at."""

import inspect
from collections.abc import Callable
from typing import Any

from diffusers.utils.import_utils import is_bs4_available, is_ftfy_available
from torch import nn

from t2i.attention.prompts.prompt_tokens import PromptTokenizer
from t2i.conditioning.run_state import SupportsStepCallbacks
from t2i.errors import ArgumentError
from t2i.text.encoders.selection import text_encoder

CLIP_TOKENS = 77


def find_prompt_tokenizers(x: Any, tokenizer: Any) -> tuple[PromptTokenizer, ...]:
    """One reader for each stretch of the text, in the order in which they stand there."""
    root = denoiser_of(x)
    if told_pictures_only(root):
        if tokenizer is not None:
            raise ArgumentError(
                f"Got a tokenizer, but a {type(x).__name__} is told an embedding of a picture and "
                "no words: probe the places of the embedding, attn.probe((0, 1))."
            )
        return ()
    first = places_before_text(x, root)
    if tokenizer is not None:
        return (PromptTokenizer(tokenizer, first),)
    if isinstance(x, SupportsStepCallbacks):
        return of_our_pipeline(x)
    if isinstance(x, nn.Module):
        return ()

    own = [getattr(x, name, None) for name in ("tokenizer", "tokenizer_2", "tokenizer_3")]
    if hasattr(x, "text_encoder_3"):  # SD3: two CLIPs in the same places, then T5
        clip = own[0] or own[1]
        room = int(getattr(x, "tokenizer_max_length", CLIP_TOKENS))
        t5 = own[2] if x.text_encoder_3 is not None else None
        parts = [(clip, 0, room), (t5, room, None)]
        return tuple(
            PromptTokenizer(part[0], part[1], part[2]) for part in parts if part[0] is not None
        )
    if own[1] is not None and hasattr(x, "transformer"):
        if "encoder_hidden_states_t5" in inspect.signature(root.forward).parameters:
            return ()  # HunyuanDiT puts two texts of any length side by side: places only
        return (PromptTokenizer(own[1]),)  # Flux: CLIP gives it one vector only, T5 the tokens
    found = next((one for one in own if one is not None), None)
    return () if found is None else (PromptTokenizer(found, first, reads=changed_by(x, found)),)


def of_our_pipeline(x: Any) -> tuple[PromptTokenizer, ...]:
    """The words of a second encoder stand in the same places."""
    for end in ("", "_2"):
        tokenizer = getattr(x, f"tokenizer{end}", None)
        if tokenizer is not None:
            encoder = text_encoder(tokenizer, getattr(x, f"text_encoder{end}"))
            return (PromptTokenizer(encoder, reads=changed_by(x, tokenizer)),)
    return ()


def denoiser_of(x: Any) -> Any:
    names = ("unet", "transformer", "decoder")
    return (
        x
        if isinstance(x, nn.Module)
        else next((part for name in names if (part := getattr(x, name, None)) is not None), None)
    )


def told_pictures_only(root: Any) -> bool:
    """Kandinsky 2.2's way."""
    return getattr(getattr(root, "config", None), "encoder_hid_dim_type", None) == "image_proj"


def places_before_text(x: Any, root: Any) -> int:
    """Places of the text that tell of a picture, before the words."""
    own = getattr(getattr(root, "encoder_hid_proj", None), "num_image_text_embeds", 0)  # Kandinsky
    of_unclip = getattr(getattr(x, "text_proj", None), "clip_extra_context_tokens", 0)
    return int(own or of_unclip)


def changed_by(x: Any, tokenizer: Any) -> Callable[[str], str] | None:
    """What a pipeline makes of a prompt before it is divided into tokens."""
    cleaned = getattr(x, "_text_preprocessing", None)
    if cleaned is not None:  # PixArt: small letters, and more where its packages are installed
        parameter = inspect.signature(type(x).__call__).parameters.get("clean_caption")
        clean = parameter is not None and parameter.default is True
        clean = clean and is_bs4_available() and is_ftfy_available()
        return lambda prompt: str(cleaned(prompt, clean_caption=clean)[0])
    converted = getattr(x, "maybe_convert_prompt", None)
    if converted is not None:  # new words of several tokens
        return lambda prompt: str(converted(prompt, tokenizer))
    return None
