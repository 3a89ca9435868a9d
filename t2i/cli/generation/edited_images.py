"""Generation of a source image and of its edits by attention, also of an inverted photo."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from t2i.cli.generation.call_arguments import (
    build_image_prompt_arguments,
    build_sampling_and_control_arguments,
    set_progress_bar,
)
from t2i.cli.generation.control_networks import build_controls
from t2i.cli.generation.inverted_photo import copy_request_with_inversion, invert_photo
from t2i.cli.generation.sequential_edits import (
    list_edits_to_record_for,
    record_source_after_earlier_edits,
)
from t2i.cli.request.prompt_edits import EditedPrompts
from t2i.cli.request.request import Request
from t2i.cli.time_estimate import RunTimeEstimateCallback

if TYPE_CHECKING:
    from PIL.Image import Image

    from pipelines.prompt_to_prompt.automatic_edits import TargetEditSettings, WordEditOptions
    from pipelines.prompt_to_prompt.prompt_edit import PromptEditPipeline
    from pipelines.prompt_to_prompt.recorded_source import RecordedSource
    from pipelines.text_to_image import TextToImagePipeline


@dataclass(frozen=True, slots=True)
class EditedImages:
    """Images of a request with prompt edits, the source's first.

    request : as it was generated: with its size, and what is known of a photo's inversion
    source : recorded, where the source is a photo
    """

    request: Request
    images: "list[Image]"
    source: "RecordedSource | None"

    def build_image_to_save(self, number: int) -> "Image":
        """Return one of the source and edited images as it is saved: put back into its full-size
        photo if the request asks for that.

        number : of the image; 0 is the source
        """
        image, inversion = self.images[number], self.request.inversion
        if self.source is None or inversion is None or not inversion.full_size or number == 0:
            return image
        return self.source.paste_edit(image)

    def get_request(self, number: int) -> Request:
        """Return the request that makes one of the source and target images alone.

        number : of the image; 0 is the source
        """
        edited = self.request.edited
        if edited is None:
            return self.request
        return replace(
            self.request, prompt=edited.prompts[number], edited=replace(edited, picture=number)
        )


def build_prompt_to_prompt_pipeline(pipe: "TextToImagePipeline") -> "PromptEditPipeline":
    """Return a prompt-to-prompt pipeline with the components of a text-to-image pipeline; a
    pipeline of that class is returned itself.
    """
    from pipelines.prompt_to_prompt.prompt_edit import PromptEditPipeline

    if isinstance(pipe, PromptEditPipeline):
        return pipe
    # from_pipe would cast every part, and say so.
    zeros = pipe.config.get("force_zeros_for_empty_prompt", True)
    return PromptEditPipeline(**pipe.components, force_zeros_for_empty_prompt=zeros)


def choose_edits_and_add_to_request(
    pipe: "TextToImagePipeline",
    request: Request,
    prompts: Sequence[str],
    options: "WordEditOptions",
    source: "RecordedSource | None" = None,
) -> "tuple[Request, list[TargetEditSettings]]":
    """Choose the attention edits that lead from a source prompt to its target prompts.

    Returns the request of the source with the prompts and edits, and the chosen settings of each
    target. They depend on the model and on the size. Warns of a target that asks for no change.

    prompts : the source's, then those of the targets
    request : one with edits already is of a source that these have made
    source : recorded, where there is one: its steps and size count
    """
    from pipelines.prompt_to_prompt.automatic_edits import choose_target_edit_settings, has_word
    from t2i.attention.edits.registry import to_dict

    assert request.num_inference_steps is not None
    steps, height, width = request.num_inference_steps, request.height, request.width
    if source is not None:
        facts = source.facts
        steps, height, width = (facts[name] for name in ("num_inference_steps", "height", "width"))
    parsed = [request.parse_prompt_in_grammar(prompt) for prompt in prompts]
    for target, text in zip(parsed[1:], prompts[1:], strict=True):
        weighted = any(has_word(target, word) for word in options.weights)
        asks_for_change = weighted or options.regions or options.style is not None
        if text.strip() == prompts[0].strip() and not asks_for_change:
            warnings.warn(
                f"The target {text!r:.80} is the source's own prompt, and no word of it has a "
                "weight: nothing asks for a change. Give other words, or --weight WORD=FACTOR.",
                stacklevel=2,
            )
    edits = build_prompt_to_prompt_pipeline(pipe).choose_automatic_edits(
        parsed, options, steps, height, width
    )
    edited = EditedPrompts(
        prompts=tuple(prompts),
        picture=0,
        edits=tuple(map(to_dict, edits)),
        earlier=() if request.edited is None else request.edited.build_earlier_edits(),
    )
    request = replace(request, prompt=prompts[0], edited=edited)
    return request, choose_target_edit_settings(parsed, steps, options)


def generate_edited_images(
    pipe: "TextToImagePipeline",
    request: Request,
    seed: int,
    *,
    show_progress: bool = True,
    source: "RecordedSource | None" = None,
) -> EditedImages:
    """Generate the source and target images of a request with prompt edits, the source first.

    An edit that acts in no step of so short a run is left out with a warning. A photo without
    targets gives the image that its inversion reproduces.

    source : the request's photo, if it has been inverted and edited before
    """
    from pipelines.prompt_to_prompt.automatic_edits import acts_at_any_step

    editor = build_prompt_to_prompt_pipeline(pipe)
    if request.inversion is not None:
        if source is None:
            source = invert_photo(
                *(editor, request, seed),
                show_progress=show_progress,
                for_edits=list_edits_to_record_for(request),
            )
            source = record_source_after_earlier_edits(
                editor, request, source, show_progress=show_progress
            )
        request = copy_request_with_inversion(request, source)
    edited = request.edited
    if edited is None:
        assert source is not None
        return EditedImages(request, [source.image], source)
    first, *targets = (request.parse_prompt_in_grammar(prompt) for prompt in edited.prompts)
    set_progress_bar(editor, f"seed {seed}", shown=show_progress)
    steps = request.num_inference_steps if source is None else source.steps.count
    assert steps is not None
    settings = (
        {
            "width": request.width,
            "height": request.height,
            **build_sampling_and_control_arguments(editor, request, seed),
            **build_image_prompt_arguments(request),
        }
        if source is None
        else {"controls": build_controls(editor, request)}
    )
    with RunTimeEstimateCallback(shown=show_progress) as first_step:
        images: list[Image] = editor(
            first if source is None else source,
            targets,
            edits=[edit for edit in edited.parse_edits() if acts_at_any_step(edit, steps)],
            return_dict=False,
            callback_on_step_end=first_step,
            **settings,
        )[0]
    return EditedImages(
        replace(request, width=images[0].width, height=images[0].height), images, source
    )
