"""What draws a request: its model, loaded, with all that it asks to have attached."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from t2i.cli.drawing.adapters import Attached
from t2i.cli.drawing.drawing import load_pipeline, pipeline_defaults, warn_of_size
from t2i.cli.request.digests import digest
from t2i.cli.request.file_checks import Digests
from t2i.cli.request.known_words import read_known
from t2i.cli.request.prompt_checks import questions
from t2i.cli.request.request import Request, read_defaults
from t2i.denoiser.loading.address import resolve

if TYPE_CHECKING:
    from pipelines.text_to_image import TextToImagePipeline


@dataclass(frozen=True, slots=True)
class Prepared:
    """request : with nothing left open but the size
    weights : digest of the model
    changed : what differs of the files that a picture was made of, in words
    """

    pipe: "TextToImagePipeline"
    request: Request
    weights: str
    changed: list[str]


def prepare(request: Request, prompts: Sequence[str] = ()) -> Prepared:
    """prompts : all that are drawn together, where there are several; what may not be meant in them
    is warned of
    """
    digests = Digests()
    changed = digests.changed(request)
    request = digests.fill(request)
    folder = resolve(request.model)
    request = request.with_defaults(read_defaults(folder))
    said = prompts or [request.prompt]
    for question in questions(request, said, request.model, read_known(folder)):
        warnings.warn(question, stacklevel=2)
    pipe = load_pipeline(folder, request.sampler)
    Attached(pipe).fit(request)
    request = request.with_defaults(pipeline_defaults(pipe, request))
    warn_of_size(pipe, request)
    return Prepared(pipe, request, digest(folder), changed)
