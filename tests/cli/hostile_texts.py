"""Texts, file names and numbers that are easily read for something else, for property tests."""

from hypothesis import strategies as st

from t2i.cli.request.input_files import InputFile

FRAGMENTS = (
    *(":", ",", "=", '"', '""', ";", "+", "#", "'", "\\", "/", "-", " ", "\n", "\t", "\u2028"),
    *(":scale=", ", scale=2", "steps=0-1", ",prompt=", ":mask=", "none", "new", "auto", "0.5"),
    *("cat", "a cat, red", "C:/", "$HOME", "`", "*", "(x:1.2)", "é", "\U0001f600"),
)
TEXTS = st.lists(st.sampled_from(FRAGMENTS), max_size=6).map("".join) | st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20
)
WORDS = TEXTS.filter(bool)
FILES = WORDS.map(lambda path: InputFile(path=path))
SHARES = st.floats(0, 1)
WINDOWS = st.tuples(SHARES, SHARES).filter(lambda window: window[0] < window[1])
