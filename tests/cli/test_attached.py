"""`t2i generate` with LoRAs, learned words, image prompts, and pictures to begin from."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

import t2i
from t2i.cli.generation.adapters import AttachedAdapters
from t2i.cli.request.input_files import InputFile
from tests.cli.carrying import png
from tests.cli.command import PROMPT, Cli, pixels, text_of
from tests.pipelines.test_adapters import adapter_for, lora_of
from tests.pipelines.test_face_id import FACE, face_id_for
from tests.tiny import TEXT_WIDTH, tiny_sdxl_components

ATTACHED = {
    "lora": ("--lora", "beside/red.safetensors:0.5"),
    "embedding": ("--embedding", "beside/sun.safetensors"),
    "image prompt": ("--ip-adapter", "beside/eyes", "--image-prompt", "beside/teal.png:0.7"),
    "image": ("--image", "beside/noise.png", "--strength", "0.6"),
    "mask": ("--image", "beside/noise.png", "--mask", "beside/half.png"),
}


@pytest.fixture(scope="module")
def beside(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    """The files that the arguments of ATTACHED name."""
    folder = tmp_path_factory.mktemp("files") / "beside"
    folder.mkdir()
    pipe = t2i.load(str(model))
    for seed, name in enumerate(("red", "blue")):
        layers = {f"unet.{key}": value for key, value in lora_of(pipe.unet, seed).items()}
        save_file(layers, folder / f"{name}.safetensors")
    torch.manual_seed(4)
    save_file({"<sun>": torch.randn(2, TEXT_WIDTH)}, folder / "sun.safetensors")
    save_file({"emb_params": torch.randn(1, TEXT_WIDTH)}, folder / "moon.safetensors")
    save_file({"<wide>": torch.randn(1, TEXT_WIDTH + 1)}, folder / "wide.safetensors")
    save_file({"weight": torch.zeros(1)}, folder / "other.safetensors")

    weights = adapter_for(pipe.unet)
    save_file(
        {f"{part}.{key}": value for part, of in weights.items() for key, value in of.items()},
        make(folder / "eyes") / "ip-adapter.safetensors",
    )
    config = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=24,
        image_size=32,
        patch_size=8,
    )
    CLIPVisionModelWithProjection(config).save_pretrained(folder / "eyes/image_encoder")
    shutil.copy(folder / "eyes/ip-adapter.safetensors", make(folder / "blind"))

    save_file(face_id_for(pipe.unet), make(folder / "faces") / "face-id.safetensors")
    save_file({"face": FACE}, folder / "faces/face.safetensors")
    plus = {"image_proj.perceiver_resampler.proj_in.weight": torch.ones(1)}
    save_file(face_id_for(pipe.unet) | plus, folder / "faces/plus.safetensors")
    Image.new("RGB", (40, 30), "teal").save(folder / "teal.png")
    noise = np.random.default_rng(3).integers(0, 255, (34, 50, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "noise.png")
    mask = Image.new("L", (50, 34), 0)
    mask.paste(255, (25, 0, 50, 34))
    mask.save(folder / "half.png")
    return folder


def make(folder: Path) -> Path:
    folder.mkdir()
    return folder


@pytest.fixture(autouse=True)
def _here(cli: Cli, beside: Path) -> None:
    Path("beside").symlink_to(beside)


@pytest.fixture
def draw(cli: Cli, model: Path) -> Cli:
    def run(*arguments: str | Path) -> Any:
        options = ("--model", model, "--steps", "4", "--seed", "7", *arguments)
        return cli("generate", f"{PROMPT} <sun>", *options)

    return run


def drawn(done: Any) -> Path:
    assert done.code == 0, done.err
    path: Path = done.paths[0]
    return path


@pytest.mark.parametrize("arguments", ATTACHED.values(), ids=ATTACHED)
def test_each_changes_the_picture_and_is_made_again_byte_for_byte(
    draw: Cli, cli: Cli, arguments: tuple[str, ...]
) -> None:
    plain, path = drawn(draw()), drawn(draw(*arguments))
    assert pixels(plain).tobytes() != pixels(path).tobytes()
    record = json.loads(text_of(path)["t2i"])["request"]
    assert re.search(r'"sha256": "[0-9a-f]{64}"', json.dumps(record))
    again = cli("generate", "--from", path, "--out", "again")
    assert again.err.splitlines()[:-1] == []  # but for its seed and seconds nothing is said
    assert drawn(again).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    "arguments",
    [ATTACHED["image prompt"], ("--ip-adapter", "beside/eyes:beside/teal.png:scale=0.9")],
    ids=["alone", "with its picture"],
)
def test_a_recorded_ip_adapter_is_taken_away_by_none(
    draw: Cli, cli: Cli, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    plain, path = drawn(draw()), drawn(draw(*arguments))
    (tmp_path / "kept").mkdir()
    kept = shutil.copy(path, tmp_path / "kept" / "kept.png")
    Path("beside").unlink()  # its files need not be there
    free = drawn(cli("generate", "--from", kept, "--ip-adapter", "none", "--out", "free"))
    assert pixels(free).tobytes() == pixels(plain).tobytes()
    record = json.loads(text_of(free)["t2i"])["request"]
    names = ("ip_adapter", "image_prompt", "image_prompts")
    assert not any(record.get(name) for name in names)
    Image.new("RGB", (8, 8)).save("a.png")
    options = ("--ip-adapter", "none", "--image-prompt", "a.png")
    with_picture = cli("generate", "--from", kept, *options)
    assert with_picture.code == 2
    assert "--image-prompt" in with_picture.err


def test_a_line_of_a_prompts_file_takes_the_adapter_of_all_away(
    draw: Cli, cli: Cli, model: Path
) -> None:
    lines = [{"prompt": f"{PROMPT} <sun>"}, {"prompt": f"{PROMPT} <sun>", "ip_adapter": "none"}]
    Path("lines.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    options = ["--model", model, "--steps", "4", "--seed", "7", *ATTACHED["image prompt"]]
    done = cli("generate", "--prompts", "lines.jsonl", *options, "--out", "bulk")
    assert done.code == 0, done.err
    both = [pixels(path).tobytes() for path in sorted(Path("bulk").glob("*.png"))]
    assert both[1] == pixels(drawn(draw("--seed", "8"))).tobytes()
    assert both[0] == pixels(drawn(draw(*ATTACHED["image prompt"]))).tobytes()


TWO_ADAPTERS = ("beside/eyes:beside/teal.png:scale=0.9,mask=beside/half.png",)
TWO_ADAPTERS += ("beside/eyes:beside/noise.png:scale=0.5",)


def test_several_adapters_with_a_mask_each_are_drawn_again_and_drawn_in_bulk(
    draw: Cli, cli: Cli, model: Path
) -> None:
    both = [word for value in TWO_ADAPTERS for word in ("--ip-adapter", value)]
    path = drawn(draw(*both))
    for changed in (both[:2], [*both[:2], "--ip-adapter", TWO_ADAPTERS[1].replace("0.5", "0.2")]):
        assert pixels(drawn(draw(*changed))).tobytes() != pixels(path).tobytes()
    unmasked = both[1].replace(",mask=beside/half.png", "")
    assert pixels(drawn(draw("--ip-adapter", unmasked, *both[2:]))).tobytes() != (
        pixels(path).tobytes()
    )
    record = json.loads(text_of(path)["t2i"])["request"]
    assert [one["scale"] for one in record["image_prompts"]] == [0.9, 0.5]
    assert re.search(
        r'"mask": {"path": "beside/half.png", "sha256": "[0-9a-f]{64}"}', text_of(path)["t2i"]
    )
    again = cli("generate", "--from", path, "--out", "again")
    assert drawn(again).read_bytes() == path.read_bytes()
    Path("p.jsonl").write_text(
        json.dumps(
            {"prompt": f"{PROMPT} <sun>", "seed": 7, "name": "two", "ip_adapter": TWO_ADAPTERS}
        )
    )
    done = cli("generate", "--prompts", "p.jsonl", "--out", "out", "--model", model, "--steps", "4")
    assert done.code == 0, done.err
    assert pixels(Path("out/two.png")).tobytes() == pixels(path).tobytes()


def test_a_face_id_adapter_reads_a_file_with_the_embedding_of_a_face(draw: Cli, cli: Cli) -> None:
    """It needs no image encoder, and leaves a LoRA switched on; another picture has neither."""
    face = (
        "--ip-adapter",
        "beside/faces/face-id.safetensors:beside/faces/face.safetensors:scale=0.8",
    )
    lora = ATTACHED["lora"]
    both, alone, without = (drawn(draw(*given)) for given in ((*face, *lora), face, lora))
    images = {pixels(path).tobytes() for path in (both, alone, without, drawn(draw()))}
    assert len(images) == 4
    again = cli("generate", "--from", both, "--out", "again")
    assert drawn(again).read_bytes() == both.read_bytes()
    refused = draw("--ip-adapter", "beside/faces/face-id.safetensors:beside/teal.png")
    assert "for a FaceID adapter, which sees no picture" in refused.err
    refused = draw("--ip-adapter", "beside/faces/face-id.safetensors:beside/other.safetensors")
    assert "embedding of a face of width 1, but this FaceID adapter reads 8" in refused.err
    eyes = ("--ip-adapter", "beside/eyes/ip-adapter.safetensors:beside/teal.png")
    refused = draw(*eyes, "--ip-adapter", "beside/faces/plus.safetensors:beside/teal.png")
    assert "plus.safetensors is of FaceID Plus" in refused.err
    refused = draw("--ip-adapter", f"{eyes[1].partition(':')[0]}:beside/faces/face.safetensors")
    assert "for an IP-Adapter that sees pictures" in refused.err


def test_a_face_id_adapter_is_detached_with_its_lora_layers(model: Path) -> None:
    pipe = t2i.load(str(model))
    before = {name: type(module) for name, module in pipe.unet.named_modules()}
    attached = AttachedAdapters(pipe)
    attached.attach_ip_adapters([InputFile(path="beside/faces/face-id.safetensors")])
    assert list(pipe.unet.peft_config) == ["faceid_0"]
    attached.detach_ip_adapters()
    assert {name: type(module) for name, module in pipe.unet.named_modules()} == before
    assert not hasattr(pipe.unet, "peft_config")


def test_a_prompt_edit_sees_image_prompts_in_source_and_target(cli: Cli, model: Path) -> None:
    options = ("--model", model, "--steps", "4", "--seed", "7")
    adapters = ("--ip-adapter", TWO_ADAPTERS[0])
    done = cli("edit", "a red cat", "a red dog", *options, *adapters, "--out", "e.png")
    assert done.code == 0, done.err
    plain = cli("edit", "a red cat", "a red dog", *options, "--out", "plain.png")
    assert plain.code == 0, plain.err
    for name in ("source", "target"):
        assert not np.array_equal(pixels(Path(f"e-{name}.png")), pixels(Path(f"plain-{name}.png")))
    again = cli("generate", "--from", "e-target.png", "--out", "again.png")
    assert again.code == 0, again.err
    assert np.array_equal(pixels(Path("e-target.png")), pixels(Path("again.png")))
    photo = ("--image", "beside/noise.png", *adapters)
    refused = cli("edit", "a red cat", "a red dog", *options, *photo)
    assert "Got --ip-adapter for a photo that is inverted" in refused.err


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["beside/eyes", "beside/blind"], "as a second one without a picture"),
        (["beside/eyes:beside/teal.png:size=2"], "Got --ip-adapter with 'size=2'"),
        (["beside/eyes:beside/teal.png:scale=1,scale=2"], "with scale twice"),
        (["beside/eyes:"], "expected ADAPTER:PICTURE"),
        (["beside/eyes:beside/teal.png:scale=inf"], "Got --ip-adapter with scale=inf"),
        (["beside/eyes:beside/teal.png:scale=stile"], "Did you mean 'style'"),
        (["beside/eyes:beside/teal.png:scale=style"], "UNet is not SDXL's"),
        (["beside/eyes:beside/none.png"], "No such image prompt: beside/none.png"),
        (["beside/eyes:beside/teal.png:mask=no.png"], "No such image prompt's mask: no.png"),
        (["beside/eyes:beside/teal.png"] * 17, "Got 17 IP-Adapters: at most 16"),
    ],
)
def test_adapters_that_cannot_be_used_are_refused(
    draw: Cli, values: list[str], message: str
) -> None:
    done = draw(*(word for value in values for word in ("--ip-adapter", value)))
    assert done.code != 0
    assert message in done.err


def test_a_picture_tells_of_its_files(draw: Cli, cli: Cli) -> None:
    path = drawn(draw(*ATTACHED["lora"], *ATTACHED["embedding"], *ATTACHED["image"]))
    told = cli("show", path).out
    assert re.search(r"^LoRA +red\.safetensors:0\.5 \([0-9a-f]{10}\)$", told, re.MULTILINE)
    assert re.search(r"^embedding +sun\.safetensors \([0-9a-f]{10}\)$", told, re.MULTILINE)
    assert re.search(r"^picture +noise\.png \([0-9a-f]{10}\)$", told, re.MULTILINE)
    assert re.search(r"^strength +0\.6$", told, re.MULTILINE)
    assert ", Denoising strength: 0.6, LoRA: " in text_of(path)["parameters"]


def test_a_picture_keeps_its_size_and_is_changed_as_far_as_is_said(draw: Cli) -> None:
    assert Image.open(drawn(draw(*ATTACHED["image"]))).size == (48, 32)
    assert Image.open(drawn(draw(*ATTACHED["image"], "--size", "32x40"))).size == (32, 40)
    more, less = (
        pixels(drawn(draw("--image", "beside/noise.png", "--strength", strength)))
        for strength in ("0.9", "0.3")
    )
    assert more.tobytes() != less.tobytes()


def test_a_mask_painted_on_a_clear_layer_asks_for_what_is_painted(draw: Cli) -> None:
    half = Image.open("beside/half.png")
    layer = Image.new("RGB", half.size, "white")
    layer.putalpha(half)
    layer.save("layer.png")
    plain = drawn(draw(*ATTACHED["mask"]))
    done = draw("--image", "beside/noise.png", "--mask", "layer.png")
    assert pixels(drawn(done)).tobytes() == pixels(plain).tobytes()
    assert "Warning" not in done.err
    picture = Image.open("beside/noise.png")
    picture.putalpha(half.resize(picture.size))
    picture.save("hole.png")
    done = draw("--image", "beside/noise.png", "--mask", "hole.png")
    assert "Warning: The mask looks like a picture with a clear hole" in done.err


def test_a_scale_of_nothing_changes_nothing_and_two_loras_add_up(draw: Cli) -> None:
    plain = pixels(drawn(draw()))
    assert np.array_equal(pixels(drawn(draw("--lora", "beside/red.safetensors:0"))), plain)
    red, both = (
        pixels(drawn(draw(*arguments)))
        for arguments in (
            ("--lora", "beside/red.safetensors"),
            ("--lora", "beside/red.safetensors", "--lora", "beside/blue.safetensors:-0.5"),
        )
    )
    assert not np.array_equal(red, both)


def test_a_learned_word_may_be_called_otherwise(cli: Cli, model: Path) -> None:
    def seen(prompt: str, *embedding: str) -> bytes:
        options = ("--model", model, "--steps", "2", "--seed", "7")
        return pixels(drawn(cli("generate", prompt, *options, *embedding))).tobytes()

    own = seen("a red <sun>", "--embedding", "beside/sun.safetensors")
    other = seen("a red <moon>", "--embedding", "beside/sun.safetensors:<moon>")
    assert own == other
    assert own != seen("a red <sun>")
    # One that has no name of its own is called as its file.
    assert seen("a red moon", "--embedding", "beside/moon.safetensors") != seen("a red moon")


@pytest.mark.parametrize(
    "prompt", ["a <sun>", "a <sun>red", "red<sun>", "(red)<sun>", "a <SUN>, red", "a [<sun>:red:1]"]
)
def test_a_learned_word_is_said_to_change_nothing_where_it_changes_nothing(
    prompt: str, draw: Cli, cli: Cli, model: Path
) -> None:
    options = ("--model", model, "--steps", "2", "--seed", "7")
    plain = cli("generate", prompt, *options)
    done = cli("generate", prompt, *options, "--embedding", "beside/sun.safetensors")
    changed = not np.array_equal(pixels(drawn(done)), pixels(drawn(plain)))
    assert ("No prompt contains <sun>" in done.err) is not changed


def test_a_learned_word_that_no_prompt_names_or_that_the_model_knows_is_said(
    draw: Cli, cli: Cli, model: Path
) -> None:
    options = ("--model", model, "--steps", "2", "--seed", "7", "--embedding")
    done = cli("generate", "a red sunflower", *options, "beside/sun.safetensors:sun")
    plain = cli("generate", "a red sunflower", *options[:-1])
    assert np.array_equal(pixels(drawn(done)), pixels(drawn(plain)))
    said = "Warning: No prompt contains sun, the learned word of beside/sun.safetensors"
    assert said in done.err
    for named in (("a (sun:1.2), red",), ("a cat", "--negative", "Sun")):
        assert "Warning" not in cli("generate", *named, *options, "beside/sun.safetensors:sun").err
    Path("p.txt").write_text("a cat\na sun\n")
    file = ("--prompts", "p.txt", "--out", "many")
    assert cli("generate", *file, *options, "beside/sun.safetensors:sun").code == 0
    first, second = (json.loads(line) for line in open("many/index.jsonl"))
    assert said.removeprefix("Warning: ") in first["warnings"][0]
    assert "warnings" not in second
    done = cli("generate", "a cat", *options, "beside/sun.safetensors:cat")
    assert done.code == 2
    assert re.search(r"the model has the word 'cat' already.*sun\.safetensors:<cat-2>'", done.err)
    two = {key: torch.randn(2, TEXT_WIDTH) for key in ("clip_l", "clip_g")}
    save_file(two, "two.safetensors")
    done = cli("generate", "a cat", *options, "two.safetensors")
    assert done.code == 3
    assert "has a word for a text_encoder_2, which this model does not have" in done.err
    save_file({word: torch.randn(1, TEXT_WIDTH) for word in ("<a>", "<b>")}, "many.safetensors")
    done = cli("generate", "a cat", *options, "many.safetensors:<c>")
    assert done.code == 3
    assert "holds 2 words, which cannot all be called <c>: leave out" in done.err


def test_sdxl_learns_a_word_with_both_encoders_and_has_its_own_guidance(
    cli: Cli, tmp_path: Path
) -> None:
    pipe = t2i.TextToImagePipeline(**tiny_sdxl_components())
    pipe.save_pretrained(tmp_path / "xl")
    two = {key: torch.randn(2, TEXT_WIDTH) for key in ("clip_l", "clip_g")}
    save_file(two, tmp_path / "two.safetensors")
    options = ("--model", "xl", "--steps", "2", "--seed", "7")
    plain = drawn(cli("generate", "a red <sun>", *options))
    told = drawn(cli("generate", "a red <sun>", *options, "--embedding", "two.safetensors:<sun>"))
    assert not np.array_equal(pixels(plain), pixels(told))
    assert json.loads(text_of(plain)["t2i"])["request"]["guidance_scale"] == 5.0


def test_files_that_are_gone_or_changed_are_named(draw: Cli, cli: Cli) -> None:
    shutil.copy("beside/red.safetensors", "mine.safetensors")
    shutil.copy("beside/noise.png", "mine.png")
    path = drawn(draw("--lora", "mine.safetensors", "--image", "mine.png"))
    shutil.copy("beside/blue.safetensors", "mine.safetensors")
    done = cli("generate", "--from", path, "--out", "again")
    assert done.code == 0
    assert re.search(
        r"Not the same here: made with LoRA mine\.safetensors \w{10}, here is \w{10}\n", done.err
    )
    Path("mine.safetensors").unlink()
    done = cli("generate", "--from", path)
    assert done.code == 2
    assert re.search(
        r"was made with the LoRA 'mine\.safetensors', sha256 \w{10}\.\.\., which cannot be used "
        r"here: No such LoRA: .* Or give another with --lora",
        done.err,
    )
    assert cli("generate", "--from", path, "--lora", "none", "--out", "without").code == 0
    Path("mine.png").unlink()
    done = cli("generate", "--from", path, "--lora", "none")
    assert done.code == 4
    assert "was made with the picture 'mine.png'" in done.err


REFUSALS = [
    (("--lora", "no.safetensors:0.5"), 2, r"No such LoRA: no\.safetensors\. Check the path"),
    (("--lora", "beside/pickle.pt"), 3, r"Refused the pickled LoRA beside/pickle\.pt: loading"),
    (("--lora", "beside/teal.png"), 2, r"teal\.png is no LoRA: expected a \.safetensors file"),
    (("--lora", "beside"), 2, r"beside is not a regular file: expected the file of the LoRA"),
    (("--lora", "beside/red.safetensors:1e9"), 2, r"Got the scale 1000000000\.0 of 'beside/red"),
    (
        ("--lora", "beside/other.safetensors"),
        3,
        r"beside/other\.safetensors: 1 of its 1 tensor belong to no LoRA",
    ),
    (("--lora", ""), 2, r"Got '': expected the path of a file"),
    (
        ("--embedding", "beside/wide.safetensors"),
        3,
        r"beside/wide\.safetensors: .* are not 32 wide",
    ),
    (("--embedding", "beside/sun.safetensors:a b"), 2, r"Got the word 'a b' of 'beside/sun"),
    (("--ip-adapter", "beside/eyes"), 2, r"Got --ip-adapter without --image-prompt: give the imag"),
    (("--image-prompt", "beside/teal.png"), 2, r"Got --image-prompt without --ip-adapter"),
    (
        ("--ip-adapter", "beside/blind", "--image-prompt", "beside/teal.png"),
        3,
        r"beside/blind has no image encoder beside it",
    ),
    (
        ("--ip-adapter", "beside", "--image-prompt", "beside/teal.png"),
        2,
        r"beside has 6 \.safetensors files, expected the one .*: blue\.safetensors, moon",
    ),
    (("--mask", "beside/half.png"), 2, r"Got --mask without --image: it applies to that"),
    (("--strength", "0.5"), 2, r"Got --strength without --image"),
    (("--image", "beside/noise.png", "--strength", "2"), 2, r"Got --strength 2\.0: expected a num"),
    (("--image", "beside/noise.png", "--strength", "0.1"), 2, r"less than one step is left"),
    (("--image", "beside/noise.png", "--size", "30x32"), 2, r"Got width=30, but this model needs"),
    (("--image", "none.png"), 4, r"No such picture: none\.png\. Check the path"),
    (("--image", "beside/sun.safetensors"), 4, r"expected a PNG, JPEG or WebP picture"),
]


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"), REFUSALS, ids=lambda value: str(value)[:60]
)
def test_what_cannot_be_attached_is_refused(
    draw: Cli, beside: Path, arguments: tuple[str, ...], code: int, complaint: str
) -> None:
    (beside / "pickle.pt").write_bytes(b"\x80\x02.")
    done = draw(*arguments)
    assert re.search(complaint, done.err), done.err
    assert done.code == code
    assert "Traceback" not in done.err
    assert not list(Path().glob("outputs/*"))


def test_a_folder_with_a_lora_in_it_names_the_file_to_give(draw: Cli, cli: Cli) -> None:
    Path("my run/model").mkdir(parents=True)
    shutil.copy("beside/red.safetensors", "my run/model/lora.safetensors")
    for folder in ("my run", "my run/model"):
        done = draw("--lora", folder)
        assert done.code == 2
        assert "Give a file in it: --lora 'my run/model/lora.safetensors'" in done.err
    done = cli("generate", "a cat", "--model", "my run/model")
    assert done.code == 3
    assert re.search(r"It has a LoRA: give its base .* --lora 'my run/model/lora\.saf", done.err)


def test_a_file_of_prompts_attaches_line_by_line(cli: Cli, model: Path) -> None:
    lines: list[dict[str, object]] = [
        {"name": "plain"},
        {"name": "lora", "lora": "beside/red.safetensors:0.5"},
        {"name": "all", "lora": ["beside/red.safetensors:0.5"], "image": "beside/noise.png"}
        | {"embedding": "beside/sun.safetensors", "strength": 0.6}
        | {"ip_adapter": "beside/eyes", "image_prompt": "beside/teal.png:0.7"},
        {"name": "embedding", "embedding": "beside/sun.safetensors; beside/moon.safetensors"},
        {"name": "mask", "image": "beside/noise.png", "mask": "beside/half.png"},
        {"name": "plain-again"},
    ]
    said = {"prompt": f"{PROMPT} <sun>", "seed": 7}
    Path("p.jsonl").write_text("".join(json.dumps(said | line) + "\n" for line in lines))
    options = ("--model", model, "--steps", "4")
    begin = ("generate", "--prompts", "p.jsonl", "--out", "out", *options)
    done = cli(*begin)
    assert done.code == 0, done.err
    alone = {
        "plain": (),
        "plain-again": (),
        "lora": ATTACHED["lora"],
        "embedding": (*ATTACHED["embedding"], "--embedding", "beside/moon.safetensors"),
        "mask": ATTACHED["mask"],
        "all": tuple(
            word
            for name in ("lora", "embedding", "image prompt", "image")
            for word in ATTACHED[name]
        ),
    }
    for name, arguments in alone.items():
        single = drawn(cli("generate", str(said["prompt"]), *options, "--seed", "7", *arguments))
        assert np.array_equal(pixels(Path(f"out/{name}.png")), pixels(single)), name
        assert text_of(Path(f"out/{name}.png")) == text_of(single)
    assert "0 made, 6 made before" in cli(*begin).err


def test_a_folder_is_gone_on_with_the_same_files_only(cli: Cli, model: Path) -> None:
    shutil.copy("beside/red.safetensors", "mine.safetensors")
    Path("p.txt").write_text("a cat\n")
    begin = ("generate", "--prompts", "p.txt", "--out", "out", "--model", model, "--steps", "1")
    assert cli(*begin, "--lora", "mine.safetensors:0.5").code == 0
    done = cli(*begin, "--lora", "mine.safetensors:0.7")
    assert done.code == 2
    assert re.search(
        r"--lora \['mine\.safetensors:0\.5'\] -> \['mine\.safetensors:0\.7'\]", done.err
    )
    shutil.copy("beside/blue.safetensors", "mine.safetensors")
    done = cli(*begin, "--lora", "mine.safetensors:0.5")
    assert done.code == 2
    assert "was begun with something else: what is in mine.safetensors" in done.err


def test_every_line_that_cannot_be_used_is_named_at_once(cli: Cli) -> None:
    Path("p.jsonl").write_text(
        '{"prompt": "a (cat"}\n'
        '{"prompt": "x", "lora": "no.safetensors"}\n'
        '{"prompt": "x"}\n'
        "not json\n"
        '{"prompt": "x", "sampler": "dimm"}\n'
        '{"prompt": "x", "mask": "beside/half.png"}\n'
        '{"prompt": "x", "stepz": 3}\n'
    )
    done = cli("generate", "--prompts", "p.jsonl", "--model", "no-such-model")
    assert done.code == 4
    assert "6 lines of p.jsonl cannot be used" in done.err
    assert re.findall(r"p\.jsonl:(\d+): ", done.err) == ["1", "2", "4", "5", "6", "7"]


def test_a_sampler_may_be_named_by_its_class(generate: Cli, cli: Cli, model: Path) -> None:
    own, other = (
        drawn(generate("--seed", "7")),
        drawn(generate("--seed", "7", "--sampler", "euler")),
    )
    by_class = drawn(generate("--seed", "7", "--sampler", "EulerDiscreteScheduler"))
    assert by_class.read_bytes() == other.read_bytes()
    same = drawn(generate("--seed", "7", "--sampler", "DDIMScheduler"))
    assert np.array_equal(pixels(same), pixels(own))
    Path("p.jsonl").write_text('{"prompt": "x", "sampler": "EulerDiscreteScheduler"}\n')
    assert cli("generate", "--prompts", "p.jsonl", "--model", model, "--steps", "1").code == 0
    entry = json.loads(Path("outputs/p/index.jsonl").read_text())
    assert entry["request"]["sampler"] == "euler"
    done = generate("--sampler", "NoScheduler")
    assert done.code == 2
    assert "Unknown sampler 'NoScheduler'" in done.err


def test_a_story_makes_nothing_be_read_that_is_no_plain_file(cli: Cli, draw: Cli) -> None:
    text = text_of(drawn(draw(*ATTACHED["image"])))
    record = json.loads(text["t2i"])
    for number, path in enumerate(("/dev/zero", "~nobody-at-all/x", "x" * 300)):
        record["request"]["image"]["path"] = path
        carrier = png(Path(f"{number}.png"), text | {"t2i": json.dumps(record)})
        done = cli("generate", "--from", carrier)
        assert done.code == 4
        assert "was made with the picture" in done.err
        assert "Or give another with --image" in done.err


@pytest.mark.parametrize(
    ("adapter", "none"),
    [
        (ATTACHED["image prompt"], (*ATTACHED["image prompt"][:3], "beside/teal.png:0")),
        (
            ("--ip-adapter", "beside/eyes:beside/teal.png:scale=0.9,mask=beside/half.png"),
            ("--ip-adapter", "beside/eyes:beside/teal.png:scale=0,mask=beside/half.png"),
        ),
    ],
)
def test_image_prompts_go_with_a_reference_picture(
    draw: Cli, cli: Cli, adapter: tuple[str, ...], none: tuple[str, ...]
) -> None:
    look = ("--reference", "beside/noise.png:scale=2")
    alone, prompted = drawn(draw(*look)), drawn(draw(*adapter))
    both, unscaled = drawn(draw(*look, *adapter)), drawn(draw(*look, *none))
    assert np.array_equal(pixels(unscaled), pixels(alone))
    assert not np.array_equal(pixels(both), pixels(alone))
    assert not np.array_equal(pixels(both), pixels(prompted))
    again = cli("generate", "--from", both, "--out", "again")
    assert drawn(again).read_bytes() == both.read_bytes()
