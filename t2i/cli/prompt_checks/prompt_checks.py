"""Warnings about prompts that may not be meant as written.

Such a prompt is empty, the name of a file, or contains words that the model does not know. It is
drawn all the same.
"""

from collections.abc import Iterable, Sequence
from os.path import expanduser, isfile
from pathlib import Path
from shlex import quote

from t2i.cli.prompt_checks.caption_vocabulary import CaptionVocabulary
from t2i.cli.request.request import Request
from t2i.pictures import FORMAT_BY_SUFFIX
from t2i.safe_reading import open_regular_file, parse_json
from t2i.terminal import plural
from t2i.text.prompt import Prompt
from t2i.text.word_pattern import build_word_pattern

PROMPTS_FILE_SUFFIXES = (".txt", ".jsonl", ".csv")
MAX_NAMED_WORDS = 12
"""Maximum number of unknown words of a prompt in a message."""
MAX_LINE_WARNINGS = 20
"""Maximum number of warnings about a prompts file; the others are counted."""
MAX_HEADER_BYTES = 1_000_000
"""Maximum bytes of a safetensors header that is read for the names of learned words."""
MAX_QUOTED_LENGTH = 80
"""Maximum letters of a prompt in a message."""


def find_prompt_warnings(
    request: Request,
    prompts: Sequence[str],
    model: str,
    vocabulary: CaptionVocabulary | None,
    *,
    look_for_files: bool = True,
) -> list[str]:
    """Return the distinct warnings about prompts that may not be meant as written.

    model : as it was named
    vocabulary : that of the model; None if it is not recorded
    look_for_files : whether to warn of a prompt that is the name of a file; a server's client is
        not told which files there are
    """
    if request.loras:  # they may have taught any word
        vocabulary = None
    learned = [
        word for file in request.embeddings for word in _read_learned_words(file.path, file.token)
    ]

    def find(prompt: str) -> str | None:
        if look_for_files and _is_file(prompt):
            return _warn_of_file_name(prompt)
        return _find_prompt_warning(prompt, request, vocabulary, learned, model)

    warnings = [find(prompt) for prompt in prompts]
    if request.negative_prompt:
        warning = find(request.negative_prompt)
        warnings.append(warning and f"Negative prompt: {warning}")
    return list(dict.fromkeys(filter(None, warnings)))


def _find_prompt_warning(
    prompt: str,
    request: Request,
    vocabulary: CaptionVocabulary | None,
    learned: Sequence[str],
    model: str,
) -> str | None:
    if not prompt.strip():
        return (
            "The prompt is empty: was that meant? A prompt is given as in: "
            't2i generate "a red apple"'
        )
    parsed = request.parse_prompt_in_grammar(prompt)
    if isinstance(parsed, Prompt) and _has_weighted_break(parsed):
        return (
            "BREAK within weighted brackets is an ordinary word, as in A1111: to begin a chunk "
            "there, close the brackets before it and open them again after it."
        )
    texts = [parsed] if isinstance(parsed, str) else parsed.plain_texts_of_all_steps
    return None if vocabulary is None else _warn_of_unknown_words(texts, vocabulary, learned, model)


def _has_weighted_break(prompt: Prompt) -> bool:
    return any(
        segment.text == "BREAK" and segment.weight < 0
        for weighted, _ in prompt.texts_at_step(0, 1)
        for section in weighted.sections
        for segment in section
    )


def _is_file(prompt: str) -> bool:
    try:
        return isfile(expanduser(prompt.strip()))
    except (OSError, ValueError, RuntimeError):  # longer than a path may be, or no path at all
        return False


def _warn_of_file_name(prompt: str) -> str:
    quoted = f"{prompt!r:.{MAX_QUOTED_LENGTH}}"
    return f"The prompt {quoted} is a file, and {_suggest_file_option(prompt)}"


def _suggest_file_option(prompt: str) -> str:
    file, suffix = quote(prompt.strip()), Path(prompt.strip()).suffix.lower()
    if suffix in FORMAT_BY_SUFFIX:
        return (
            "only its name is read. Did you mean to change it, "
            f'`t2i generate "a red apple" --image {file}`, or to make it again, '
            f"`t2i generate --from {file}`?"
        )
    if suffix in PROMPTS_FILE_SUFFIXES:
        return f"only its name is read. Did you mean `t2i generate --prompts {file}`?"
    return "only its name is read. Did you mean what is in it?"


def _warn_of_unknown_words(
    texts: Sequence[str], vocabulary: CaptionVocabulary, learned: Sequence[str], model: str
) -> str | None:
    unknown = vocabulary.find_unknown_words_with_suggestions(
        _remove_words(learned, text) for text in texts
    )
    if not unknown:
        return None
    named = [
        f'"{word}"' if nearest is None else f'"{word}" (did you mean "{nearest}"?)'
        for word, nearest in list(unknown.items())[:MAX_NAMED_WORDS]
    ]
    more = [f"{len(unknown) - MAX_NAMED_WORDS} more"] if len(unknown) > MAX_NAMED_WORDS else []
    return (
        f"The model {model} was not trained on {', '.join([*named, *more])}, and draws something "
        f"else for it. Its vocabulary: t2i models {quote(model)}"
    )


def _remove_words(learned: Iterable[str], text: str) -> str:
    for word in learned:
        text = build_word_pattern(word).sub(" ", text)
    return text


def _read_learned_words(path: str, token: str | None) -> list[str]:
    """Return the names of the learned words in a file; [] for a file that is refused later."""
    words = [token or Path(path).stem]
    try:
        with open_regular_file(expanduser(path)) as file:
            size = int.from_bytes(file.read(8), "little")
            header = parse_json(file.read(size), lenient=True) if size <= MAX_HEADER_BYTES else {}
    except (OSError, ValueError):
        return words
    named = header if isinstance(header, dict) and not token else {}
    return words + [name for name in named if name != "__metadata__" and name.strip()]


def find_prompts_file_warnings(
    path: Path,
    lines: Iterable[tuple[int, Request]],
    model: str,
    vocabulary: CaptionVocabulary | None,
) -> list[str]:
    """Return the warnings about the prompts of a prompts file, with their line numbers."""
    warnings = [
        f"{path}:{number}: {warning}"
        for number, request in lines
        for warning in find_prompt_warnings(request, [request.prompt], model, vocabulary)
    ]
    if len(warnings) > MAX_LINE_WARNINGS:
        more = plural(len(warnings) - MAX_LINE_WARNINGS, "more prompt")
        return [*warnings[:MAX_LINE_WARNINGS], f"{path}: the same holds for {more}."]
    return warnings
