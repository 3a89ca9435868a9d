"""The tokens and words of a prompt as a model's text encoder sees them."""

import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from t2i.cli.request.request import Grammar, Request
from t2i.errors import ModelError
from t2i.server.api.schemas import TokenAnswer, TokensAnswer, WordAnswer

WORD_PATTERN = re.compile(r"[\w'-]+")
MAX_CACHED_TOKENIZERS = 8
"""Models whose tokenizers stay in memory."""


def build_tokens_answer(prompt: str, grammar: Grammar, model: Path) -> TokensAnswer:
    """Return the tokens and words of a prompt as a model's text encoder sees them at the first
    step; of a prompt of parts joined by AND, those of the first part.

    Raises ArgumentError for a mistake in its grammar.
    """
    from t2i.text.encoders.truncation import MAX_CHUNKS

    window = load_token_window(model)
    request = Request(prompt=prompt, grammar=grammar)
    parsed = request.parse_prompt_in_grammar(prompt)
    text = parsed if isinstance(parsed, str) else parsed.texts_at_step(0, 1)[0][0]
    sections = (text,) if isinstance(text, str) else text.section_texts
    tokens: list[TokenAnswer] = []
    places: list[tuple[int, int, int, int]] = []
    chunks = window.tokenize_into_chunks(text)
    for number, chunk in enumerate(chunks):
        first = number * window.size + len(window.prefix)
        for position, token in enumerate(chunk.tokens, first):
            letters = sections[chunk.section][token.start : token.end]
            tokens.append(
                TokenAnswer(
                    id=token.id,
                    text=letters.strip(),
                    position=position,
                    weight=round(token.weight, 6),
                    window=number,
                )
            )
            places.append((chunk.section, token.start, token.end, position))
    read = MAX_CHUNKS * window.size
    words = _list_words(prompt, sections, tokens, places, read)
    return TokensAnswer(
        tokens=tokens,
        words=words,
        windows=len(chunks),
        window_size=window.size,
        truncated=[word.text for word in words if word.truncated],
    )


def _list_words(
    prompt: str,
    sections: tuple[str, ...],
    tokens: list[TokenAnswer],
    places: list[tuple[int, int, int, int]],
    read: int,
) -> list[WordAnswer]:
    """Return the words in their order, each looked up in the prompt behind the one before it.

    read : number of positions that a model reads
    """
    weights = {token.position: token.weight for token in tokens}
    words, cursor = [], 0
    lowered = prompt.lower()
    for section, text in enumerate(sections):
        for match in WORD_PATTERN.finditer(text):
            own = [
                position
                for number, start, end, position in places
                if number == section and start < match.end() and end > match.start()
            ]
            found = lowered.find(match[0].lower(), cursor)
            cursor = found + len(match[0]) if found >= 0 else cursor
            words.append(
                WordAnswer(
                    text=match[0],
                    start=found if found >= 0 else None,
                    end=cursor if found >= 0 else None,
                    tokens=own,
                    weight=weights[own[0]] if own else 1.0,
                    truncated=not own or own[-1] >= read,
                )
            )
    return words


@lru_cache(maxsize=MAX_CACHED_TOKENIZERS)
def load_token_window(model: Path) -> Any:
    """Load the token window of a model's first text encoder, for the tokens of a prompt.

    Raises ModelError for a model without a tokenizer.
    """
    from transformers import AutoConfig, AutoTokenizer

    from t2i.text.encoders.selection import ENCODER_CLASS_BY_MODEL_TYPE
    from t2i.text.token_windows import build_token_window

    if model.is_file():
        from t2i.text.clip_vocabulary import download_clip_tokenizer

        return build_token_window(download_clip_tokenizer())
    tokenizers = [name for name in ("tokenizer", "tokenizer_2") if (model / name).is_dir()]
    if not tokenizers:
        raise ModelError(f"The model {model.name} has no tokenizer: get a complete copy.")
    end = tokenizers[0].removeprefix("tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(model / tokenizers[0], local_files_only=True)
    config = AutoConfig.from_pretrained(model / f"text_encoder{end}", local_files_only=True)
    family = ENCODER_CLASS_BY_MODEL_TYPE.get(config.model_type)
    return build_token_window(tokenizer, config, begin=bool(family and family.begins))
