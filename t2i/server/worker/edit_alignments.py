"""Words of a source and of its targets, aligned as an edit aligns them, for people to correct."""

from collections.abc import Sequence
from typing import Any

from pipelines.prompt_to_prompt.automatic_edits import get_cond_text_at_step
from t2i.attention.edits.base.edit import Edit
from t2i.attention.edits.base.word_edit import SourceMapEdit
from t2i.attention.prompts.prompt_tokenizers import find_prompt_tokenizers
from t2i.attention.prompts.prompt_tokens import PromptTokens
from t2i.attention.prompts.word_alignment import convert_token_to_word_alignment
from t2i.text.alignment import get_or_build_token_window
from t2i.text.prompt import Prompt
from t2i.text.word_mentions import number_repeated_words


def build_word_alignment_data(
    pipe: Any, prompts: Sequence[str | Prompt], edits: Sequence[Edit]
) -> list[dict[str, Any] | None]:
    """Return the word alignment of each edit target with the source at the first step, as JSON
    data; None for a target that takes no attention map of the source.

    Words are named as alignments name them, "dog#2" for the second of several.

    prompts : the source's, then those of the targets
    """
    tokenizers = find_prompt_tokenizers(pipe, None)[:1]
    tokens = PromptTokens(tuple(get_cond_text_at_step(prompt) for prompt in prompts), tokenizers)
    found = {edit.target: edit for edit in edits if isinstance(edit, SourceMapEdit)}
    return [_describe(found.get(number), tokens) for number in range(1, len(prompts))]


def _describe(edit: SourceMapEdit | None, tokens: PromptTokens) -> dict[str, Any] | None:
    if edit is None:
        return None
    (one,) = tokens.tokenizers
    window = get_or_build_token_window(one.tokenizer)
    texts = [one.preprocess_prompt(text) for text in tokens.prompts]
    chunks = max(len(window.tokenize_into_chunks(text)) for text in texts)
    length = one.first_position + chunks * window.size
    alignment = edit.align_tokens(tokens, length)
    source, target, origins = convert_token_to_word_alignment(
        alignment, tokens, edit.source, edit.target
    )
    return {
        "source": number_repeated_words(source),
        "target": number_repeated_words(target),
        "origins": list(origins),
    }
