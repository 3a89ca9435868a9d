"""No picture ever gets another one's latents, whatever became of the folder."""

import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from t2i.errors import DataError
from tests.tiny import tiny_small_vae, tiny_vae
from tests.train.data.making import COLOURS, NAMES, folder_of, noise, plain
from train.batches.batch_order import BatchOrder, ProcessShare
from train.batches.micro_batch import iterate_micro_batches_of_steps
from train.cache.latent_cache import CachedPictureDataset
from train.cache.needed_keys import list_needed_captions, list_needed_variants
from train.cache.shards import ShardFolder, ShardWriter
from train.data.decode import BrokenPictureError
from train.data.pictures import Pictures
from train.data.pictures_config import PictureDatasetConfig
from train.setup.cache_encoding import (
    batch_variants_by_shape,
    encode_and_cache_latents,
    encode_mean_and_std,
)


@pytest.fixture(scope="module")
def vae():
    return tiny_vae()


def pictures_of(folder: Path | None = None, **keys: object) -> Pictures:
    given = {"size": 32, "bucket_step": 8, **({"folder": folder} if folder else {}), **keys}
    return Pictures(PictureDatasetConfig.model_validate(given))


def cached(pictures: Pictures, folder: Path, vae, size: int = 1) -> CachedPictureDataset:
    """What is missing in the folder is made; how much that was, in `made`."""
    shards = ShardFolder(folder)
    shards.index_files()
    apart = pictures.build_held_out_set()
    made, lost = 0, {}
    for part in (apart, pictures):
        wanted = {
            part.pixels_cache_key(v): v for i in range(len(part)) for v in part.list_variants(i)
        }
        missing = [variant for key, variant in wanted.items() if key not in shards]
        parts = batch_variants_by_shape(part, missing, size)
        lost = encode_and_cache_latents(
            part, parts, size, vae, ShardWriter(folder, 20_000), lambda count: None
        )
        made += len(missing)
        shards.index_files()
    found = CachedPictureDataset(pictures, shards, lost)
    found.made = made
    return found


def check_pairs(found: CachedPictureDataset, pictures: Pictures, vae, visits: int = 6) -> None:
    """Each sample is the uncached one, the moments those of its own pixels."""
    for index in range(len(pictures)):
        for visit in range(visits):
            plain, sample = pictures.read_example(index, visit), found.read_example(index, visit)
            pixels_BCHW = torch.from_numpy(plain.pixels)[None].permute(0, 3, 1, 2) / 127.5 - 1
            with torch.no_grad():
                expected = encode_mean_and_std(vae, pixels_BCHW)[0].numpy()
            assert np.abs(sample.moments - expected).max() < 1e-6
            assert sample.pixels.shape == (*plain.pixels.shape[:2], 0)
            assert (sample.name, sample.caption, sample.size_and_crop, sample.weight) == (
                plain.name,
                plain.caption,
                plain.size_and_crop,
                plain.weight,
            )
            if plain.loss_mask is None:
                assert sample.loss_mask is None
            else:
                assert np.array_equal(sample.loss_mask, plain.loss_mask)


LIVELY = {"crop": "random", "crop_variants": 3, "flip": True}


def several(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for number, (width, height) in enumerate([(60, 40), (40, 60), (50, 50), (33, 70), (64, 64)]):
        noise(number, width, height).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"n{number}, one, two")
    return folder


@pytest.mark.parametrize("size", [1, 4])
def test_every_crop_and_flip_has_its_own_latents_and_caption(tmp_path, vae, size):
    pictures = pictures_of(several(tmp_path / "p"), **LIVELY, shuffle_captions=True, held_out=1)
    found = cached(pictures, tmp_path / "c", vae, size)
    variants = [v for i in range(len(pictures)) for v in pictures.list_variants(i)]
    assert len(variants) > 2 * len(pictures)
    check_pairs(found, pictures, vae)
    assert len(found.build_held_out_set()) == 1
    check_pairs(found.build_held_out_set(), pictures.build_held_out_set(), vae)
    check_pairs(pickle.loads(pickle.dumps(found)), pictures, vae)


def test_an_autoencoder_without_a_posterior_has_means_alone(tmp_path):
    small = tiny_small_vae()
    pictures = pictures_of(several(tmp_path / "p"))
    found = cached(pictures, tmp_path / "c", small)
    assert found.read_example(0, 0).moments.shape[0] == small.config.latent_channels
    check_pairs(found, pictures, small)


def changes(folder: Path) -> Iterator[tuple[dict[str, object], int]]:
    """What people do to a folder between two runs; the other settings, and pictures to be made."""
    names = sorted(path.name for path in folder.glob("*.png"))

    for path in folder.glob("*.txt"):  # other captions
        path.write_text(f"now {path.read_text()}")
    yield {}, 0

    for number, name in enumerate(names):  # renamed, and so in another order
        for suffix in (".png", ".txt"):
            old = (folder / name).with_suffix(suffix)
            old.rename(folder / f"{len(names) - number:02}-{old.name}")
    yield {}, 0

    first, second = sorted(folder.glob("*.png"))[:2]  # two pictures change places
    first.rename(folder / "x")
    second.rename(first)
    (folder / "x").rename(second)
    yield {}, 0

    shutil.copy(first, folder / "copy.png")  # the same picture twice, with two captions
    (folder / "copy.txt").write_text("a copy")
    yield {}, 0

    plain("gray", 43, 41).save(second)  # another picture under an old name
    yield {}, 1

    (folder / "copy.png").unlink()  # one less, so that all others have other numbers
    first.unlink()
    yield {}, 0

    yield {"size": 40}, len([*folder.glob("*.png")])  # other buckets
    yield {"size": 40, "buckets": False}, 0  # none, which are the same squares
    yield {"size": 32}, 0  # and back


def test_a_cache_that_is_found_again_after_changes_pairs_nothing_wrongly(tmp_path, vae):
    folder = folder_of(tmp_path / "p", *NAMES)
    for number, path in enumerate(sorted(folder.glob("*.png"))):  # of one shape, to be confused
        noise(number, 40, 40).save(path)
    found = cached(pictures_of(folder), tmp_path / "c", vae)
    check_pairs(found, pictures_of(folder), vae, visits=1)
    for settings, made in changes(folder):
        pictures = pictures_of(folder, **settings)
        found = cached(pictures, tmp_path / "c", vae)
        assert found.made == made
        check_pairs(found, pictures, vae, visits=1)  # without crops and flips each is the first


def test_equal_names_in_two_folders_are_two_pictures(tmp_path, vae):
    for number, place in enumerate("ab"):
        (tmp_path / place).mkdir()
        noise(number, 40, 40).save(tmp_path / place / "same.png")
        (tmp_path / place / "same.txt").write_text(f"of {place}")
    subsets = [{"folder": tmp_path / "a"}, {"folder": tmp_path / "b", "flip": True}]
    pictures = pictures_of(subsets=subsets)
    found = cached(pictures, tmp_path / "c", vae)
    assert found.made == 3
    check_pairs(found, pictures, vae)


def test_shuffled_and_gone_on_with_the_batches_are_those_without_a_cache(tmp_path, vae):
    pictures = pictures_of(several(tmp_path / "p"), **LIVELY)
    found = cached(pictures, tmp_path / "c", vae)
    order = BatchOrder(pictures.group_indices_by_shape(), 2, seed=3)
    expected = [*iterate_micro_batches_of_steps(pictures, order, ProcessShare(), range(12))]
    for steps, workers in ((range(12), 0), (range(7, 12), 1)):
        for step, batch in zip(
            steps,
            iterate_micro_batches_of_steps(found, order, ProcessShare(), steps, workers),
            strict=True,
        ):
            with torch.no_grad():
                moments = encode_mean_and_std(vae, expected[step].pixels_BCHW)
            assert (batch.moments_BCHW - moments).abs().max() < 1e-6
            assert batch.captions == expected[step].captions
            assert batch.pixels_BCHW.shape[2:] == expected[step].pixels_BCHW.shape[2:]
            assert batch.pixels_BCHW.numel() == 0


def test_a_mask_from_the_alpha_channel_is_cached_and_one_from_a_folder_is_read(tmp_path, vae):
    folder, masks = tmp_path / "p", tmp_path / "m"
    for place in (folder, masks):
        place.mkdir()
    for number in range(2):
        picture = noise(number, 40, 40).convert("RGBA")
        picture.putalpha(Image.linear_gradient("L").resize((40, 40)))
        picture.save(folder / f"{number}.png")
        Image.radial_gradient("L").resize((40, 40)).save(masks / f"{number}.png")
    alpha = pictures_of(subsets=[{"folder": folder, "alpha_mask": True, "flip": True}])
    found = cached(alpha, tmp_path / "c", vae)
    assert found.read_example(0, 0).loss_mask is not None
    check_pairs(found, alpha, vae)
    beside = pictures_of(subsets=[{"folder": folder, "masks": masks}])
    check_pairs(cached(beside, tmp_path / "c", vae), beside, vae)


def test_no_picture_is_opened_once_its_latents_are_there(tmp_path, vae):
    folder = folder_of(tmp_path / "p", "red", "green")
    pictures = pictures_of(folder, flip=True)
    found = cached(pictures, tmp_path / "c", vae)
    shutil.rmtree(folder)
    captions = {
        found.read_example(index, visit).caption for index in range(2) for visit in range(8)
    }
    assert captions == {"a red sheet", "a green sheet"}


def test_a_picture_without_finite_latents_is_named_and_another_stands_in(tmp_path, vae):
    pictures = pictures_of(folder_of(tmp_path / "p", *COLOURS), buckets=False, bad_share=0.2)
    shards = ShardFolder(tmp_path / "c")
    variants = [pictures.list_variants(index)[0] for index in range(len(pictures))]
    spoilt = pictures.pixels_cache_key(variants[3])

    class Spoiling(ShardWriter):
        def add(self, key, arrays):
            assert key != spoilt
            super().add(key, arrays)

    class Failing:
        """The autoencoder, overflowing at one picture."""

        config = vae.config
        number = -1

        def parameters(self):
            return vae.parameters()

        def encode(self, pixels_BCHW):
            self.number += 1
            encoded = tiny_small_vae().encode(pixels_BCHW)
            if self.number == 3:
                encoded.latents[0, 0, 0, 0] = float("inf")
            return encoded

    batches = batch_variants_by_shape(pictures, variants, 1)
    lost = encode_and_cache_latents(
        pictures, batches, 1, Failing(), Spoiling(tmp_path / "c", 10), lambda count: None
    )
    shards.index_files()
    assert [*lost] == [3]
    with pytest.warns(UserWarning, match="03-yellow.png: becomes latents that are not finite"):
        found = CachedPictureDataset(pictures, shards, lost)
    assert found.find_replacement_index(3) == 4
    sample = found.read_example(3, 0)
    assert sample.caption == "a cyan sheet"
    assert np.array_equal(sample.moments, found.read_example(4, 0).moments)

    config = pictures.config.model_copy(update={"bad_share": 0.1})
    with pytest.raises(DataError, match=r"1 of 8 pictures cannot be used.*\n.*yellow"):
        with pytest.warns(UserWarning, match="yellow"):
            CachedPictureDataset(Pictures(config, found=pictures.found), shards, lost)


def test_what_was_never_encoded_is_said_and_not_taken_for_broken(tmp_path):
    pictures = pictures_of(folder_of(tmp_path / "p", "red"))
    with pytest.raises(DataError, match=r"00-red.png is not in the cache"):
        CachedPictureDataset(pictures, ShardFolder(tmp_path / "c")).read_example(0, 0)


def test_a_short_run_needs_no_more_than_it_shows(tmp_path):
    pictures = pictures_of(several(tmp_path / "p"), **LIVELY)
    lost = {1: BrokenPictureError("1.png", "is lost")}
    with pytest.warns(UserWarning, match="1.png: is lost"):
        found = CachedPictureDataset(
            Pictures(pictures.config.model_copy(update={"bad_share": 0.5}), found=pictures.found),
            ShardFolder(tmp_path / "c"),
            lost,
        )
    order = BatchOrder(found.group_indices_by_shape(), 2, seed=1)
    every = list_needed_variants(found, None, 0)
    assert {variant.index for variant in every} == {0, 2, 3, 4}
    assert list_needed_variants(found, order, 1000) == every
    few = list_needed_variants(found, order, 3)
    assert len(few) <= 6 < len(every)

    shown = set()
    for step in range(3):
        for place in ProcessShare().list_micro_batches(order, step)[0]:
            index = place.example_index
            if index == 1:
                index = found.find_replacement_index(1)
            shown.add(found.variant_at_visit(index, place.visit))
    assert {*few} == shown
    captions = pictures.list_captions_of_all_pictures()
    assert list_needed_captions(captions, found, order, 1000) == captions | {""}
    assert list_needed_captions(captions, None, order, 1) == captions | {""}
    some = list_needed_captions(captions, found, order, 1)
    assert "" in some
    assert some < captions | {""}
