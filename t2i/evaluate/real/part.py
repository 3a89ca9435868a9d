"""Part "real" of the suite: are pictures not made by the model edited as requested, and kept."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Literal

import numpy as np
from PIL import Image

from t2i.denoiser.families import sd
from t2i.errors import ArgumentError
from t2i.evaluate.editing.pairs import CHANGE_TITLES, ChangeKind
from t2i.evaluate.editing.scores import measure_pixel_similarity
from t2i.evaluate.real.baselines import (
    AUTOENCODER,
    COMPOSED_TARGET,
    NO_EDIT,
    REGENERATED,
)
from t2i.evaluate.real.chapters import build_chapters
from t2i.evaluate.real.config import PairSplitConfig, RealConfig
from t2i.evaluate.real.edit_methods import (
    EditedPicture,
    PictureEditTask,
    edit_by_methods,
)
from t2i.evaluate.real.editor import build_independent_edit_pipeline, reconstruct_with_autoencoder
from t2i.evaluate.real.picture_pairs import PicturePair, Split, build_nth_picture_pair
from t2i.evaluate.real.records import (
    EditMethodRecord,
    PictureEditScores,
    PicturePairRecord,
    build_denoising_cost_record,
)
from t2i.evaluate.real.scores import RecognisedPicture, score_picture
from t2i.evaluate.report.chapter import Chapter
from t2i.evaluate.scene_splits import MAX_OBJECTS_IN_SCENE
from t2i.evaluate.suite_part import EvaluationContext, Record
from t2i.pictures import build_picture_grid
from t2i.randomness import derive_generator, derive_seed
from t2i.scenes.scenes import SceneDataset, SceneDatasetConfig

STRIP_COLUMNS = 8
"""Pictures in a row of the strip that is saved of each pair."""


class RealPart:
    """Part of the evaluation suite that inverts and edits rendered pictures, for which the right
    result of the edit is known.
    """

    name = "real"

    def __init__(self, config: RealConfig, context: EvaluationContext) -> None:
        self.config, self.context = config, context
        self.editor = build_independent_edit_pipeline(context)

    def list_unit_keys(self) -> Sequence[str]:
        """Return the keys of the picture pairs whose edits the evaluation measures; those of equal
        number stand one after the other.
        """
        return [*self.units_by_key]

    def measure_unit(self, unit: str) -> Record:
        """Invert and edit the source of a picture pair by every editing method and return the
        record of the scores and costs.
        """
        split, kind, number = self.units_by_key[unit]
        scenes = self.scenes_by_split[split]
        pair = build_nth_picture_pair(scenes, kind, number)
        task = PictureEditTask(
            source=pair.prompts.captions[0],
            target=pair.prompts.captions[1],
            blend_words=(pair.prompts.source_word, pair.prompts.target_word),
            mask=Image.fromarray(~pair.kept_HW),
            seed=derive_seed(scenes.config.seed, kind, number, "noise"),
            steps=self.context.steps,
            guidance_scale=self.context.guidance_scale,
            weighted_word=pair.prompts.strengthened_word,
            weight=self.config.weight,
            prompt_weight=self.config.prompt_weight,
        )
        controls = self._make_baselines(pair, task)
        methods = [m for m in self.config.methods if m.pairs is None or number < m.pairs]
        edited, refused = edit_by_methods(self.editor, pair.source, task, methods)
        pictures = controls | {label: one.picture for label, one in edited.items()}
        judged = self._judge(pair, pictures)
        scores = {
            label: score_picture(pair, judged[NO_EDIT].recognition, one)
            for label, one in judged.items()
        }
        whole_HW = np.ones_like(pair.kept_HW)
        reproduced = measure_pixel_similarity(pair.source, controls[AUTOENCODER], whole_HW)
        assert reproduced is not None
        strip = build_picture_grid([*pictures.values()], [*pictures], columns=STRIP_COLUMNS)
        return PicturePairRecord(
            split=split,
            kind=kind,
            source=pair.prompts.captions[0],
            target=pair.prompts.target_prompt_display_text,
            autoencoder=round(reproduced.psnr, 4),
            controls={label: scores[label] for label in controls},
            methods={
                label: build_edit_method_record(one, scores[label]) for label, one in edited.items()
            },
            refused=refused,
            file=self.context.save_picture(f"real/{unit}", strip.convert("RGB")),
        ).model_dump(mode="json")

    def build_chapters(self, records: Mapping[str, Record]) -> Sequence[Chapter]:
        """Build the report chapters of this part from the records of all units, by key."""
        pairs = [PicturePairRecord.model_validate(record) for record in records.values()]
        labels = [method.label for method in self.config.methods]
        return build_chapters(pairs, labels, self.context.steps, self.context.guidance_scale)

    @cached_property
    def units_by_key(self) -> dict[str, tuple[Split, ChangeKind, int]]:
        """Split, kind of change and number of each picture pair that is edited, by the key of its
        unit of work.
        """
        possible = [
            (split, kind, self._count(split, kind))
            for split in self.scenes_by_split
            for kind in CHANGE_TITLES
        ]
        most = max(count for *_, count in possible)
        return {
            f"{split}/{kind}/{number}": (split, kind, number)
            for number in range(most)
            for split, kind, count in possible
            if number < count
        }

    @cached_property
    def scenes_by_split(self) -> dict[Split, SceneDataset]:
        """Data sets of the scenes that picture pairs are made of, by split (seen, held_out);
        held_out is missing where the model's objects make no held-out combination.
        """
        found: dict[Split, SceneDataset] = {}
        wanted: dict[Split, Literal["train", "held_out"]] = {
            "seen": "train",
            "held_out": "held_out",
        }
        for split, of_scenes in wanted.items():
            try:
                found[split] = SceneDataset(
                    SceneDatasetConfig(
                        size=sd.default_height_and_width(
                            self.context.pipe.unet, self.context.pipe.vae
                        )[0],
                        seed=getattr(self.config, split).seed,
                        vocabulary=self.context.objects,
                        max_objects=min(self.context.max_objects, MAX_OBJECTS_IN_SCENE - 1),
                        split=of_scenes,
                    )
                )
            except ArgumentError:
                continue
        return found

    def _count(self, split: Split, kind: ChangeKind) -> int:
        """Return the number of pairs of a kind; 0 where the model's objects allow none."""
        counts: PairSplitConfig = getattr(self.config, split)
        if not counts.get_pair_count_of_change(kind):
            return 0
        try:
            build_nth_picture_pair(self.scenes_by_split[split], kind, 0)
        except ArgumentError:
            return 0
        return counts.get_pair_count_of_change(kind)

    def _make_baselines(self, pair: PicturePair, task: PictureEditTask) -> dict[str, Image.Image]:
        """Return the pictures that the edited ones are compared with, by the names of BASELINES."""
        seed = task.seed
        anew = self.context.pipe(
            [task.weighted_prompt],
            num_inference_steps=task.steps,
            guidance_scale=task.guidance_scale,
            generator=[derive_generator(seed, "anew")],
            return_dict=False,
        )[0]
        return {
            NO_EDIT: pair.source,
            COMPOSED_TARGET: pair.target,
            AUTOENCODER: reconstruct_with_autoencoder(self.editor, pair.source),
            REGENERATED: anew[0],
        }

    def _judge(
        self, pair: PicturePair, pictures: Mapping[str, Image.Image]
    ) -> dict[str, RecognisedPicture]:
        """Recognise all pictures, and score how well they fit the target's prompt."""
        several = [*pictures.values()]
        seen = self.context.recogniser.recognise(several)
        fits: Sequence[float | None] = [None] * len(several)
        if self.context.caption_matcher is not None:
            captions = [pair.prompts.captions[1]] * len(several)
            fits = self.context.caption_matcher.compute_paired_similarities(
                several, captions
            ).tolist()
        return {
            label: RecognisedPicture(picture, recognised, fit)
            for (label, picture), recognised, fit in zip(pictures.items(), seen, fits, strict=True)
        }


def build_edit_method_record(edited: EditedPicture, scores: PictureEditScores) -> EditMethodRecord:
    """Return the record for records.jsonl of a picture that one method edited, with its scores and
    cost.
    """
    error = edited.inverted.source.error
    replay = None if error is None or error.replay is None else round(error.replay, 4)
    return EditMethodRecord(
        scores=scores,
        inversion=build_denoising_cost_record(edited.inverted.cost),
        edit=build_denoising_cost_record(edited.cost),
        replay=replay,
    )
