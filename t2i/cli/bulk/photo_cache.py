"""Cache of the photo that a bulk run has inverted last: lines in a row often edit the same one."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from t2i.cli.generation.edited_images import build_prompt_to_prompt_pipeline
from t2i.cli.generation.inverted_photo import invert_photo
from t2i.cli.request.request import Request

if TYPE_CHECKING:
    from pipelines.prompt_to_prompt.recorded_source import RecordedSource
    from pipelines.text_to_image import TextToImagePipeline


@dataclass(slots=True)
class InvertedPhotoCache:
    """Cache of one inverted photo: the request and seed of the last, and its recorded source.

    The seed counts for methods that draw noise only.
    """

    request: Request | None = None
    seed: int | None = None
    source: "RecordedSource | None" = None

    def get_source(
        self, pipe: "TextToImagePipeline", request: Request, seed: int
    ) -> "RecordedSource":
        """Return the recorded source of a request's photo; it is inverted if it is another."""
        from pipelines.inversion.edit_friendly import Difference, EditFriendly, Turbo
        from pipelines.prompt_to_prompt.inverted_source import resolve_method

        assert request.inversion is not None
        method = resolve_method(pipe, request.inversion.method)
        noise = seed if isinstance(method, Difference | EditFriendly | Turbo) else None
        if self.source is None or (request, noise) != (self.request, self.seed):
            self.source = None  # freed before the next one is made
            editor = build_prompt_to_prompt_pipeline(pipe)
            self.source = invert_photo(editor, request, seed, bar=False)
            self.request, self.seed = request, noise
        return self.source
