"""Ways to edit a picture that are compared: an inversion, with edits of its recorded source."""

import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from PIL import Image
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from torch import nn

from pipelines.inversion.methods import parse_method
from pipelines.prompt_to_prompt.prompt_edit import PromptEditPipeline
from pipelines.prompt_to_prompt.recorded_source import RecordedSource
from t2i.attention import LocalBlend
from t2i.attention.prompts.prompt_tokens import Words
from t2i.errors import ArgumentError
from t2i.evaluate.denoiser_row_counts import recording_denoiser_row_counts
from t2i.text.prompt import Prompt


def _check_method(text: str) -> str:
    if text != "auto":
        parse_method(text)
    return text


class EditMethodConfig(BaseModel):
    """Configuration of an editing method, a row of the tables: an inversion, and its edits."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    label: str = Field(min_length=1, max_length=80)
    invert: Annotated[str, AfterValidator(_check_method)] = "auto"
    """Inversion method with its arguments, or auto."""
    maps: bool = True
    """Prompt-to-prompt's attention maps of the source; else the target's prompt does all."""
    blend: Literal["none", "auto", "always"] = "auto"
    """Where the picture may change: anywhere, as edits="auto" decides, or in the region of the
    changed words."""
    mask: bool = False
    """Whether the exact mask of what may change is given; else nothing but the prompts is."""
    guidance_scale: float | None = Field(None, ge=1)
    """By default the model's."""
    pairs: int | None = Field(None, ge=1)
    """Picture pairs of each kind, for methods that take long; by default all."""

    @property
    def inversion_key(self) -> tuple[str, bool, float | None]:
        """Key (method, mask, guidance scale) of the inversion; methods of equal key share it."""
        return self.invert, self.mask, self.guidance_scale


@dataclass(slots=True)
class DenoisingCost:
    """Cost of an inversion or an edit: batch rows of denoiser calls, and seconds."""

    rows: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class InvertedPicture:
    """Inverted picture: its recorded source, and what inverting and recording it cost."""

    source: RecordedSource
    cost: DenoisingCost


@dataclass(frozen=True, slots=True)
class EditedPicture:
    """Edited picture, the inverted picture that it was made of, and what the edit alone cost."""

    picture: Image.Image
    inverted: InvertedPicture
    cost: DenoisingCost


@dataclass(frozen=True, slots=True)
class PictureEditTask:
    """Task of editing one picture: the source and target prompts, the mask, and the settings that
    all compared editing methods share.

    blend_words : of source and target, whose region a local blend may change; None for none
    mask : white where the picture may change, for the methods that are given it
    weighted_word : strengthened word of a target whose text equals the source's
    weight, prompt_weight : of the strengthened word, in attention maps and in a prompt
    """

    source: str
    target: str
    blend_words: tuple[Words, Words] | None
    mask: Image.Image
    seed: int
    steps: int
    guidance_scale: float
    weighted_word: str | None = None
    weight: float = 1.0
    prompt_weight: float = 1.0

    @property
    def weighted_prompt(self) -> str | Prompt:
        """Target prompt of the edit, in which a strengthened word has a weight."""
        word = self.weighted_word
        if word is None:
            return self.target
        return Prompt(self.target.replace(word, f"({word}:{self.prompt_weight:g})", 1))


def edit_by_methods(
    editor: PromptEditPipeline,
    picture: Image.Image,
    task: PictureEditTask,
    methods: Sequence[EditMethodConfig],
) -> tuple[dict[str, EditedPicture], dict[str, str]]:
    """Edit a picture by each editing method; return the edited pictures by the methods' labels, and
    for the methods that the model refuses the reasons.

    Methods with the same inversion share it.
    """
    inverted: dict[object, InvertedPicture] = {}
    edited: dict[str, EditedPicture] = {}
    refused: dict[str, str] = {}
    for method in methods:
        try:
            key = method.inversion_key
            if key not in inverted:
                inverted[key] = invert_picture(editor, picture, task, method)
            edited[method.label] = edit_inverted_picture(editor, inverted[key], task, method)
        except ArgumentError as error:
            refused[method.label] = str(error)
    return edited, refused


def invert_picture(
    editor: PromptEditPipeline,
    picture: Image.Image,
    task: PictureEditTask,
    method: EditMethodConfig,
) -> InvertedPicture:
    """Invert a picture by the inversion that an editing method configures, with the task's source
    prompt; return its recorded source and the cost.
    """
    with warnings.catch_warnings(), measuring_denoising_cost(editor.unet) as cost:
        # a picture that the model cannot reproduce: the report tells by how much
        warnings.simplefilter("ignore", UserWarning)
        source = editor.invert(
            picture,
            task.source,
            method.invert,
            seed=task.seed,
            num_inference_steps=task.steps,
            guidance_scale=method.guidance_scale or task.guidance_scale,
            mask=task.mask if method.mask else None,
            targets=[task.target],
        )
    return InvertedPicture(source, cost)


def edit_inverted_picture(
    editor: PromptEditPipeline,
    inverted: InvertedPicture,
    task: PictureEditTask,
    method: EditMethodConfig,
) -> EditedPicture:
    """Edit an inverted picture by a method; return the edited picture and the cost of the edit."""
    with measuring_denoising_cost(editor.unet) as cost:
        picture = edit_recorded_source(editor, inverted.source, task, method)
    return EditedPicture(picture, inverted, cost)


def edit_recorded_source(
    editor: PromptEditPipeline,
    source: RecordedSource,
    task: PictureEditTask,
    method: EditMethodConfig,
) -> Image.Image:
    """Edit a recorded source by a method; return the target's picture."""
    if method.maps:
        target: str | Prompt = task.target
        options = build_auto_edit_arguments(task, method)
    else:
        target, options = task.weighted_prompt, {"edits": build_blend_edits(task, method)}
    pictures: list[Image.Image] = editor(source, target, return_dict=False, **options)[0]
    return pictures[1]


def build_auto_edit_arguments(task: PictureEditTask, method: EditMethodConfig) -> Mapping[str, Any]:
    """Return the editor's arguments `weights` and `blend` for a task of the evaluation, by an edit
    method that has edits="auto".
    """
    word = task.weighted_word
    always = "auto" if task.blend_words is None else task.blend_words
    blends = {"none": None, "auto": "auto", "always": always}
    return {
        "weights": {} if word is None else {word: task.weight},
        "blend": blends[method.blend],
    }


def build_blend_edits(task: PictureEditTask, method: EditMethodConfig) -> list[LocalBlend]:
    """Return a list with the edit LocalBlend for an editing method without attention maps; an empty
    list if it does not blend.
    """
    # edits="auto" lets a strengthened object grow beyond its place
    anywhere = method.blend == "auto" and task.weighted_word is not None
    if method.blend == "none" or anywhere or task.blend_words is None:
        return []
    return [LocalBlend(words=task.blend_words)]


@contextmanager
def measuring_denoising_cost(denoiser: nn.Module) -> Iterator[DenoisingCost]:
    """Measure the cost of the block: yield an DenoisingCost, whose denoiser rows and seconds are
    filled in after it.

    On a CPU these are seconds of processor time.
    """
    device = next(denoiser.parameters()).device
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    cost = DenoisingCost()
    with recording_denoiser_row_counts(denoiser) as rows:
        begun = clock()
        yield cost
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        cost.seconds = clock() - begun
    cost.rows = sum(rows)
