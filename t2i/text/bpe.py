"""Byte-pair vocabularies: trained, saved and loaded in the form that CLIPTokenizer reads."""

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from t2i.errors import ModelError
from t2i.safe_reading import decode_utf8, parse_json, read_bounded

START, END = "<|startoftext|>", "<|endoftext|>"
WORD_END = "</w>"
MAX_VOCABULARY_BYTES = 64_000_000
"""Bytes of one of its files."""
# CLIP's own split of a text into words, numbers and the rest.
PIECE_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"

Vocabulary = dict[str, int]
Merges = list[tuple[str, str]]


def train_bpe(texts: Iterable[str], size: int) -> tuple[Vocabulary, Merges]:
    """Train a byte-pair encoding on texts: learn merges until the vocabulary has `size` entries or
    no pair repeats; return vocabulary and merges.

    As in CLIP the vocabulary starts with every byte and every byte that ends a word, so that any
    text can be written in it, and ends with the two special tokens.
    """
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix=WORD_END))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECE_PATTERN), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=alphabet, end_of_word_suffix=WORD_END, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)

    learned = json.loads(tokenizer.to_str())["model"]["merges"]
    pieces = alphabet + [letter + WORD_END for letter in alphabet]
    merges = [(first, second) for first, second in learned][: max(0, size - len(pieces) - 2)]
    pieces += [first + second for first, second in merges] + [START, END]
    return {piece: number for number, piece in enumerate(pieces)}, merges


def build_clip_tokenizer(vocabulary: Vocabulary, merges: Merges, length: int) -> CLIPTokenizer:
    """Build a CLIPTokenizer from a BPE vocabulary and its merges, for windows of `length` tokens.

    Raises ModelError where the installed transformers ignores the vocabulary it is given, as
    version 5 does with file names.
    """
    tokenizer = CLIPTokenizer(
        vocab=vocabulary,
        merges=merges,  # type: ignore[arg-type]  # pairs, whatever its annotation says
        model_max_length=length,
        unk_token=END,
        bos_token=START,
        eos_token=END,
        pad_token=END,
    )
    if absent := {START, END, "a" + WORD_END} - vocabulary.keys():
        raise ModelError(
            f"The vocabulary lacks {', '.join(sorted(absent))}: make it with "
            "`python -m train.vocabulary`."
        )
    expected = [vocabulary[START], vocabulary["a" + WORD_END], vocabulary[END]]
    given = tokenizer("a").input_ids
    if given != expected:
        raise ModelError(
            f"CLIPTokenizer reads 'a' as {given} where its vocabulary says {expected}: this "
            "version of transformers ignores the vocabulary. Install the version that "
            "constraints.txt pins."
        )
    return tokenizer


def save_bpe(vocabulary: Vocabulary, merges: Merges, folder: Path) -> None:
    """Write a vocabulary to `vocab.json` and its merges to `merges.txt` in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(
        json.dumps(vocabulary, ensure_ascii=False, indent=0) + "\n", "utf-8"
    )
    lines = ["#version: 0.2", *(f"{first} {second}" for first, second in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", "utf-8")


def load_vocabulary_and_merges(folder: Path) -> tuple[Vocabulary, Merges]:
    """Return vocabulary and merges, read from `vocab.json` and `merges.txt` of a folder. Raises
    ModelError where they are missing or garbled.
    """
    try:
        vocabulary: Vocabulary = parse_json(
            read_bounded(folder / "vocab.json", MAX_VOCABULARY_BYTES)
        )
        lines = decode_utf8(read_bounded(folder / "merges.txt", MAX_VOCABULARY_BYTES)).splitlines()
        merges = [(pair[0], pair[1]) for pair in (line.split(" ") for line in lines[1:] if line)]
    except (OSError, ValueError, IndexError) as error:
        raise ModelError(
            f"No readable vocabulary in {folder}: {error}. Expected vocab.json and merges.txt; "
            "make them with `python -m train.vocabulary`."
        ) from error
    return vocabulary, merges
