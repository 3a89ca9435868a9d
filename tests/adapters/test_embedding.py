"""Learned words: what is written diffusers reads to the same picture, what others write we read."""

import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file

from t2i.adapters import (
    LearnedWord,
    read_all_learned_words,
    read_learned_word,
    write_learned_word,
    write_learned_word_kohya,
)
from t2i.errors import ArgumentError, ModelError, T2IError
from tests.adapters.made import components, theirs
from tests.tiny import TEXT_WIDTH

WORD = "<sun>"


@pytest.fixture
def vectors():
    torch.manual_seed(4)
    return torch.randn(3, TEXT_WIDTH)


def of(pipe):
    options = {"num_inference_steps": 2, "guidance_scale": 4.0, "output_type": "latent"}
    seed = torch.Generator().manual_seed(3)
    return pipe(prompt=f"a red {WORD}", generator=seed, **options).images


def test_what_is_written_diffusers_reads_to_the_picture_of_these_vectors(vectors, tmp_path):
    parts = components("sd1")
    direct, ours, kohya = (theirs("sd1", parts) for _ in range(3))
    plain = of(direct)
    direct.load_textual_inversion({WORD: vectors})
    write_learned_word(tmp_path / "sun.safetensors", LearnedWord({"text_encoder": vectors}, WORD))
    ours.load_textual_inversion(str(tmp_path), weight_name="sun.safetensors")
    write_learned_word_kohya(tmp_path / "moon.safetensors", LearnedWord({"text_encoder": vectors}))
    kohya.load_textual_inversion(str(tmp_path), weight_name="moon.safetensors", token=WORD)
    assert not torch.equal(of(direct), plain)
    assert torch.equal(of(ours), of(direct))
    assert torch.equal(of(kohya), of(direct))


def test_of_two_encoders_diffusers_reads_each_to_the_same_picture(vectors, tmp_path):
    path = tmp_path / "sun.safetensors"
    both = LearnedWord({"text_encoder": vectors, "text_encoder_2": vectors * 2}, WORD)
    write_learned_word(path, both)
    state = load_file(path)
    assert state.keys() == {"clip_l", "clip_g"}
    pipes = [theirs("sdxl", components("sdxl")) for _ in range(2)]
    for pipe, (first, second) in zip(
        pipes, ((state["clip_l"], state["clip_g"]), (vectors, vectors * 2)), strict=True
    ):
        for end, tensor in (("", first), ("_2", second)):
            pipe.load_textual_inversion(
                {WORD: tensor},
                token=WORD,
                text_encoder=getattr(pipe, f"text_encoder{end}"),
                tokenizer=getattr(pipe, f"tokenizer{end}"),
            )
    assert torch.equal(of(pipes[0]), of(pipes[1]))
    again = read_learned_word(path)
    assert torch.equal(again.vectors["text_encoder_2"], vectors * 2)
    assert again.token is None  # such a file has no word of its own
    assert again.num_vectors == 3


def test_every_layout_is_read(vectors, tmp_path):
    path = tmp_path / "one.safetensors"
    save_file({WORD: vectors}, path)
    assert read_learned_word(path).token == WORD
    save_file({"emb_params": vectors}, path)
    found = read_learned_word(path)
    assert found.token is None
    assert torch.equal(found.vectors["text_encoder"], vectors)
    save_file({WORD: vectors[0]}, path)  # one vector without a row of its own
    assert read_learned_word(path).num_vectors == 1
    save_file({WORD: vectors, "<moon>": vectors * 2}, path)
    assert [embedding.token for embedding in read_all_learned_words(path)] == ["<moon>", WORD]
    with pytest.raises(ModelError, match=r"holds 2 words: <moon>, <sun>\. Expected one"):
        read_learned_word(path)


def test_a_pickle_is_read_when_asked_and_nothing_in_it_runs(vectors, tmp_path):
    path = tmp_path / "sun.pt"
    torch.save({"string_to_param": {"*": vectors}, "name": "sun", "step": 5}, path)
    with pytest.raises(ModelError, match=r"Refused the pickled embedding .*sun\.pt"):
        read_learned_word(path)
    found = read_learned_word(path, pickles=True)
    assert found.token == "sun"
    assert torch.equal(found.vectors["text_encoder"], vectors)
    torch.save({WORD: vectors}, tmp_path / "learned_embeds.bin")
    assert read_learned_word(tmp_path / "learned_embeds.bin", pickles=True).token == WORD

    class Bomb:
        def __reduce__(self):
            return (tmp_path / "ran").touch, ()

    for content in (pickle.dumps(Bomb()), b"\x80\x02.", b""):
        path.write_bytes(content)
        with pytest.raises(ModelError, match="is not a pickle of tensors only"):
            read_learned_word(path, pickles=True)
    torch.save({"string_to_param": {"*": Bomb()}}, path)
    with pytest.raises(ModelError, match="is not a pickle of tensors only"):
        read_learned_word(path, pickles=True)
    assert not (tmp_path / "ran").exists()
    torch.save({"string_to_param": {"*": [1, 2]}}, path)
    with pytest.raises(ModelError, match="is no embedding: expected"):
        read_learned_word(path, pickles=True)
    with pytest.raises(T2IError, match="No such embedding"):
        read_learned_word(tmp_path / "none.pt", pickles=True)


@pytest.mark.parametrize(
    ("tensors", "complaint"),
    [
        ({WORD: torch.ones(1, 2, 3)}, r"<sun> is \[1, 2, 3\], expected \[n, width\]"),
        ({WORD: torch.ones(2000, 4)}, "expected 1 to 1024"),
        ({"clip_l": torch.ones(1, 4), "clip_g": torch.ones(2, 4)}, "as many for each encoder"),
        ({"emb_params": torch.ones(1, 4), "x": torch.ones(1, 4)}, "has x beside emb_params"),
        ({WORD: torch.full((1, 4), float("inf"))}, "has numbers that are NaN or infinite"),
    ],
)
def test_what_is_no_word_is_refused(tensors, complaint, tmp_path):
    save_file(tensors, tmp_path / "one.safetensors")
    with pytest.raises(ModelError, match=complaint):
        read_all_learned_words(tmp_path / "one.safetensors")


def test_a_word_without_a_name_has_no_place_in_diffusers_layout(vectors, tmp_path):
    with pytest.raises(ArgumentError, match="has a token: give it one"):
        write_learned_word(tmp_path / "one.safetensors", LearnedWord({"text_encoder": vectors}))
    with pytest.raises(ArgumentError, match=r"Got vectors \{'unet'"):
        LearnedWord({"unet": vectors})
