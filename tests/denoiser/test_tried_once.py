"""What a model's configs describe is made without memory and tried out once in a process."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from t2i.denoiser.loading import meta_models, trial_pass
from t2i.denoiser.loading.meta_models import build_meta_model
from t2i.denoiser.loading.model_folder import read_and_check_folder
from t2i.denoiser.loading.model_location import EMBEDDED_MODELS
from t2i.errors import ModelError
from tests.tiny import tiny_sd_folder, tiny_unet

UNET = "UNet2DConditionModel"


@pytest.fixture(autouse=True)
def _nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meta_models, "META_MODEL_CACHE", {})
    monkeypatch.setattr(trial_pass, "PASSED_MODEL_CONFIGS", set())


def test_a_folder_checked_again_is_neither_made_nor_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_sd_folder(tmp_path)
    read_and_check_folder(folder)
    with monkeypatch.context() as patch:
        patch.setattr(trial_pass, "run_unet_on_zeros", lambda *_: pytest.fail("it ran again"))
        patch.setattr(
            meta_models, "limiting_module_count", lambda: pytest.fail("it was made again")
        )
        read_and_check_folder(folder)

    # Another model is looked at in full, and one that cannot run is refused each time.
    config = json.loads((folder / "vae/config.json").read_text()) | {"latent_channels": 3}
    (folder / "vae/config.json").write_text(json.dumps(config))
    for _ in range(2):
        with pytest.raises(ModelError, match=r"do not fit its config.json"):
            read_and_check_folder(folder)
    models = {"unet": build_meta_model(UNET, unet_config()), "vae": vae_of(config)}
    for _ in range(2):
        with pytest.raises(ModelError, match="out_channels = 4, and its vae latents of 3 channels"):
            trial_pass.check_unet_and_autoencoder_run(
                models, {"unet": "its unet", "vae": "its vae"}
            )


def test_the_models_of_the_package_pass_the_trial_that_they_are_spared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[object] = []
    run_unet = trial_pass.run_unet_on_zeros

    def noting(*arguments: Any) -> Any:
        runs.append(arguments)
        return run_unet(*arguments)

    monkeypatch.setattr(trial_pass, "run_unet_on_zeros", noting)
    for folder in EMBEDDED_MODELS.values():
        read_and_check_folder(folder)
        assert runs == []
        read_and_check_folder(shutil.copytree(folder, tmp_path / folder.name))
        assert len(runs) == 1
        runs.clear()


def unet_config() -> dict[str, object]:
    unet: Any = tiny_unet()
    return dict(unet.config)


def vae_of(config: dict[str, object]) -> nn.Module:
    return build_meta_model("AutoencoderKL", config)


def test_of_many_models_the_last_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meta_models, "MAX_CACHED_META_MODELS", 2)
    monkeypatch.setattr(trial_pass, "MAX_PASSED_MODELS", 2)
    config = unet_config()
    for size in (8, 16, 24, 32):
        made = build_meta_model(UNET, config | {"sample_size": size})
        trial_pass.check_unet_and_autoencoder_run({"unet": made}, {"unet": "its unet"})
        assert build_meta_model(UNET, config | {"sample_size": size}) is made
        assert 1 <= len(meta_models.META_MODEL_CACHE) <= 2
        assert 1 <= len(trial_pass.PASSED_MODEL_CONFIGS) <= 2
