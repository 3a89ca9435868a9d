"""Our own vocabulary in CLIPTokenizer."""

from pathlib import Path

import pytest

from t2i.errors import ModelError
from t2i.text.bpe import build_clip_tokenizer, load_vocabulary_and_merges, save_bpe, train_bpe

TEXTS = ["a red apple", "a red cat left of a red apple", "the cat's apple"] * 5


def test_frequent_words_become_one_token_and_any_text_can_be_written() -> None:
    vocabulary, merges = train_bpe(TEXTS, 2000)
    tokenizer = build_clip_tokenizer(vocabulary, merges, 16)
    assert tokenizer.tokenize("A red APPLE") == ["a</w>", "red</w>", "apple</w>"]
    for text in ("zebra", "naïve café", "日本", "🍎"):
        ids = tokenizer(text).input_ids[1:-1]
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids).strip() == text


def test_a_vocabulary_is_no_larger_than_asked() -> None:
    vocabulary, merges = train_bpe(TEXTS, 520)
    assert len(vocabulary) == 520
    assert sorted(vocabulary.values()) == list(range(520))
    assert len(merges) == 520 - 2 * 256 - 2


def test_a_vocabulary_is_read_as_it_was_written(tmp_path: Path) -> None:
    vocabulary, merges = train_bpe(TEXTS, 600)
    save_bpe(vocabulary, merges, tmp_path)
    assert load_vocabulary_and_merges(tmp_path) == (vocabulary, merges)


def test_a_folder_without_a_vocabulary_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"python -m train.vocabulary"):
        load_vocabulary_and_merges(tmp_path)
