"""Part "pie_bench" of the suite: the edits of PIE-Bench, where a user has it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from t2i.denoiser.families import sd
from t2i.evaluate.pie_bench.chapters import build_chapters
from t2i.evaluate.pie_bench.config import PieBenchConfig
from t2i.evaluate.pie_bench.judges import JudgeModels, load_judge_models
from t2i.evaluate.pie_bench.mapping import (
    EDITING_TYPES,
    PICTURES_FOLDER,
    PieBenchEdit,
    read_edits_by_key,
)
from t2i.evaluate.pie_bench.metrics import ComparedPictures, compute_chosen_metrics
from t2i.evaluate.pie_bench.records import PieBenchMethodRecord, PieBenchRecord
from t2i.evaluate.real.baselines import AUTOENCODER, NO_EDIT
from t2i.evaluate.real.edit_methods import PictureEditTask, edit_by_methods
from t2i.evaluate.real.editor import build_independent_edit_pipeline, reconstruct_with_autoencoder
from t2i.evaluate.real.records import build_denoising_cost_record
from t2i.evaluate.report.chapter import Chapter
from t2i.evaluate.suite_part import EvaluationContext, Record
from t2i.pictures import build_picture_grid, open_picture
from t2i.randomness import derive_seed

STRIP_COLUMNS = 8
"""Pictures in a row of the strip that is saved of each edit."""


class PieBenchPart:
    """Part of the suite that inverts and edits the pictures of PIE-Bench."""

    name = "pie_bench"

    def __init__(self, config: PieBenchConfig, context: EvaluationContext) -> None:
        self.config, self.context = config, context
        self.editor = build_independent_edit_pipeline(context)

    def list_unit_keys(self) -> Sequence[str]:
        """Return the keys of the edits of PIE-Bench that are measured, as PIE-Bench names them."""
        return [*self.edits_by_key]

    def measure_unit(self, unit: str) -> Record:
        """Edit a picture of PIE-Bench by every method and return the record of the results."""
        edit, number = self.edits_by_key[unit], self.edit_numbers_within_types[unit]
        side = sd.default_height_and_width(self.context.pipe.unet, self.context.pipe.vae)[0]
        source = self._read_picture(edit, side)
        mask_HW = resize_mask(edit.decode_edited_region_mask(), side)
        task = PictureEditTask(
            source=edit.prompts[0],
            target=edit.prompts[1],
            blend_words=edit.blended_words,
            mask=Image.fromarray(mask_HW),
            seed=derive_seed(self.config.seed, unit, "noise"),
            steps=self.context.steps,
            guidance_scale=self.context.guidance_scale,
        )
        methods = [m for m in self.config.methods if m.pairs is None or number < m.pairs]
        edited, refused = edit_by_methods(self.editor, source, task, methods)
        controls = {NO_EDIT: source, AUTOENCODER: reconstruct_with_autoencoder(self.editor, source)}
        pictures = controls | {label: one.picture for label, one in edited.items()}
        measured = {
            label: compute_chosen_metrics(
                ComparedPictures(source, picture, mask_HW, edit.prompts[1]),
                self.config.columns,
                self.judges,
            )
            for label, picture in pictures.items()
        }
        strip = build_picture_grid([*pictures.values()], [*pictures], columns=STRIP_COLUMNS)
        return PieBenchRecord(
            editing_type=edit.editing_type_id,
            source=edit.prompts[0],
            target=edit.prompts[1],
            controls={label: measured[label] for label in controls},
            methods={
                label: PieBenchMethodRecord(
                    columns=measured[label],
                    inversion=build_denoising_cost_record(one.inverted.cost),
                    edit=build_denoising_cost_record(one.cost),
                )
                for label, one in edited.items()
            },
            refused=refused,
            file=self.context.save_picture(f"pie_bench/{unit}", strip.convert("RGB")),
        ).model_dump(mode="json")

    def build_chapters(self, records: Mapping[str, Record]) -> Sequence[Chapter]:
        """Return the report chapters of PIE-Bench from the records of all its edits, by key."""
        labels = [method.label for method in self.config.methods]
        edits = [PieBenchRecord.model_validate(record) for record in records.values()]
        return build_chapters(
            edits,
            labels,
            self.config.columns,
            self.context.steps,
            self.context.guidance_scale,
        )

    @cached_property
    def edits_by_key(self) -> dict[str, PieBenchEdit]:
        """Edits of PIE-Bench that are measured, by key."""
        edits = read_edits_by_key(Path(self.config.folder))
        if self.config.count is None:
            return edits
        numbers = number_edits_within_types(edits)
        return {key: edit for key, edit in edits.items() if numbers[key] < self.config.count}

    @cached_property
    def edit_numbers_within_types(self) -> dict[str, int]:
        """Number of each edit of PIE-Bench, by key, counted from 0 within its editing type."""
        return number_edits_within_types(self.edits_by_key)

    @cached_property
    def judges(self) -> JudgeModels:
        """Judge models (DINO, CLIP, LPIPS) by which the metrics of PIE-Bench are measured, loaded
        at first use.
        """
        given = (self.config.dino, self.config.clip, self.config.lpips)
        dino, clip, lpips = (None if path is None else Path(path) for path in given)
        return load_judge_models(dino=dino, clip=clip, lpips=lpips)

    def _read_picture(self, edit: PieBenchEdit, side: int) -> Image.Image:
        """Return the source of an edit, at the model's size."""
        picture = open_picture(Path(self.config.folder) / PICTURES_FOLDER / edit.image_path)
        picture = picture.convert("RGB")
        if picture.size == (side, side):
            return picture
        return picture.resize((side, side), Image.Resampling.LANCZOS)


def number_edits_within_types(edits: Mapping[str, PieBenchEdit]) -> dict[str, int]:
    """Return a dict from the key of each edit of PIE-Bench to its number, counted from 0, within
    its editing type.
    """
    seen: Counter[str] = Counter()
    numbers = {}
    for key, edit in edits.items():
        kind = EDITING_TYPES.get(edit.editing_type_id, edit.editing_type_id)
        numbers[key] = seen[kind]
        seen[kind] += 1
    return numbers


def resize_mask(mask_HW: NDArray[np.bool_], side: int) -> NDArray[np.bool_]:
    """Resize a square mask (H, W) to `side` pixels; each pixel is that of the nearest one."""
    if mask_HW.shape == (side, side):
        return mask_HW
    resized = Image.fromarray(mask_HW).resize((side, side), Image.Resampling.NEAREST)
    return np.array(resized, dtype=np.bool_)
