"""Before a run: what can be encoded once is, and the encoders are let go."""

import shutil
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import TypeVar

from accelerate import Accelerator
from accelerate.utils.memory import clear_device_cache

from t2i.errors import OutputError, TrainingError
from t2i.run_folder import StoppedEarly, StopRequest
from t2i.scenes.sample import Samples
from t2i.terminal import several
from train.batches.micro_batches import memory_for
from train.batches.order import Order
from train.cache.caption_encoding import encoder_of
from train.cache.encoders import OF, Encoders
from train.cache.latent_cache import Cached
from train.cache.needed_keys import captions_needed, variants_needed
from train.cache.shards import DIGITS, Shards, Writer
from train.cache.text_cache import Texts
from train.config.run_config import RunConfig
from train.data.decode import BrokenPicture
from train.data.pictures import Pictures
from train.parallel.processes import on_main, say, together
from train.reporting.progress import Advance, progress
from train.setup.assembly import STORED
from train.setup.cache_encoding import (
    captions_in_batches,
    make_latents,
    make_texts,
    pictures_in_batches,
)
from train.setup.cacheable import GB, choose, latent_bytes, text_bytes, why_too_large
from train.targets.finetune import FineTuneConfig

Item = TypeVar("Item")
Result = TypeVar("Result")
FOLDER = "cache"
MB = 10**6


def cached(
    config: RunConfig,
    samples: Samples,
    order: Order,
    out: Path,
    accelerator: Accelerator,
    stop: StopRequest,
) -> tuple[Samples, Encoders | None]:
    """The data set with latents in the place of pixels, and the encoders without their weights; as
    it is and None where nothing can be cached. Each process makes its share of what is missing.

    Raises T2IError, and Stopped where somebody asks for it, on every process.
    """
    reasons = choose(config, samples)
    encoders: Encoders | None = None
    if None in reasons.values():
        assert isinstance(config.target, FineTuneConfig)
        assert isinstance(samples, Pictures)
        encoders = Encoders(config.target.base, STORED[config.train.precision])
        for kind, size in (("latents", latent_bytes), ("texts", text_bytes)):
            if reasons[kind] is None:
                reasons[kind] = why_too_large(size(samples, encoders), config.cache.max_gb)
        making = Making(config, order, out, encoders, accelerator, stop)
        if reasons["latents"] is None:
            samples = making.latents(samples)
        if reasons["texts"] is None:
            encoders.texts = making.texts(samples)
        encoders.let_go([kind for kind, reason in reasons.items() if reason is None])
        clear_device_cache(garbage_collection=True)
    for kind, reason in reasons.items():
        if reason:
            say(accelerator, f"The {kind} are not cached: {reason}.")
    return samples, encoders


class Making:
    """Completes what lies in the cache's folder by what the run needs."""

    def __init__(
        self,
        config: RunConfig,
        order: Order,
        out: Path,
        encoders: Encoders,
        accelerator: Accelerator,
        stop: StopRequest,
    ) -> None:
        self.config, self.order, self.encoders = config, order, encoders
        self.accelerator, self.stop = accelerator, stop
        self.folder = config.cache.folder or out / FOLDER
        self.rank, self.ranks = accelerator.process_index, accelerator.num_processes

    def latents(self, samples: Pictures) -> Cached:
        """Of the pictures as the run will show them, and of those that are held out."""
        shards = self._shards("latents")
        self.encoders.models["vae"].to(self.accelerator.device)
        apart = self._complete(samples.held_out(), shards, None)
        found = self._complete(samples, shards, self.order)
        found.apart = apart
        return found

    def texts(self, samples: Pictures) -> Texts:
        """Of the captions that the run will show, and the empty one."""
        shards = self._shards("texts")
        as_planned = samples if isinstance(samples, Cached) else None
        steps, size = self.config.train.steps, self.config.cache.captions_at_once
        needed = captions_needed(samples.captions() or set(), as_planned, self.order, steps)
        needed |= samples.held_out().captions() or set()
        assert isinstance(self.config.target, FineTuneConfig)
        needed |= self.config.target.all_preserved(needed)
        missing = sorted(caption for caption in needed if caption not in shards)
        if missing:
            parts = self.encoders.components()
            for name in OF["texts"]:
                if name in self.encoders.models:
                    self.encoders.models[name].to(self.accelerator.device)
            encoder = encoder_of(parts)
            batches = self._share(captions_in_batches(parts, encoder, missing, size))
            self._check_room(len(missing) * self.encoders.bytes_of_a_text)
            lower = "set cache.captions_at_once lower" if size > 1 else "set cache.texts = false"
            with self._progress("encoding captions", len(missing)) as advance:
                writer = self._writer(shards)
                make = partial(make_texts, parts, encoder, batches, size, writer, advance)
                self._make(make, f"encoding {several(size, 'caption')} at a time", lower)
            self._stop_if_asked()
            self._look(shards, self._files(shards), missing)
        return Texts(shards)

    def _complete(self, samples: Pictures, shards: Shards, order: Order | None) -> Cached:
        """Without an order every way to show the pictures."""
        lost: dict[int, BrokenPicture] = {}
        size, vae = self.config.cache.pictures_at_once, self.encoders.given["vae"]
        while True:
            pictures = Cached(samples, shards, lost)
            needed = variants_needed(pictures, order, self.config.train.steps)
            missing = {
                key: variant for variant in needed if (key := pictures.key(variant)) not in shards
            }
            if not missing:
                return pictures
            batches = self._share(pictures_in_batches(samples, [*missing.values()], size))
            self._check_room(latent_bytes(samples, self.encoders, missing.values()))
            lower = "set cache.pictures_at_once lower" if size > 1 else "choose a smaller data.size"
            with self._progress("encoding pictures", len(missing)) as advance:
                writer = self._writer(shards)
                make = partial(make_latents, samples, batches, size, vae, writer, advance)
                found = self._make(make, f"encoding {several(size, 'picture')} at a time", lower)
            self._stop_if_asked()
            new = {index: error for each in found for index, error in each.items()}
            lost |= new
            gone = {pictures.key(v) for v in missing.values() if v.index in new}
            self._look(shards, self._files(shards), missing.keys() - gone)

    def _shards(self, kind: str) -> Shards:
        """What is there of "latents" or "texts", every file looked at; the damaged are gone."""
        digest = self.encoders.facts[kind] = self.encoders.digest(kind)
        shards = Shards(self.folder / f"{kind}-{digest[:DIGITS]}")
        files = self._files(shards)
        mine = files[self.rank :: self.ranks]
        found = together(self.accelerator, lambda: shards.damaged(mine))
        damaged = {name for each in found for name in each}
        on_main(self.accelerator, lambda: discard(shards, damaged))
        self._look(shards, [name for name in files if name not in damaged])
        return shards

    def _files(self, shards: Shards) -> list[str]:
        """Those that the main process sees. Other runs may add some at any moment, and processes
        that see different ones would share out different work.
        """
        main = self.accelerator.is_main_process
        return together(self.accelerator, lambda: shards.files() if main else [])[0]

    def _look(self, shards: Shards, files: Sequence[str], made: Collection[str] = ()) -> None:
        """Take notice of these files, in which all processes must find what they made."""

        def look() -> bool:
            if not all((shards.folder / name).is_file() for name in files):
                return False
            shards.look(files)
            return all(key in shards for key in made)

        if not all(together(self.accelerator, look)):
            raise TrainingError(
                f"What the processes wrote to {shards.folder} is not there for all of them: let "
                "cache.folder be one that all see."
            )

    def _make(self, make: Callable[[], Result], what: str, remedy: str) -> list[Result]:
        """What the processes made, each its share."""

        def act() -> Result:
            with memory_for(what, remedy):
                return make()

        return together(self.accelerator, act)

    @contextmanager
    def _progress(self, what: str, total: int) -> Iterator[Advance]:
        """The main process tells of all by its own pace."""
        if not self.accelerator.is_main_process:
            yield lambda count: None
            return
        with progress(what, total) as advance:
            yield lambda count: advance(count * self.ranks)

    def _share(self, batches: Sequence[Item]) -> Iterator[Item]:
        """Those of this process, until somebody asks to stop."""
        return takewhile(lambda _: not self.stop.wanted, batches[self.rank :: self.ranks])

    def _stop_if_asked(self) -> None:
        if any(together(self.accelerator, lambda: self.stop.wanted)):
            say(self.accelerator, "stopped while encoding; the same command goes on from here")
            raise StoppedEarly

    def _writer(self, shards: Shards) -> Writer:
        return Writer(shards.folder, self.config.cache.shard_mb * MB)

    def _check_room(self, needed: int) -> None:
        """Raise OutputError, before anything is made, where the disk cannot hold it."""

        def check() -> None:
            place = next(
                path for path in (self.folder, *self.folder.absolute().parents) if path.exists()
            )
            free = shutil.disk_usage(place).free
            if needed > free:
                raise OutputError(
                    f"The cache in {self.folder} needs {needed / GB:.3g} GB more, and "
                    f"{free / GB:.3g} GB are free: choose another cache.folder, or switch "
                    "cache.latents or cache.texts off."
                )

        together(self.accelerator, check)


def discard(shards: Shards, damaged: Collection[str]) -> None:
    for name in sorted(damaged):
        path = shards.folder / name
        warnings.warn(
            f"The file {path} of the cache is damaged: what it held is made again.", stacklevel=2
        )
    shards.discard(damaged)
