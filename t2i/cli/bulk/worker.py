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

from t2i.atomic_files import Taken, cannot_write, write_new
from t2i.cli.bulk.index import Entry
from t2i.cli.bulk.jobs import Job
from t2i.cli.bulk.plan import Bulk
from t2i.cli.drawing.adapters import Attached
from t2i.cli.drawing.drawing import (
    chosen,
    enlarged,
    load_pipeline,
    pipeline_defaults,
    sample,
    warn_of_size,
)
from t2i.cli.metadata.writing import picture_text
from t2i.cli.request.request import Request
from t2i.cli.stopping import Stopping
from t2i.denoiser.schedulers import Scheduler, rebuild
from t2i.errors import OutputError
from t2i.pictures import save_picture

if TYPE_CHECKING:
    import torch

    from pipelines.text_to_image import TextToImagePipeline

MAX_MESSAGE = 2_000
"""Letters of an error in the index."""


@dataclass(frozen=True, slots=True)
class Studio:
    """A pipeline, what is attached to it, its own sampler, and where its pictures go."""

    pipe: "TextToImagePipeline"
    attached: Attached
    own: Scheduler
    weights: str
    out: Path
    metadata: bool

    @classmethod
    def load(cls, model: Path, weights: str, bulk: Bulk, device: "torch.device") -> "Studio":
        pipe = load_pipeline(model, None, device)
        return cls(pipe, Attached(pipe), pipe.scheduler, weights, bulk.out, bulk.metadata)

    def make(self, job: Job, stop: Stopping) -> Entry:
        """The job's line of the index: its file, or why there is none.

        Raises OutputError where the folder takes no picture: that is not the fault of one job.
        """
        entry: Entry = {"job": job.index, "line": job.line, "seed": job.seed}
        start = time.perf_counter()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", UserWarning)
            try:
                with stop.droppable():
                    request, picture = self.draw(job.request, job.seed)
            except Exception as error:  # whatever it is, the other prompts may fare better
                entry |= {"request": asdict(job.request), "error": described(error)}
                free_memory()
            else:
                entry["request"] = asdict(request)
                text = picture_text(request, job.seed, self.weights) if self.metadata else None
                if save_new(picture, self.out / job.file, text):
                    entry |= {"file": job.file, "seconds": round(time.perf_counter() - start, 3)}
                else:
                    entry["error"] = described(taken(self.out / job.file))
        if caught:
            entry["warnings"] = list(dict.fromkeys(str(w.message)[:MAX_MESSAGE] for w in caught))
        return entry | {"time": round(time.time(), 3)}

    def draw(self, request: Request, seed: int) -> tuple[Request, Image]:
        # A fresh sampler each time, so that nothing passes from one picture to the next.
        self.pipe.scheduler = chosen(request.sampler, self.own.config) or rebuild(self.own)
        self.attached.fit(request)
        request = request.with_defaults(pipeline_defaults(self.pipe, request))
        warn_of_size(self.pipe, request)
        picture = sample(self.pipe, request, seed, bar=False)
        request = replace(request, width=picture.width, height=picture.height)
        return request, enlarged(self.pipe, request, seed, picture, bar=False)


def save_new(picture: Image, path: Path, text: Mapping[str, str] | None) -> bool:
    """Whether the picture is there: written now, or found just as it would be written.

    So it is after a kill between picture and index. Another file under its name is left alone.
    """
    try:
        write_new(path, partial(save_picture, picture, text=text))
    except Taken:
        pass
    else:
        return True
    again = path.with_name(f".again-{path.name}")
    try:
        save_picture(picture, again, text)
        return filecmp.cmp(path, again, shallow=False)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        again.unlink(missing_ok=True)


def taken(path: Path) -> OutputError:
    return OutputError(
        f"{path} exists, differs from the picture of this line, and is not replaced: "
        "move it elsewhere."
    )


def described(error: Exception) -> dict[str, str]:
    return {"type": type(error).__name__, "message": str(error)[:MAX_MESSAGE]}


def free_memory() -> None:
    """After a picture that did not fit, so that the next one may."""
    from accelerate.utils.memory import clear_device_cache

    clear_device_cache(garbage_collection=True)
