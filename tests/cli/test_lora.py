"""`t2i lora` and `t2i convert`: what they write, and what they refuse to."""

import copy
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import t2i
from t2i.adapters import (
    KohyaMetadata,
    Lora,
    read_lora,
    read_lora_from_models,
    write_diffusers_lora,
    write_kohya_lora,
    write_peft_folders,
)
from tests.adapters.made import (
    ATTENTION,
    CONFIGS,
    EVERY,
    LYCORIS,
    apart,
    components,
    drawn,
    models_of,
    theirs,
    train,
)
from tests.cli.command import PROMPT, Cli, pixels
from tests.denoiser.original_layout import write_sd1
from tests.tiny import TEXT_WIDTH

KOHYA = KohyaMetadata(family="sd1", layers_per_block=1)


@pytest.fixture(scope="module")
def low() -> Lora:
    models = models_of(components("sd1"))
    train(models, CONFIGS["mixed ranks and alphas"], EVERY)
    return read_lora_from_models(models, "mine")


@pytest.fixture(scope="module")
def loha() -> Lora:
    models = models_of(components("sd1"))
    train(models, LYCORIS["loha"], ATTENTION, size=0.5)
    return read_lora_from_models(models, "mine")


@pytest.fixture(autouse=True)
def _here(cli: Cli, low: Lora, loha: Lora, model: Path) -> None:
    """In the empty folder of a test: ink of three layouts, a LoHa, a model."""
    write_diffusers_lora(Path("ink.safetensors"), low)
    write_kohya_lora(Path("kohya.safetensors"), low, KOHYA)
    write_peft_folders(Path("peft"), low)
    write_kohya_lora(Path("gold.safetensors"), loha, KOHYA)
    Path("base").symlink_to(model)


def picture(cli: Cli, model: str, *more: str) -> np.ndarray:
    done = cli("generate", PROMPT, "--model", model, "--steps", "2", "--seed", "7", *more)
    assert done.code == 0, done.err
    return pixels(done.paths[0]).astype(int)


# what is in one


def test_info_tells_what_a_lora_changes(cli: Cli, low: Lora) -> None:
    done = cli("lora", "info", "kohya.safetensors")
    assert done.code == 0, done.err
    assert re.search(
        rf"^layers +{len(low.parts['unet'])} +{len(low.parts['text_encoder'])}", done.out, re.M
    )
    assert f"lora x{len(low.parts['unet'])}" in done.out
    assert "ss_base_model_version  sd_v1" in done.out
    document = cli("lora", "info", "kohya.safetensors", "--format", "json").json()
    unet, text = document["parts"]
    assert (unet["part"], text["part"]) == ("unet", "text_encoder")
    assert unet["kinds"] == {"lora": len(low.parts["unet"])}
    assert set(unet["ranks"]) == {"1", "2", "3"}
    assert document["header"]["modelspec.architecture"] == "stable-diffusion-v1/lora"
    assert cli("lora", "info", "gold.safetensors", "--format", "json").json()["parts"][0][
        "kinds"
    ].keys() == {"loha"}


def test_nothing_in_a_header_reaches_the_terminal_as_a_command(cli: Cli) -> None:
    tensors = load_file("kohya.safetensors")
    save_file(tensors, "evil.safetensors", {"ss_tag": "\x1b[2J\x1b]0;evil\x07", "ss\x1b[0m": "x"})
    done = cli("lora", "info", "evil.safetensors")
    assert done.code == 0
    assert "\x1b" not in done.out


# sums


@pytest.mark.parametrize("name", ["kohya.safetensors", "gold.safetensors", "peft"])
def test_a_merged_model_draws_as_with_the_lora_on_it(cli: Cli, name: str) -> None:
    done = cli("lora", "merge", "base", f"{name}:0.7", "--out", "merged")
    assert done.code == 0, done.err
    assert done.out == "merged\n"
    there = picture(cli, "merged")
    here = picture(cli, "base", "--lora", f"{name}:0.7")
    assert np.abs(there - here).max() <= 1
    assert np.abs(there - picture(cli, "base")).max() > 10
    # and it is a folder of diffusers'
    from diffusers import StableDiffusionPipeline

    StableDiffusionPipeline.from_pretrained("merged")


def test_what_merging_changed_is_extracted_again(cli: Cli) -> None:
    assert cli("lora", "merge", "base", "ink.safetensors", "--out", "merged").code == 0
    done = cli("lora", "extract", "base", "merged", "--out", "found.safetensors", "--rank", "8")
    assert done.code == 0, done.err
    assert "100.00% of the energy kept" in done.err
    assert (
        np.abs(picture(cli, "base", "--lora", "found.safetensors") - picture(cli, "merged")).max()
        <= 1
    )
    done = cli("lora", "extract", "base", "base", "--out", "none.safetensors", "--rank", "8")
    assert done.code == 2
    assert "base and base differ in no layer that a LoRA changes" in done.err


def test_what_no_lora_holds_is_said(cli: Cli) -> None:
    pipe = t2i.load("base")
    with torch.no_grad():
        pipe.unet.conv_norm_out.weight += 1
        pipe.unet.conv_out.weight += 1
    pipe.save_pretrained("other")
    done = cli("lora", "extract", "base", "other", "--out", "found.safetensors", "--rank", "8")
    assert done.code == 0
    assert "Warning: no LoRA holds what differs in 1 tensor: unet.conv_norm_out.weight." in done.err


def test_a_smaller_lora_says_what_it_keeps(cli: Cli) -> None:
    done = cli("lora", "resize", "ink.safetensors", "--out", "small.safetensors", "--rank", "1")
    assert done.code == 0, done.err
    assert re.fullmatch(r"\d\d\.\d\d% of the energy kept, \d+ layers, rank 1\n", done.err)
    assert {layer.rank for _, _, layer in read_lora(Path("small.safetensors")).iter_layers()} == {1}
    arguments = ("--out", "as-lora.safetensors", "--share", "1", "--to", "kohya", "--family", "sd1")
    document = cli("lora", "resize", "gold.safetensors", *arguments, "--format", "json").json()
    assert document["kept"] == 1.0
    difference = picture(cli, "base", "--lora", "gold.safetensors")
    difference -= picture(cli, "base", "--lora", "as-lora.safetensors")
    assert np.abs(difference).max() <= 1


# from one layout into another


def test_every_layout_of_a_lora_becomes_every_other(cli: Cli, low: Lora) -> None:
    for source in ("ink.safetensors", "kohya.safetensors", "peft"):
        for to, out in (("diffusers", "d.safetensors"), ("kohya", "k.safetensors"), ("peft", "p")):
            family = ("--family", "sd1") if to == "kohya" else ()
            done = cli("convert", source, out, "--to", to, *family, "--overwrite")
            assert done.code == 0, done.err
            assert done.out == f"{out}\n"
            found = read_lora(Path(out))
            for part, name, layer in low.iter_layers():
                change = found.parts[part][name].build_matrix() - layer.build_matrix()
                assert change.abs().max() < 1e-6, (source, to, name)
            assert len(list(found.iter_layers())) == len(list(low.iter_layers()))
    pipes = [theirs("sd1", components("sd1")) for _ in range(2)]
    for pipe, name in zip(pipes, ("k.safetensors", "d.safetensors"), strict=True):
        pipe.load_lora_weights(".", weight_name=name)
    assert apart(drawn(pipes[0]), drawn(pipes[1])) < 5e-5
    assert apart(drawn(pipes[0]), drawn(theirs("sd1", components("sd1")))) > 0.01


@pytest.mark.parametrize("prefix", ["model.diffusion_model.", "diffusion_model.", "unet."])
def test_a_lora_that_names_modules_as_a_whole_model_does_is_a_lora(cli: Cli, prefix: str) -> None:
    module = "output_blocks.1.1.transformer_blocks.0.attn1.to_q"
    ends = {"lora_down.weight": (2, 16), "lora_up.weight": (16, 2), "alpha": ()}
    save_file({f"{prefix}{module}.{e}": torch.ones(n) for e, n in ends.items()}, "x.safetensors")
    assert cli("convert", "x.safetensors", "y.safetensors").code == 0
    assert [name for _, name, _ in read_lora(Path("y.safetensors")).iter_layers()] == [
        name for _, name, _ in read_lora(Path("x.safetensors")).iter_layers()
    ]


def test_a_learned_word_changes_its_layout(cli: Cli) -> None:
    vectors = torch.randn(2, TEXT_WIDTH)
    save_file({"<sun>": vectors}, "sun.safetensors")
    assert cli("convert", "sun.safetensors", "k.safetensors", "--to", "kohya").code == 0
    assert torch.equal(load_file("k.safetensors")["emb_params"], vectors)
    done = cli("convert", "k.safetensors", "d.safetensors", "--token", "<moon>")
    assert done.code == 0
    assert done.err == "embedding, as diffusers has it\n"
    assert torch.equal(load_file("d.safetensors")["<moon>"], vectors)
    torch.save({"string_to_param": {"*": vectors}, "name": "star"}, "star.pt")
    done = cli("convert", "star.pt", "star.safetensors")
    assert done.code == 3
    assert "Refused the pickle star.pt: with --allow-pickle its tensors alone are read" in done.err
    document = cli(
        "convert", "star.pt", "s.safetensors", "--allow-pickle", "--format", "json"
    ).json()
    assert document == {"path": "s.safetensors", "kind": "embedding", "layout": "diffusers"}
    assert torch.equal(load_file("s.safetensors")["star"], vectors)


def test_a_model_in_one_file_becomes_a_folder(cli: Cli) -> None:
    write_sd1(Path("one.safetensors"), copy.deepcopy(components("sd1")))
    done = cli("convert", "one.safetensors", "folder", "--config", "base")
    assert done.code == 0, done.err
    assert np.array_equal(picture(cli, "folder"), picture(cli, "base"))
    half = cli("convert", "one.safetensors", "half", "--config", "base", "--precision", "fp16")
    assert half.code == 0
    assert (
        load_file("half/unet/diffusion_pytorch_model.safetensors")["conv_in.bias"].dtype
        == torch.float16
    )
    assert np.abs(picture(cli, "half") - picture(cli, "base")).max() <= 8


def test_a_folder_is_not_written_as_one_file_and_it_is_said_why(cli: Cli) -> None:
    done = cli("convert", "base", "one.safetensors")
    assert done.code == 2
    assert "cannot be written as one file: diffusers reads the format of the original" in done.err


# refused

REFUSALS = [
    (("convert", "no.safetensors", "x.safetensors"), 3, r"No such file or folder: no\.safetensors"),
    (("convert", "ink.safetensors", "x.bin"), 2, r"Got x\.bin: expected a file name that ends in"),
    (
        ("convert", "ink.safetensors", "kohya.safetensors"),
        5,
        r"kohya\.safetensors exists and is not",
    ),
    (
        ("convert", "ink.safetensors", "x.safetensors", "--to", "kohya"),
        3,
        r"give --family sd1, sd2",
    ),
    (("convert", "gold.safetensors", "x.safetensors"), 3, r"diffusers reads no LoHa file"),
    (
        ("convert", "ink.safetensors", "full", "--to", "peft", "--overwrite"),
        5,
        r"holds other things",
    ),
    (("convert", "one.txt", "x.safetensors"), 3, r"one\.txt is of no known kind"),
    (("lora", "info", "base"), 3, r"base holds no LoRA: expected adapter_config\.json"),
    (
        ("lora", "resize", "ink.safetensors", "--out", "x.safetensors"),
        2,
        r"Missing how much to keep",
    ),
    (
        ("lora", "resize", "ink.safetensors", "--out", "x.safetensors", "--share", "2"),
        2,
        r"Got --share 2\.0: expected a number above 0",
    ),
    (
        ("lora", "merge", "base", "no.safetensors", "--out", "x"),
        2,
        r"No such LoRA: no\.safetensors",
    ),
    (
        ("lora", "merge", "base", "ink.safetensors", "--out", "base"),
        5,
        r"base exists and is not repl",
    ),
    (
        ("lora", "extract", "base", "nix", "--out", "x.safetensors", "--rank", "1"),
        3,
        r"Unknown model",
    ),
]


@pytest.mark.parametrize(
    ("words", "code", "complaint"), REFUSALS, ids=lambda value: str(value)[:60]
)
def test_what_cannot_be_done_is_refused_and_nothing_is_written(
    cli: Cli, words: tuple[str, ...], code: int, complaint: str
) -> None:
    Path("full").mkdir()
    Path("full/letter.txt").write_text("dear")
    Path("one.txt").write_text("one")
    before = {path: path.stat().st_mtime_ns for path in Path().rglob("*")}
    done = cli(*words)
    assert re.search(complaint, done.err), done.err
    assert done.code == code
    assert "Traceback" not in done.err
    assert {path: path.stat().st_mtime_ns for path in Path().rglob("*")} == before
    done = cli(*words, "--format", "json")
    assert re.search(complaint, json.loads(done.out)["error"]["message"])


def test_a_tensor_that_is_not_understood_is_named_by_every_command(cli: Cli) -> None:
    tensors = load_file("ink.safetensors") | {"unet.some.where.oft_blocks": torch.zeros(2)}
    save_file(tensors, "odd.safetensors")
    for words in (
        ("generate", PROMPT, "--model", "base", "--steps", "1", "--lora", "odd.safetensors"),
        ("convert", "odd.safetensors", "x.safetensors"),
        ("lora", "info", "odd.safetensors"),
        ("lora", "merge", "base", "odd.safetensors", "--out", "x"),
        ("lora", "resize", "odd.safetensors", "--out", "x.safetensors", "--rank", "1"),
    ):
        done = cli(*words)
        assert done.code == 3
        assert re.search(r"1 of its \d+ tensors .*unet\.some\.where\.oft_blocks", done.err)
    assert not Path("x").exists()
    assert not Path("x.safetensors").exists()


def test_a_lora_that_does_not_fit_the_model_is_named(cli: Cli, low: Lora) -> None:
    layers = dict(low.parts["unet"])
    layers["mid_block.attentions.9.proj_in"] = layers.pop("mid_block.attentions.0.proj_in")
    write_kohya_lora(Path("odd.safetensors"), Lora({"unet": layers}), KOHYA)
    done = cli("generate", PROMPT, "--model", "base", "--steps", "1", "--lora", "odd.safetensors")
    assert done.code == 3
    assert re.search(
        r"odd\.safetensors: The LoRA does not fit this model: 1 of its \d+ layers for the unet .*"
        r"mid_block\.attentions\.9\.proj_in",
        done.err,
    )
