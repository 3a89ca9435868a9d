"""Preference pairs of a model's own pictures: of one caption's, a right one and a wrong one."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from pydantic import BaseModel, ConfigDict, ValidationError

from pipelines.text_to_image import TextToImagePipeline
from t2i.accelerate_state import isolated_torch_rng
from t2i.atomic_files import write_atomically
from t2i.denoiser.schedulers import rebuild_scheduler_with_settings
from t2i.errors import DataError
from t2i.evaluate.generation.judge import build_caption_statement, judge_by_statement
from t2i.evaluate.result_folder import RECORDS_FILE, ResultFolder
from t2i.pictures import save_picture
from t2i.randomness import derive_seed
from t2i.scenes.recogniser import Recogniser
from t2i.scenes.scenes import SceneDataset

PAIRS_UNIT_NAME = "pairs"
"""Name in records.jsonl of what is done for each caption."""
WIN_FOLDER, LOSE_FOLDER, PAIRS_FILE = "win", "lose", "pairs.jsonl"
MAX_CAPTIONS_PER_PAIR = 20
"""Number of captions per wanted pair after which generation ends with fewer pairs."""

ProgressCallback = Callable[[str, int], None]
"""Function called with PAIRS_UNIT_NAME and the number of pairs so far."""


class PictureVerdict(BaseModel):
    """Verdict on one picture generated for a caption: the noise seed, and the criteria that it does
    not meet; none if it is right.

    seed : of its noise
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int
    wrong: tuple[str, ...]


class CaptionPreferenceRecord(BaseModel):
    """Record of the pictures generated for a caption: a verdict on each, and the preference pair (a
    right and a wrong picture) that they made.

    win, lose : paths in the folder, or None where all pictures were right, or all wrong
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    scene: int
    caption: str
    pictures: tuple[PictureVerdict, ...]
    win: str | None = None
    lose: str | None = None


@dataclass(frozen=True, slots=True)
class PreferencePairGenerator:
    """Model and judge that generate preference pairs for the captions of training scenes.

    scenes : of the split "train"; their seed is that of the noise, too
    per_caption : number of pictures generated for each caption
    """

    pipe: TextToImagePipeline
    recogniser: Recogniser
    scenes: SceneDataset
    steps: int
    guidance_scale: float
    per_caption: int

    def generate_and_save_pairs(
        self, num: int, store: ResultFolder, report: ProgressCallback
    ) -> int:
        """Generate preference pairs and save them in a folder until it has `num` of them; return
        how many it has, which may be fewer.

        It may have fewer, as the captions are limited to MAX_CAPTIONS_PER_PAIR for each wanted
        pair. What the folder has already is not generated again.
        """
        found = 0
        report(PAIRS_UNIT_NAME, found)
        for number in range(min(num * MAX_CAPTIONS_PER_PAIR, len(self.scenes))):
            record = read_finished_caption_record(store, number)
            if record is None:
                begun = time.perf_counter()
                with isolated_torch_rng():
                    torch.manual_seed(derive_seed(self.scenes.config.seed, PAIRS_UNIT_NAME, number))
                    record = self.generate_and_save_pair(number, store.folder)
                seconds = time.perf_counter() - begun
                store.append_record(
                    PAIRS_UNIT_NAME, str(number), record.model_dump(mode="json"), seconds
                )
            if record.win is not None:
                found += 1
                report(PAIRS_UNIT_NAME, found)
            if found == num:
                break
        return found

    def generate_and_save_pair(self, number: int, folder: Path) -> CaptionPreferenceRecord:
        """Generate pictures of a scene's caption, judge them, and save the first right and the
        first wrong one as a preference pair if both exist; return the record.
        """
        statement = build_caption_statement(self.scenes.compose_layout(number))
        seeds = [
            derive_seed(self.scenes.config.seed, PAIRS_UNIT_NAME, number, "noise", one)
            for one in range(self.per_caption)
        ]
        pictures = self._generate(statement.text, seeds)
        verdicts = []
        for seed, seen in zip(seeds, self.recogniser.recognise(pictures), strict=True):
            judged = judge_by_statement(statement, seen)
            wrong = tuple(kind for kind, flags in judged.items() if not all(flags))
            verdicts.append(PictureVerdict(seed=seed, wrong=wrong))

        right = next((i for i, one in enumerate(verdicts) if not one.wrong), None)
        wrong_one = next((i for i, one in enumerate(verdicts) if one.wrong), None)
        record = CaptionPreferenceRecord(
            scene=number, caption=statement.text, pictures=tuple(verdicts)
        )
        if right is None or wrong_one is None:
            return record
        name = f"{number:06d}"
        win, lose = f"{WIN_FOLDER}/{name}.png", f"{LOSE_FOLDER}/{name}.png"
        for file, picture in ((win, pictures[right]), (lose, pictures[wrong_one])):
            save_picture(picture, folder / file)
        write_atomically(
            folder / WIN_FOLDER / f"{name}.txt",
            lambda part: part.write_text(statement.text + "\n", "utf-8"),
        )
        return record.model_copy(update={"win": win, "lose": lose})

    def _generate(self, caption: str, seeds: Sequence[int]) -> list[Image.Image]:
        # A fresh scheduler each time, so that nothing passes from one caption to the next.
        self.pipe.scheduler = rebuild_scheduler_with_settings(self.pipe.scheduler)
        output = self.pipe(
            [caption] * len(seeds),
            num_inference_steps=self.steps,
            guidance_scale=self.guidance_scale,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            return_dict=False,
        )
        pictures: list[Image.Image] = output[0]
        return pictures


def read_finished_caption_record(
    store: ResultFolder, number: int
) -> CaptionPreferenceRecord | None:
    """Return the record of a caption whose pictures were generated and judged, or None if they are
    yet to be generated, as for a pair of which a file has been removed.

    Raises DataError for a record of another format.
    """
    unit = store.finished_units.get((PAIRS_UNIT_NAME, str(number)))
    if unit is None:
        return None
    try:
        record = CaptionPreferenceRecord.model_validate(unit.record)
    except ValidationError as error:
        raise DataError(
            f"{store.folder / RECORDS_FILE}: the record of caption {number} has an unexpected "
            f"format ({error.errors()[0]['msg']}). Remove its line, and it is drawn again."
        ) from error
    if record.win is None or record.lose is None:
        return record
    files = (record.win, record.lose, record.win.removesuffix(".png") + ".txt")
    return record if all((store.folder / file).is_file() for file in files) else None


def write_pairs_file(store: ResultFolder) -> Path:
    """Write the preference pairs of a folder (caption, right and wrong picture) as a JSONL file
    that training data can name in `data.subsets.pairs`; return its path.
    """
    records = (
        read_finished_caption_record(store, number) for number in list_finished_scene_numbers(store)
    )
    rows = [
        {"caption": one.caption, "win": one.win, "lose": one.lose}
        for one in records
        if one is not None and one.win is not None
    ]
    path = store.folder / PAIRS_FILE
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_atomically(path, lambda part: part.write_text(text, "utf-8"))
    return path


def list_finished_scene_numbers(store: ResultFolder) -> list[int]:
    """Return the sorted numbers of the scenes whose pictures for preference pairs have been
    generated and recorded.
    """
    return sorted(int(unit) for part, unit in store.finished_units if part == PAIRS_UNIT_NAME)
