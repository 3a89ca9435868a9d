"""Models of the hub: found in its local cache, in the layout that huggingface_hub writes."""

import hashlib
import os
import re
import shutil

import pytest
from huggingface_hub import constants
from huggingface_hub.utils import filter_repo_objects

from t2i.cli import main
from t2i.denoiser.loading import hub
from t2i.denoiser.loading.model_folder import read_and_check_folder
from t2i.denoiser.loading.model_location import locate_model
from t2i.errors import ModelError
from tests.tiny import tiny_sd_folder

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """As after a download: every file a link to a blob, and a branch that names the commit."""
    folder = tiny_sd_folder(tmp_path / "made")
    storage = tmp_path / "hub" / "models--owner--tiny"
    (storage / "blobs").mkdir(parents=True)
    for file in filter(os.path.isfile, folder.rglob("*")):
        blob = storage / "blobs" / hashlib.sha256(file.read_bytes()).hexdigest()
        blob.write_bytes(file.read_bytes())
        link = storage / "snapshots" / COMMIT / file.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    (storage / "refs").mkdir()
    (storage / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    return storage


def test_a_cached_model_is_found_by_its_id_and_its_links_are_inside(cache):
    folder = locate_model("owner/tiny")
    assert folder == cache / "snapshots" / COMMIT
    assert read_and_check_folder(folder).model_kind == "Stable Diffusion"


def test_a_revision_is_a_branch_or_a_commit(cache):
    assert (
        locate_model("owner/tiny@main")
        == locate_model(f"owner/tiny@{COMMIT}")
        == locate_model("owner/tiny")
    )
    with pytest.raises(ModelError, match="No model 'owner/tiny@other' comes from the hub"):
        locate_model("owner/tiny@other")


def test_a_link_of_the_cache_to_elsewhere_is_refused(cache, tmp_path):
    index = cache / "snapshots" / COMMIT / "unet/config.json"
    index.unlink()
    index.symlink_to(tmp_path / "made/unet/config.json")
    with pytest.raises(ModelError, match=r"is a link to .*outside the folder"):
        read_and_check_folder(locate_model("owner/tiny"))


def test_a_folder_that_lies_here_wins(cache, tmp_path):
    (tmp_path / "owner").mkdir()
    (tmp_path / "made").rename(tmp_path / "owner" / "tiny")
    assert locate_model("owner/tiny").resolve() == tmp_path / "owner" / "tiny"


def test_without_a_network_an_unknown_id_says_what_to_do(cache):
    message = "Unknown model 'owner/tyni'.*Did you mean 'owner/tiny'.*HF_HUB_OFFLINE.*give the path"
    with pytest.raises(ModelError, match=message):
        locate_model("owner/tyni")


def test_a_repository_without_a_pipeline_is_refused(cache):
    (cache / "snapshots" / COMMIT / "model_index.json").unlink()
    with pytest.raises(ModelError, match=r"has no model_index.json: .*download that file"):
        locate_model("owner/tiny")
    assert hub.list_cached_models() == {}


def test_cached_models_are_listed(cache, capsys):
    assert hub.list_cached_models() == {"owner/tiny": cache / "snapshots" / COMMIT}
    assert main(["models"]) == 0
    assert re.search(rf"^owner/tiny\n(  .*\n)*  path +.*{COMMIT}$", capsys.readouterr().out, re.M)


@pytest.mark.parametrize(
    "name", ["a", "a/b/c", "/a", "a/", "../a", "a/..", "a/b@", "a b/c", "a/b\n"]
)
def test_other_names_are_no_ids(name):
    assert not hub.is_hub_id(name)


def test_nothing_but_json_words_and_safetensors_is_fetched():
    wanted = [
        "model_index.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "unet/diffusion_pytorch_model-00001-of-00002.safetensors",
        "unet/diffusion_pytorch_model.safetensors.index.json",
        "text_encoder_2/model.safetensors",
        "tokenizer/merges.txt",
        "movq/diffusion_pytorch_model.safetensors",
    ]
    half = ["unet/diffusion_pytorch_model.fp16.safetensors", "text_encoder/model.fp16.safetensors"]
    unwanted = [
        "README.md",
        "v1-5-pruned.safetensors",
        "unet/diffusion_pytorch_model.bin",
        "unet/diffusion_pytorch_model.non_ema.safetensors",
        "unet/pipeline.py",
        "safety_checker/model.safetensors",
        "text_encoder/model.onnx",
    ]
    every = [*wanted, *half, *unwanted]
    assert (
        list(filter_repo_objects(every, allow_patterns=hub.list_download_patterns(None))) == wanted
    )
    fp16 = list(filter_repo_objects(every, allow_patterns=hub.list_download_patterns("fp16")))
    assert fp16 == wanted + half


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("snapshots/{}/README.md", b"\xff\xfe\x00 caf\xe9"),
        ("refs/main", b"\xff\xfe"),
        ("refs/main", b"x" * 300),
        ("refs/main", b"../../../../made"),
        ("refs/main", b""),
        ("refs/main", b"a\0b"),
    ],
)
def test_a_broken_entry_of_the_cache_hides_no_other(cache, capsys, file, content):
    broken = cache.with_name("models--another--broken")
    shutil.copytree(cache, broken, symlinks=True)
    (broken / file.format(COMMIT)).write_bytes(content)
    assert main(["models"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert {"embedded", "owner/tiny"} <= set(shown)
    assert ("another/broken" in shown) == ("README" in file)


def test_what_is_no_id_of_the_hub_is_not_listed(cache):
    shutil.copytree(cache, cache.with_name("models--a--b\x1b[31m"), symlinks=True)
    (cache.parent / "models--a--file").touch()
    assert list(hub.list_cached_models()) == ["owner/tiny"]


def test_a_folder_in_the_place_of_a_card_or_a_link_to_nothing_is_no_summary(cache, capsys):
    (cache / "snapshots" / COMMIT / "README.md").mkdir()
    (cache / "snapshots" / COMMIT / "gone.txt").symlink_to("nowhere")
    assert main(["models"]) == 0
    assert "owner/tiny" in capsys.readouterr().out
