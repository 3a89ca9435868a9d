"""Cache of the photo that a bulk run has inverted or read last: lines in a row often edit the same
one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os.path import expanduser
from pathlib import Path
from typing import TYPE_CHECKING

from t2i.cli.generation.edited_images import build_prompt_to_prompt_pipeline
from t2i.cli.generation.inverted_photo import invert_photo
from t2i.cli.generation.recorded_photo import RecordedPhoto, read_recorded_photo
from t2i.cli.request.edit_options import PromptLineRecordedPhoto
from t2i.cli.request.request import Request

if TYPE_CHECKING:
    from pipelines.prompt_to_prompt.recorded_source import RecordedSource
    from pipelines.text_to_image import TextToImagePipeline
    from t2i.attention.edits.base.edit import Edit


@dataclass(slots=True)
class LastInvertedPhotoCache:
    """Cache of one photo: the recorded source of the photo that a bulk run inverted last, and the
    recording that it read last.

    request, seed : those that it was inverted for; the seed is None for a method without noise
    for_edits : edits that it was recorded for
    source : None before the first inversion
    recording, recorded : the recording that was read last
    """

    request: Request | None = None
    seed: int | None = None
    for_edits: "tuple[Edit, ...]" = ()
    source: "RecordedSource | None" = None
    recording: PromptLineRecordedPhoto | None = None
    recorded: RecordedPhoto | None = None

    def get_or_read_recording(
        self, recording: PromptLineRecordedPhoto, model: str
    ) -> RecordedPhoto:
        """Return the recorded photo that a line of a prompts file names; it is read from its folder
        unless it was the last one read.

        model : of the bulk run, instead of the recorded one
        """
        if self.recorded is None or self.recording != recording:
            self.recorded = None
            folder = Path(expanduser(recording.folder))
            self.recorded = read_recorded_photo(folder, model, full_size=recording.full_size)
            self.recording = recording
        return self.recorded

    def get_or_invert_source(
        self,
        pipe: "TextToImagePipeline",
        request: Request,
        seed: int,
        *,
        budget_bytes: int | None = None,
        folder: Path | None = None,
        notes: Mapping[str, object] | None = None,
        for_edits: "Sequence[Edit]" = (),
    ) -> "RecordedSource":
        """Return the recorded source of a request's photo: the cached one if the same photo was
        inverted last and no folder is given, else invert the photo now.

        folder, notes : where given, the photo is inverted and recorded there
        for_edits : edits that the photo is recorded for
        """
        from pipelines.inversion.edit_friendly import EditFriendlyInversion, FlowEdit, TurboEdit
        from pipelines.prompt_to_prompt.inverted_source import resolve_inversion_method

        assert request.inversion is not None
        method = resolve_inversion_method(pipe, request.inversion.method)
        noise = seed if isinstance(method, FlowEdit | EditFriendlyInversion | TurboEdit) else None
        is_other = (self.request, self.seed, self.for_edits) != (request, noise, (*for_edits,))
        if self.source is None or folder is not None or is_other:
            self.source = None  # freed before the next one is made
            editor = build_prompt_to_prompt_pipeline(pipe)
            self.source = invert_photo(
                editor,
                request,
                seed,
                show_progress=False,
                budget_bytes=budget_bytes,
                folder=folder,
                notes=notes,
                for_edits=for_edits,
            )
            self.request, self.seed, self.for_edits = request, noise, (*for_edits,)
        return self.source
