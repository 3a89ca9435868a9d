"""Filling the cache of latents and captions before a run."""

import shutil
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from accelerate import Accelerator
from accelerate.utils.memory import clear_device_cache

from t2i.data.training_dataset import TrainingDataset
from t2i.errors import OutputError, TrainingError
from t2i.run_folder import StoppedDuringSetup, StopSignalHandler
from t2i.terminal import plural
from train.batches.batch_order import BatchOrder
from train.batches.micro_batch_splitting import explaining_out_of_memory
from train.cache.caption_encoding import build_caption_encoder
from train.cache.config import CacheConfig
from train.cache.encoders import MODELS_BY_KIND, CacheEncoders
from train.cache.latent_cache import CachedPictureDataset
from train.cache.needed_keys import list_needed_captions, list_needed_variants
from train.cache.shards import DIGEST_DIGITS, ShardFolder, ShardWriter
from train.cache.text_cache import CachedTextEmbeddings
from train.config.run_config import TargetConfig, TargetWithBaseConfig
from train.data.pictures import Pictures
from train.loop_config import LoopConfig
from train.parallel.processes import (
    print_on_main_process,
    run_on_all_processes_and_gather,
    run_on_main_and_raise_on_all,
)
from train.reporting.progress import AdvanceFunction, showing_setup_progress
from train.setup.assembly import FROZEN_DTYPE_BY_PRECISION
from train.setup.cache_decisions import (
    BYTES_PER_GB,
    count_latent_bytes,
    estimate_text_bytes,
    explain_cache_too_large,
    explain_uncached_latents_and_texts,
)
from train.setup.cache_encoding import (
    batch_captions_by_length,
    batch_variants_by_shape,
    encode_and_cache_latents,
    encode_and_cache_texts,
)
from train.targets.finetune import FineTuneTargetConfig

if TYPE_CHECKING:
    from train.data.decode import BrokenPictureError

Item = TypeVar("Item")
Result = TypeVar("Result")
CACHE_FOLDER = "cache"
"""Name of the cache's folder in the folder of a run."""
BYTES_PER_MB = 10**6


@dataclass(frozen=True, slots=True)
class RunConfigForCache:
    """The parts of a training run's configuration (cache, target, loop) that decide which latents
    and text embeddings are cached.
    """

    cache: CacheConfig
    target: TargetConfig
    loop: LoopConfig


def build_cached_dataset_and_encoders(
    settings: RunConfigForCache,
    samples: TrainingDataset,
    order: BatchOrder,
    out: Path,
    accelerator: Accelerator,
    stop: StopSignalHandler,
) -> tuple[TrainingDataset, CacheEncoders | None]:
    """Encode the latents and captions of a data set into the cache; return a data set that reads
    them from there, and the encoders with their weights released.

    Each process encodes its share. Where nothing can be cached the samples are returned unchanged,
    with None. Raises T2IError, and StoppedDuringSetup when a stop is requested, on every process.
    """
    cache, target = settings.cache, settings.target
    reasons = explain_uncached_latents_and_texts(cache, target, samples)
    encoders: CacheEncoders | None = None
    if None in reasons.values():
        assert isinstance(target, TargetWithBaseConfig)
        assert isinstance(samples, Pictures)
        encoders = CacheEncoders(target.base, FROZEN_DTYPE_BY_PRECISION[settings.loop.precision])
        for kind, count_bytes in (("latents", count_latent_bytes), ("texts", estimate_text_bytes)):
            if reasons[kind] is None:
                reasons[kind] = explain_cache_too_large(
                    count_bytes(samples, encoders), cache.max_gb
                )
        builder = CacheBuilder(settings, order, out, encoders, accelerator, stop)
        if reasons["latents"] is None:
            samples = builder.cache_latents(samples)
        if reasons["texts"] is None:
            encoders.texts = builder.cache_text_embeddings(samples)
        encoders.release_weights([kind for kind, reason in reasons.items() if reason is None])
        clear_device_cache(garbage_collection=True)
    for kind, reason in reasons.items():
        if reason:
            print_on_main_process(accelerator, f"The {kind} are not cached: {reason}.")
    return samples, encoders


class CacheBuilder:
    """Builder of a cache folder: encodes what a run needs and the folder does not have."""

    def __init__(
        self,
        settings: RunConfigForCache,
        order: BatchOrder,
        out: Path,
        encoders: CacheEncoders,
        accelerator: Accelerator,
        stop: StopSignalHandler,
    ) -> None:
        assert isinstance(settings.target, TargetWithBaseConfig)
        self.target, self.steps = settings.target, settings.loop.steps
        self.config, self.order, self.encoders = settings.cache, order, encoders
        self.accelerator, self.stop = accelerator, stop
        self.folder = self.config.folder or out / CACHE_FOLDER
        self.rank, self.ranks = accelerator.process_index, accelerator.num_processes

    def cache_latents(self, samples: Pictures) -> CachedPictureDataset:
        """Cache the latents of the pictures that the run reads, and of held-out ones; return the
        data set that reads them.
        """
        shards = self._open_shards("latents")
        self.encoders.models_by_name["vae"].to(self.accelerator.device)
        held_out = self._complete(samples.build_held_out_set(), shards, None)
        cached = self._complete(samples, shards, self.order)
        cached.held_out_cache = held_out
        return cached

    def cache_text_embeddings(self, samples: Pictures) -> CachedTextEmbeddings:
        """Cache the text embeddings of the captions that the run reads, and of the empty
        caption.
        """
        shards = self._open_shards("texts")
        as_planned = samples if isinstance(samples, CachedPictureDataset) else None
        size = self.config.captions_at_once
        every = samples.list_captions_of_all_pictures() or set()
        needed = list_needed_captions(every, as_planned, self.order, self.steps)
        needed |= samples.build_held_out_set().list_captions_of_all_pictures() or set()
        if isinstance(self.target, FineTuneTargetConfig):
            needed |= self.target.list_preserved_captions(needed)
        missing = sorted(caption for caption in needed if caption not in shards)
        if missing:
            parts = self.encoders.build_components_without_denoiser()
            for name in MODELS_BY_KIND["texts"]:
                if name in self.encoders.models_by_name:
                    self.encoders.models_by_name[name].to(self.accelerator.device)
            encoder = build_caption_encoder(parts)
            batches = self._share(batch_captions_by_length(parts, encoder, missing, size))
            self._check_room(len(missing) * self.encoders.bytes_per_text_window)
            lower = "set cache.captions_at_once lower" if size > 1 else "set cache.texts = false"
            with self._progress("encoding captions", len(missing)) as advance:
                writer = self._writer(shards)
                encode = partial(
                    encode_and_cache_texts, parts, encoder, batches, size, writer, advance
                )
                self._run_share(encode, f"encoding {plural(size, 'caption')} at a time", lower)
            self._stop_if_asked()
            self._index_files(shards, self._files(shards), missing)
        return CachedTextEmbeddings(shards)

    def _complete(
        self, samples: Pictures, shards: ShardFolder, order: BatchOrder | None
    ) -> CachedPictureDataset:
        """Cache the variants that a run in this order reads; without an order all of them."""
        lost: dict[int, BrokenPictureError] = {}
        size, vae = self.config.pictures_at_once, self.encoders.given["vae"]
        while True:
            pictures = CachedPictureDataset(samples, shards, lost)
            needed = list_needed_variants(pictures, order, self.steps)
            missing = {
                key: variant
                for variant in needed
                if (key := pictures.pixels_cache_key(variant)) not in shards
            }
            if not missing:
                return pictures
            batches = self._share(batch_variants_by_shape(samples, [*missing.values()], size))
            self._check_room(count_latent_bytes(samples, self.encoders, missing.values()))
            lower = "set cache.pictures_at_once lower" if size > 1 else "choose a smaller data.size"
            with self._progress("encoding pictures", len(missing)) as advance:
                writer = self._writer(shards)
                encode = partial(
                    encode_and_cache_latents, samples, batches, size, vae, writer, advance
                )
                found = self._run_share(
                    encode, f"encoding {plural(size, 'picture')} at a time", lower
                )
            self._stop_if_asked()
            new = {index: error for each in found for index, error in each.items()}
            lost |= new
            not_encoded = {pictures.pixels_cache_key(v) for v in missing.values() if v.index in new}
            self._index_files(shards, self._files(shards), missing.keys() - not_encoded)

    def _open_shards(self, kind: str) -> ShardFolder:
        """Open the cached "latents" or "texts" after removing damaged files."""
        digest = self.encoders.facts[kind] = self.encoders.compute_digest(kind)
        shards = ShardFolder(self.folder / f"{kind}-{digest[:DIGEST_DIGITS]}")
        files = self._files(shards)
        mine = files[self.rank :: self.ranks]
        found = run_on_all_processes_and_gather(
            self.accelerator, lambda: shards.list_damaged_files(mine)
        )
        damaged = {name for each in found for name in each}
        run_on_main_and_raise_on_all(self.accelerator, lambda: _discard_damaged(shards, damaged))
        self._index_files(shards, [name for name in files if name not in damaged])
        return shards

    def _files(self, shards: ShardFolder) -> list[str]:
        """List the files that the main process sees, so that all processes share the same work.

        Other runs may add files at any moment.
        """
        main = self.accelerator.is_main_process
        return run_on_all_processes_and_gather(
            self.accelerator, lambda: shards.list_file_names() if main else []
        )[0]

    def _index_files(
        self, shards: ShardFolder, files: Sequence[str], made: Collection[str] = ()
    ) -> None:
        """Index these files. Raises TrainingError unless every process finds the new keys."""

        def index() -> bool:
            if not all((shards.folder / name).is_file() for name in files):
                return False
            shards.index_files(files)
            return all(key in shards for key in made)

        if not all(run_on_all_processes_and_gather(self.accelerator, index)):
            raise TrainingError(
                f"Not every process finds the files that the others wrote to {shards.folder}: set "
                "cache.folder to a folder that all of them share."
            )

    def _run_share(self, action: Callable[[], Result], what: str, remedy: str) -> list[Result]:
        """Run the action on every process, each on its share, and return all results."""

        def act() -> Result:
            with explaining_out_of_memory(what, remedy):
                return action()

        return run_on_all_processes_and_gather(self.accelerator, act)

    @contextmanager
    def _progress(self, what: str, total: int) -> Iterator[AdvanceFunction]:
        """Report progress on the main process, which estimates the others by its own."""
        if not self.accelerator.is_main_process:
            yield lambda count: None
            return
        with showing_setup_progress(what, total) as advance:
            yield lambda count: advance(count * self.ranks)

    def _share(self, batches: Sequence[Item]) -> Iterator[Item]:
        """Iterate over the batches of this process until a stop is requested."""
        return takewhile(lambda _: not self.stop.wanted, batches[self.rank :: self.ranks])

    def _stop_if_asked(self) -> None:
        if any(run_on_all_processes_and_gather(self.accelerator, lambda: self.stop.wanted)):
            print_on_main_process(
                self.accelerator, "stopped while encoding; the same command goes on from here"
            )
            raise StoppedDuringSetup

    def _writer(self, shards: ShardFolder) -> ShardWriter:
        return ShardWriter(shards.folder, self.config.shard_mb * BYTES_PER_MB)

    def _check_room(self, needed: int) -> None:
        """Raise OutputError, before anything is encoded, where the disk has too little room."""

        def check() -> None:
            place = next(
                path for path in (self.folder, *self.folder.absolute().parents) if path.exists()
            )
            free = shutil.disk_usage(place).free
            if needed > free:
                raise OutputError(
                    f"The cache in {self.folder} needs {needed / BYTES_PER_GB:.3g} GB more, and "
                    f"{free / BYTES_PER_GB:.3g} GB are free: choose another cache.folder, or "
                    "switch cache.latents or cache.texts off."
                )

        run_on_all_processes_and_gather(self.accelerator, check)


def _discard_damaged(shards: ShardFolder, damaged: Collection[str]) -> None:
    for name in sorted(damaged):
        path = shards.folder / name
        warnings.warn(
            f"The file {path} of the cache is damaged: its content is made again.", stacklevel=2
        )
    shards.delete_files_and_stale_parts(damaged)
