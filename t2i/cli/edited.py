"""Prompts that are drawn together under edits of attention, as a request carries them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from t2i.errors import ArgumentError

if TYPE_CHECKING:
    from PIL.Image import Image

    from pipelines.prompt_edit import PromptEditPipeline
    from pipelines.text_to_image import TextToImagePipeline
    from t2i.attention.edits.edit import Edit
    from t2i.cli.request import Request

MAX_PROMPTS = 16
MAX_EDITS = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Edited:
    """One picture of several that begin from the same noise and look at one another.

    prompts : of all of them, the source first
    picture : which of them is meant
    edits : as t2i.attention.edits.methods.to_dict writes them
    """

    prompts: tuple[str, ...]
    picture: int
    edits: tuple[Mapping[str, object], ...]

    def __post_init__(self) -> None:
        if not 2 <= len(self.prompts) <= MAX_PROMPTS:
            raise ArgumentError(
                f"Got {len(self.prompts)} prompts to draw together: expected a source and from 1 "
                f"to {MAX_PROMPTS - 1} targets."
            )
        if not 0 <= self.picture < len(self.prompts):
            raise ArgumentError(
                f"Got picture {self.picture} of {len(self.prompts)}: they count from 0."
            )
        if len(self.edits) > MAX_EDITS:
            raise ArgumentError(f"Got {len(self.edits)} edits: at most {MAX_EDITS} are taken.")
        self.read()

    def read(self) -> "list[Edit]":
        """The edits themselves. Raises ArgumentError for one that cannot be read."""
        # Here, for it imports torch, which most requests need much later.
        from t2i.attention.edits.methods import from_dict

        return [from_dict(edit) for edit in self.edits]

    def check(self, request: "Request") -> None:
        """Raise ArgumentError where the request asks for what cannot be drawn under edits."""
        if request.prompt != self.prompts[self.picture]:
            raise ArgumentError(
                f"Picture {self.picture} of the edited ones is of {self.prompts[self.picture]!r}, "
                f"but the prompt is {request.prompt!r}."
            )
        for name, option in (("image", "--image"), ("ip_adapter", "--ip-adapter")):
            if getattr(request, name) is not None:
                raise ArgumentError(
                    f"Got {option} for a picture that was edited by its words: these cannot be "
                    "drawn together. Leave one of them out."
                )


def editor_of(pipe: "TextToImagePipeline") -> "PromptEditPipeline":
    """The same parts, to be edited with."""
    from pipelines.prompt_edit import PromptEditPipeline

    # from_pipe would cast every part, and say so.
    zeros = pipe.config.get("force_zeros_for_empty_prompt", True)
    return PromptEditPipeline(**pipe.components, force_zeros_for_empty_prompt=zeros)


def draw_together(
    pipe: "TextToImagePipeline", request: "Request", seed: int, *, bar: bool = True
) -> "list[Image]":
    """All pictures of an edited request, the source's first."""
    from t2i.cli.drawing import settings_of, watch

    assert request.edited is not None
    source, *targets = (request.spoken(prompt) for prompt in request.edited.prompts)
    editor = editor_of(pipe)
    watch(editor, seed, bar)
    pictures: list[Image] = editor(
        source,
        targets,
        edits=request.edited.read(),
        width=request.width,
        height=request.height,
        return_dict=False,
        **settings_of(request, seed),
    )[0]
    return pictures
