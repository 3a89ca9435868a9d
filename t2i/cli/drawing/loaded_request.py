"""What draws a request: its model, loaded, with all that it asks to have attached."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from t2i.cli.drawing.adapters import AttachedAdapters
from t2i.cli.drawing.drawing import load_pipeline, read_pipeline_defaults, warn_of_large_size
from t2i.cli.request.digests import digest
from t2i.cli.request.file_checks import FileDigests
from t2i.cli.request.known_words import read_known_words
from t2i.cli.request.prompt_checks import find_prompt_warnings
from t2i.cli.request.request import Request, read_defaults
from t2i.denoiser.loading.address import resolve

if TYPE_CHECKING:
    from pipelines.text_to_image import TextToImagePipeline


@dataclass(frozen=True, slots=True)
class LoadedRequest:
    """request : with nothing left open but the size
    weights : digest of the model
    changed : what differs of the files that a picture was made of, in words
    """

    pipe: "TextToImagePipeline"
    request: Request
    weights: str
    changed: list[str]


def load_request(request: Request, prompts: Sequence[str] = ()) -> LoadedRequest:
    """prompts : all that are drawn together, where there are several; what may not be meant in them
    is warned of
    """
    digests = FileDigests()
    changed = digests.changed(request)
    request = digests.fill(request)
    folder = resolve(request.model)
    request = request.with_defaults(read_defaults(folder))
    said = prompts or [request.prompt]
    for question in find_prompt_warnings(request, said, request.model, read_known_words(folder)):
        warnings.warn(question, stacklevel=2)
    pipe = load_pipeline(folder, request.sampler)
    AttachedAdapters(pipe).fit(request)
    request = request.with_defaults(read_pipeline_defaults(pipe, request))
    warn_of_large_size(pipe, request)
    return LoadedRequest(pipe, request, digest(folder), changed)
