"""Where the pictures of a bulk are made: one loaded pipeline, and a job after the other."""

import filecmp
import time
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from PIL.Image import Image

from t2i.atomic_files import NameTaken, write_error, write_new
from t2i.cli.bulk.index import IndexEntry
from t2i.cli.bulk.jobs import Job
from t2i.cli.bulk.plan import BulkRun
from t2i.cli.drawing.adapters import AttachedAdapters
from t2i.cli.drawing.drawing import (
    build_scheduler,
    draw_image,
    enlarge_image,
    load_pipeline,
    read_pipeline_defaults,
    warn_of_large_size,
)
from t2i.cli.metadata.writing import build_image_texts
from t2i.cli.request.request import Request
from t2i.cli.stopping import SignalStop
from t2i.denoiser.schedulers import Scheduler, rebuild
from t2i.errors import OutputError
from t2i.pictures import save_picture

if TYPE_CHECKING:
    import torch

    from pipelines.text_to_image import TextToImagePipeline

MAX_MESSAGE = 2_000
"""Letters of an error in the index."""


@dataclass(frozen=True, slots=True)
class BulkWorker:
    """A pipeline, what is attached to it, its own sampler, and where its pictures go."""

    pipe: "TextToImagePipeline"
    attached: AttachedAdapters
    own: Scheduler
    weights: str
    out: Path
    metadata: bool

    @classmethod
    def load(cls, model: Path, weights: str, bulk: BulkRun, device: "torch.device") -> "BulkWorker":
        pipe = load_pipeline(model, None, device)
        return cls(pipe, AttachedAdapters(pipe), pipe.scheduler, weights, bulk.out, bulk.metadata)

    def make(self, job: Job, stop: SignalStop) -> IndexEntry:
        """The job's line of the index: its file, or why there is none.

        Raises OutputError where the folder takes no picture: that is not the fault of one job.
        """
        entry: IndexEntry = {"job": job.index, "line": job.line, "seed": job.seed}
        start = time.perf_counter()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", UserWarning)
            try:
                with stop.droppable():
                    request, picture = self.draw(job.request, job.seed)
            except Exception as error:  # whatever it is, the other prompts may fare better
                entry |= {"request": asdict(job.request), "error": _error_record(error)}
                _free_memory()
            else:
                entry["request"] = asdict(request)
                text = build_image_texts(request, job.seed, self.weights) if self.metadata else None
                if _save_new_image(picture, self.out / job.file, text):
                    entry |= {"file": job.file, "seconds": round(time.perf_counter() - start, 3)}
                else:
                    entry["error"] = _error_record(_name_taken_error(self.out / job.file))
        if caught:
            entry["warnings"] = list(dict.fromkeys(str(w.message)[:MAX_MESSAGE] for w in caught))
        return entry | {"time": round(time.time(), 3)}

    def draw(self, request: Request, seed: int) -> tuple[Request, Image]:
        # A fresh sampler each time, so that nothing passes from one picture to the next.
        self.pipe.scheduler = build_scheduler(request.sampler, self.own.config) or rebuild(self.own)
        self.attached.fit(request)
        request = request.with_defaults(read_pipeline_defaults(self.pipe, request))
        warn_of_large_size(self.pipe, request)
        picture = draw_image(self.pipe, request, seed, bar=False)
        request = replace(request, width=picture.width, height=picture.height)
        return request, enlarge_image(self.pipe, request, seed, picture, bar=False)


def _save_new_image(picture: Image, path: Path, text: Mapping[str, str] | None) -> bool:
    """Whether the picture is there: written now, or found just as it would be written.

    So it is after a kill between picture and index. Another file under its name is left alone.
    """
    try:
        write_new(path, partial(save_picture, picture, text=text))
    except NameTaken:
        pass
    else:
        return True
    again = path.with_name(f".again-{path.name}")
    try:
        save_picture(picture, again, text)
        return filecmp.cmp(path, again, shallow=False)
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        again.unlink(missing_ok=True)


def _name_taken_error(path: Path) -> OutputError:
    return OutputError(
        f"{path} exists, differs from the picture of this line, and is not replaced: "
        "move it elsewhere."
    )


def _error_record(error: Exception) -> dict[str, str]:
    return {"type": type(error).__name__, "message": str(error)[:MAX_MESSAGE]}


def _free_memory() -> None:
    """After a picture that did not fit, so that the next one may."""
    from accelerate.utils.memory import clear_device_cache

    clear_device_cache(garbage_collection=True)
