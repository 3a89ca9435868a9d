"""One run of a job: its model, what it reports, and the files that it writes.

K steps, B images, C channels, H W latent size.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from pipelines.prompt_to_prompt.recorded_source import RecordedSource
from t2i.cli.metadata.writing import build_metadata_texts, save_image_with_metadata
from t2i.cli.request.file_checks import copy_request_with_mapped_files
from t2i.cli.request.input_files import InputFile
from t2i.cli.request.request import Request
from t2i.denoiser.families import sd
from t2i.pictures import save_picture
from t2i.server.jobs.job import ResultFile
from t2i.server.jobs.worker_job import WorkerJobInputs
from t2i.server.worker.model_cache import LoadedModel
from t2i.server.worker.step_reporter import StepReporter
from t2i.server.worker.word_maps import PromptHeatMaps, write_word_maps

MAX_MESSAGE_LETTERS = 2_000
"""Letters of a warning or an error in a result."""


@contextmanager
def collecting_warnings() -> Iterator[list[str]]:
    """Yield a list that holds the texts of the users' warnings of the block once it has ended."""
    messages: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", UserWarning)
        yield messages
    messages += dict.fromkeys(str(one.message)[:MAX_MESSAGE_LETTERS] for one in caught)


@dataclass(slots=True)
class JobRun:
    """One run of a job in a worker: the job, its loaded model, the reporter of its steps, and the
    files and data that it has written so far.
    """

    job: WorkerJobInputs
    model: LoadedModel
    reporter: StepReporter
    source: RecordedSource | None
    files: list[ResultFile] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)

    @property
    def wants_heat_maps(self) -> bool:
        """True if heat maps of the job's words are asked for."""
        body: Any = self.job.body
        return self.job.kind == "inspect" or bool(
            getattr(body, "words_maps", False) or getattr(body, "map_steps", False)
        )

    @property
    def wants_step_heat_maps(self) -> bool:
        """True if heat maps and predicted images of each step are asked for."""
        return bool(getattr(self.job.body, "map_steps", False))

    def apply_request_to_model(self) -> Request:
        """Attach the adapters and the sampler of a job's request to its loaded model, and return
        the request with the model's defaults filled in.
        """
        built = self.job.built
        request = built.request
        if self.source is not None:  # the photo's file is not needed any more
            prepared = self.model.apply_request(
                replace(request, image=None, mask=None, inversion=None), built.prompts
            )
            return replace(
                prepared, image=request.image, mask=request.mask, inversion=request.inversion
            )
        return self.model.apply_request(request, built.prompts)

    def save_image(self, name: str, image: Image.Image, request: Request, seed: int) -> None:
        """Save an image of a job with its metadata, in which uploaded pictures have their original
        names.
        """
        texts = build_metadata_texts(
            self.copy_request_with_upload_names(request), seed, self.model.digest
        )
        save_image_with_metadata(image, texts, self.job.folder / name)
        self.files.append(ResultFile(name, "image/png", image.width, image.height, seed))

    def save_image_without_metadata(self, name: str, image: Image.Image) -> None:
        """Save an image of the job without metadata."""
        save_picture(image, self.job.folder / name)
        self.files.append(ResultFile(name, "image/png", image.width, image.height))

    def copy_request_with_upload_names(self, request: Request) -> Request:
        """Return a copy of a job's request in which the paths of uploaded pictures are replaced by
        the pictures' original names.
        """
        names = self.job.picture_names

        def rename(_field: str, file: InputFile) -> InputFile:
            return replace(file, path=names[file.path]) if file.path in names else file

        return copy_request_with_mapped_files(request, rename)

    def save_heat_maps(self, probed: Sequence[PromptHeatMaps], picture: int = 0) -> None:
        """Save the heat maps of one image of a job, as an atlas image and as exact values, and keep
        their description in the job's data.
        """
        described = write_word_maps(probed, self.job.folder, picture)
        self.data.setdefault("maps", {})[str(picture)] = described
        size = (
            described["width"] * (described["steps"] or 1),
            described["height"] * len(described["words"]),
        )
        self.files += [
            ResultFile(described["atlas"], "image/png", *size),
            ResultFile(described["exact"], "application/octet-stream"),
        ]

    def save_step_image_sheet(self) -> None:
        """Save a sheet of the images that each sampling step of a job predicts: steps side by side,
        pictures under each other.
        """
        if not self.reporter.clean_latents:
            return
        clean_KBCHW = torch.stack(self.reporter.clean_latents)
        rows = [self._decode_row(clean_KBCHW[:, b]) for b in range(clean_KBCHW.shape[1])]
        width, height = rows[0][0].size
        sheet = Image.new("RGB", (width * len(rows[0]), height * len(rows)))
        for r, row in enumerate(rows):
            for k, image in enumerate(row):
                sheet.paste(image, (k * width, r * height))
        self.save_image_without_metadata("steps.png", sheet)
        self.data["steps"] = {
            "file": "steps.png",
            "steps": len(rows[0]),
            "width": width,
            "height": height,
        }

    @torch.no_grad()
    def _decode_row(self, latents_KCHW: Tensor) -> list[Image.Image]:
        vae: Any = self.model.pipe.vae
        parameter = next(vae.parameters())
        images: list[Image.Image] = []
        for latents_CHW in latents_KCHW:
            latents = latents_CHW[None].to(parameter.device, parameter.dtype)
            processor = self.model.pipe.image_processor
            images += processor.postprocess(sd.decode_latents_to_pixels(vae, latents), "pil")
        return images
