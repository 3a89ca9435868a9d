"""PIE-Bench by its path: its layout, its columns, judges that are brought, and a tiny run."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPModel, ViTConfig, ViTModel

from t2i.errors import ArgumentError, DataError, ModelError
from t2i.evaluate.pie_bench.config import PieBenchConfig
from t2i.evaluate.pie_bench.judges import ClipJudge, DinoJudge, JudgeModels, load_judge_models
from t2i.evaluate.pie_bench.lpips import (
    Lpips,
    build_squeezenet_features,
    list_channel_weights,
    load_lpips,
    load_torchmetrics_lpips_weights,
)
from t2i.evaluate.pie_bench.mapping import read_edits_by_key
from t2i.evaluate.pie_bench.metrics import ComparedPictures, compute_chosen_metrics
from t2i.evaluate.pie_bench.part import PieBenchPart
from t2i.evaluate.pie_bench.records import PieBenchRecord
from t2i.evaluate.report.chapter import Gallery, Table
from t2i.evaluate.suite import read_suite_config
from tests.evaluate.tiny_context import tiny_context
from tests.tiny import tiny_tokenizer

ENTRY: dict[str, Any] = {
    "image_path": "1_change_object_80/1_artificial/1_animal/111000000000.jpg",
    "original_prompt": "a [red] cat",
    "editing_prompt": "a red [dog]",
    "editing_instruction": "",
    "editing_type_id": "1",
    "blended_word": "cat dog",
    "mask": [512 * 100 + 50, 200, 512 * 101 + 50, 200],
}
METHODS = [
    {"label": "direct", "invert": "direct", "blend": "always"},
    {"label": "friendly", "invert": "edit-friendly", "maps": False, "blend": "none", "pairs": 1},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three edits in PIE-Bench's layout: two of one type."""
    folder = tmp_path_factory.mktemp("PIE-Bench_v1")
    entries = {
        "111000000000": ENTRY,
        "111000000001": ENTRY | {"image_path": "1_change_object_80/b.jpg", "blended_word": ""},
        "911000000000": ENTRY | {"image_path": "9_style/c.jpg", "editing_type_id": "9"},
    }
    noise = np.random.default_rng(0).integers(0, 255, (512, 512, 3), dtype=np.uint8)
    for entry in entries.values():
        path = folder / "annotation_images" / entry["image_path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise).save(path)
    (folder / "mapping_file.json").write_text(json.dumps(entries))
    return folder


def config(folder: Path, **more: object) -> PieBenchConfig:
    columns = ["psnr", "mse", "ssim"]
    return PieBenchConfig.model_validate(
        {"folder": str(folder), "columns": columns, "methods": METHODS} | more
    )


# layout


def test_an_edit_has_prompts_without_brackets_a_mask_and_two_words(folder: Path) -> None:
    edit = read_edits_by_key(folder)["111000000000"]
    assert edit.prompts == ("a red cat", "a red dog")
    assert edit.blended_words == ("cat", "dog")
    mask = edit.decode_edited_region_mask()
    assert mask[100:102, 50:250].all()
    border = 4 * 512 - 4
    assert mask.sum() == 400 + border
    assert mask[0].all()
    assert mask[:, -1].all()


def test_a_run_that_leaves_the_picture_ends_with_it(folder: Path) -> None:
    edit = read_edits_by_key(folder)["111000000000"]
    longer = edit.model_copy(update={"mask": (512 * 511 - 10, 5000)})
    assert longer.decode_edited_region_mask()[510, -10:].all()
    assert longer.decode_edited_region_mask()[-1].all()
    assert edit.model_copy(update={"blended_word": "a b c"}).blended_words is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"image_path": "../../etc/passwd"}, "expected a path inside annotation_images"),
        ({"image_path": "/etc/passwd"}, "expected a path inside annotation_images"),
        ({"mask": [1, 2, 3]}, "expected pairs of a first pixel and a length"),
        ({"mask": [-1, 2]}, "expected pairs of a first pixel and a length"),
        ({"mask": ["a", 2]}, "the edit 'x' is laid out otherwise"),
        ({"original_prompt": 3}, "the edit 'x' is laid out otherwise"),
    ],
)
def test_a_mapping_of_another_layout_is_refused(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    (tmp_path / "mapping_file.json").write_text(json.dumps({"x": ENTRY | change}))
    with pytest.raises(DataError, match=words):
        read_edits_by_key(tmp_path)


def test_a_mapping_without_edits_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mapping_file.json").write_text("{}")
    with pytest.raises(DataError, match="holds no edits"):
        read_edits_by_key(tmp_path)
    (tmp_path / "mapping_file.json").write_text("[]")
    with pytest.raises(DataError, match="holds a JSON list, not an object"):
        read_edits_by_key(tmp_path)


# configuration


def test_missing_weights_are_named_with_the_columns_that_do_without(folder: Path) -> None:
    everything = {"folder": str(folder), "methods": METHODS}
    with pytest.raises(ValidationError, match="The weights of dino and lpips and clip are needed"):
        PieBenchConfig.model_validate(everything)
    with pytest.raises(ValidationError, match=r'columns = \["psnr", "mse", "ssim"\]'):
        PieBenchConfig.model_validate(everything | {"clip": "nowhere"})
    with pytest.raises(ValidationError, match="openai/clip-vit-large-patch14"):
        PieBenchConfig.model_validate(everything | {"columns": ["clip", "psnr"]})
    assert config(folder).columns == ("psnr", "mse", "ssim")


def test_a_folder_without_pie_bench_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=r"is not PIE-Bench: mapping_file\.json is missing"):
        config(tmp_path)


def test_methods_of_one_label_are_refused(folder: Path) -> None:
    with pytest.raises(ValidationError, match="Two methods have one label"):
        config(folder, methods=[METHODS[0], METHODS[0]])


def test_pie_bench_as_a_suite_is_told_how_to_be_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="is PIE-Bench: name it in a TOML"):
        read_suite_config(str(folder), quick=False)
    suite = tmp_path / "suite.toml"
    suite.write_text(f'[pie_bench]\nfolder = "{folder}"\nmethods = [{{label = "a"}}]\n')
    with pytest.raises(ArgumentError, match="The weights of dino and lpips and clip are needed"):
        read_suite_config(str(suite), quick=False)
    suite.write_text(suite.read_text() + 'columns = ["psnr"]\n')
    assert read_suite_config(str(suite), quick=False).part_names == ("pie_bench",)


# columns


def compared(change_inside: int, change_outside: int) -> ComparedPictures:
    """Gray pictures of 64 pixels a side; the upper half is edited."""
    edited = np.zeros((64, 64), dtype=np.bool_)
    edited[:32] = True
    source = np.full((64, 64, 3), 100, dtype=np.uint8)
    picture = source.copy()
    picture[:32] += np.uint8(change_inside)
    picture[32:] += np.uint8(change_outside)
    return ComparedPictures(Image.fromarray(source), Image.fromarray(picture), edited, "a dog")


def test_background_columns_count_the_edited_region_as_equal() -> None:
    inside = compute_chosen_metrics(compared(50, 0), ("psnr", "mse", "ssim"), JudgeModels())
    assert inside == {"psnr": 100, "mse": 0, "ssim": pytest.approx(100)}
    outside = compute_chosen_metrics(compared(50, 51), ("psnr", "mse", "ssim"), JudgeModels())
    # a fifth brighter in half of the picture
    assert outside["mse"] == pytest.approx(0.2**2 / 2 * 1e4)
    assert outside["psnr"] == pytest.approx(-10 * np.log10(0.2**2 / 2))
    assert outside["ssim"] is not None
    assert outside["ssim"] < 100


def test_what_is_edited_everywhere_has_no_background() -> None:
    one = compared(50, 50)
    everywhere = np.ones_like(one.edited_region_HW)
    whole = ComparedPictures(one.source, one.edited, everywhere, one.target_prompt)
    found = compute_chosen_metrics(whole, ("psnr", "mse", "ssim", "lpips"), JudgeModels())
    assert set(found.values()) == {None}


# judges


def test_lpips_equals_torchmetrics(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from torchmetrics.functional.image import lpips as theirs

    torch.manual_seed(0)
    features = build_squeezenet_features()
    monkeypatch.setattr(theirs, "_get_tv_model_features", lambda *_: features)
    reference = theirs._LPIPS(pretrained=True, net="squeeze", pnet_rand=True)
    save_file(
        {f"features.{name}": tensor for name, tensor in features.state_dict().items()}
        | {"classifier.1.weight": torch.zeros(1)},
        tmp_path / "squeeze.safetensors",
    )
    ours = load_lpips(tmp_path / "squeeze.safetensors")
    one, other = torch.rand(2, 3, 64, 48) * 2 - 1, torch.rand(2, 3, 64, 48) * 2 - 1
    torch.testing.assert_close(ours(one, other), reference(one, other).flatten())
    assert ours(one, one).abs().max() == 0


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    save_file({"features.0.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match=r"does not hold torchvision's SqueezeNet 1\.1"):
        load_lpips(tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match=r"No such folder: nowhere\. Expected DINO"):
        DinoJudge.load(Path("nowhere"))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="does not hold CLIP ViT-L/14"):
        ClipJudge.load(tmp_path)


def tiny_clip() -> CLIPModel:
    torch.manual_seed(0)
    small = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    text = small | {
        "vocab_size": 200,
        "max_position_embeddings": 16,
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
    vision = small | {"image_size": 32, "patch_size": 8}
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8))


def test_judges_are_loaded_from_folders_of_transformers(tmp_path: Path) -> None:
    tiny_clip().save_pretrained(tmp_path / "clip")
    tiny_tokenizer().save_pretrained(tmp_path / "clip")
    vit = ViTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=32,
        patch_size=16,
    )
    ViTModel(vit, add_pooling_layer=False).save_pretrained(tmp_path / "dino")
    judges = load_judge_models(dino=tmp_path / "dino", clip=tmp_path / "clip", lpips=None)
    one = compared(50, 20)
    found = compute_chosen_metrics(one, ("structure", "clip", "clip_edited"), judges)
    assert found["structure"] is not None
    assert found["structure"] > 0
    assert all(0 <= (found[name] or 0) <= 100 for name in ("clip", "clip_edited"))
    same = ComparedPictures(one.source, one.source, one.edited_region_HW, one.target_prompt)
    assert compute_chosen_metrics(same, ("structure",), judges) == {"structure": 0}


def test_clip_is_a_hundred_times_the_cosine_and_no_less_than_zero() -> None:
    model = tiny_clip()
    judge = ClipJudge(model, tiny_tokenizer())
    picture = compared(50, 20).edited
    similarity = judge.compute_similarity(picture, "a red cat")
    with torch.no_grad():
        model.visual_projection.weight.neg_()
    turned = judge.compute_similarity(picture, "a red cat")
    assert sorted((similarity, turned))[0] == 0
    assert 0 < max(similarity, turned) <= 100
    assert judge.preprocess_picture(picture.resize((80, 48))).shape == (1, 3, 32, 32)


# the part


@pytest.fixture(scope="module")
def part(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> PieBenchPart:
    # in fewer steps some edits would have no step
    context = replace(tiny_context(tmp_path_factory.mktemp("pictures")), steps=4)
    return PieBenchPart(config(folder, count=1), context)


def test_a_run_edits_the_first_of_each_type_by_every_method(part: PieBenchPart) -> None:
    units = part.list_unit_keys()
    assert units == ["111000000000", "911000000000"]
    records = {unit: part.measure_unit(unit) for unit in units}
    one = PieBenchRecord.model_validate(records["111000000000"])
    assert set(one.methods) == {"direct", "friendly"}
    assert one.controls["no edit"] == {"psnr": 100, "mse": 0, "ssim": pytest.approx(100)}
    assert one.methods["friendly"].edit.rows == 2 * part.context.steps
    (chapter,) = part.build_chapters(records)
    tables = {block.name: block for block in chapter.blocks if isinstance(block, Table)}
    assert set(tables) == {"pie_bench", "pie_bench_change_object", "pie_bench_change_style"}
    table = tables["pie_bench"]
    assert [label for label, _ in table.rows] == [
        "no edit",
        "autoencoder alone",
        "direct",
        "friendly",
    ]
    assert all(len(cells) == len(table.heads) for _, cells in table.rows)
    galleries = [block for block in chapter.blocks if isinstance(block, Gallery)]
    assert [len(gallery.pictures) for gallery in galleries] == [1, 1]


def test_the_weights_of_lpips_that_come_along_are_seven() -> None:
    weights = list_channel_weights(load_torchmetrics_lpips_weights())
    channels = [weight.shape[1] for weight in weights]
    assert channels == [64, 128, 256, 384, 384, 512, 512]
    assert isinstance(Lpips(build_squeezenet_features(), weights), torch.nn.Module)
