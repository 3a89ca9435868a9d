"""Format of PIE-Bench: `mapping_file.json` and the pictures in `annotation_images`.

H W size of the pictures.
"""

from pathlib import Path, PurePosixPath
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from t2i.errors import DataError
from t2i.safe_reading import CAPTION_TABLE_KIND, read_json
from t2i.validation_errors import describe_first_validation_error

MAPPING_FILE, PICTURES_FOLDER = "mapping_file.json", "annotation_images"
PICTURE_SIDE = 512
"""Width and height of PIE-Bench's pictures and masks, in pixels."""
EDITING_TYPES = {
    "0": "random",
    "1": "change object",
    "2": "add object",
    "3": "delete object",
    "4": "change attribute content",
    "5": "change attribute pose",
    "6": "change attribute color",
    "7": "change attribute material",
    "8": "change background",
    "9": "change style",
}
"""`editing_type_id` of PIE-Bench -> name of the editing type."""


def _check_inside(path: str) -> str:
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or not pure.parts:
        raise ValueError(f"expected a path inside {PICTURES_FOLDER}")
    return path


def _check_pairs(mask: tuple[int, ...]) -> tuple[int, ...]:
    if len(mask) % 2 or any(not 0 <= number <= PICTURE_SIDE**2 for number in mask):
        raise ValueError(
            "expected pairs of a first pixel and a length, each at most "
            f"{PICTURE_SIDE} x {PICTURE_SIDE}"
        )
    return mask


class PieBenchEdit(BaseModel):
    """Edit of PIE-Bench: an entry of its `mapping_file.json`, whose keys are the fields.

    image_path : inside annotation_images
    mask : run lengths of the edited region, pairs of first pixel and length, row by row
    """

    model_config = ConfigDict(frozen=True)

    image_path: Annotated[str, AfterValidator(_check_inside)]
    original_prompt: str
    editing_prompt: str
    editing_type_id: str
    blended_word: str = ""
    mask: Annotated[tuple[int, ...], AfterValidator(_check_pairs)] = Field(repr=False)

    @property
    def prompts(self) -> tuple[str, str]:
        """Source and target prompt, without the brackets that mark what changes."""
        source, target = (
            text.replace("[", "").replace("]", "")
            for text in (self.original_prompt, self.editing_prompt)
        )
        return source, target

    @property
    def blended_words(self) -> tuple[str, str] | None:
        """Word of the source and of the target whose region changes; None where none is given."""
        words = self.blended_word.split()
        return (words[0], words[1]) if len(words) == 2 else None

    def decode_edited_region_mask(self) -> NDArray[np.bool_]:
        """Return the mask (H, W) of the region that an edit of PIE-Bench may change, decoded from
        run lengths; the picture's border belongs to it.
        """
        flat = np.zeros(PICTURE_SIDE**2, dtype=np.bool_)
        for first, length in zip(self.mask[::2], self.mask[1::2], strict=True):
            flat[first : first + length] = True
        mask_HW = flat.reshape(PICTURE_SIDE, PICTURE_SIDE)
        mask_HW[[0, -1]] = True
        mask_HW[:, [0, -1]] = True
        return mask_HW


def read_edits_by_key(folder: Path) -> dict[str, PieBenchEdit]:
    """Read PIE-Bench's `mapping_file.json` from its folder: the edits by key, in the file's order.

    Raises DataError for a file of another format, naming the entry.
    """
    path = folder / MAPPING_FILE
    tree = read_json(path, CAPTION_TABLE_KIND)
    if not tree:
        raise DataError(f"{path} holds no edits. Give a complete copy of PIE-Bench.")
    edits: dict[str, PieBenchEdit] = {}
    for key, entry in tree.items():
        try:
            edits[key] = PieBenchEdit.model_validate(entry)
        except ValidationError as error:
            raise DataError(
                f"{path}: the edit {key!r:.80} is laid out otherwise than PIE-Bench's: "
                f"{describe_first_validation_error(error)}."
            ) from error
    return edits
