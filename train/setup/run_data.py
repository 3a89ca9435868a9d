"""The data of a run: samples and their order, unchanged when the run is resumed."""

from dataclasses import dataclass
from pathlib import Path

from accelerate import Accelerator

from t2i.data.training_dataset import TrainingDataset
from t2i.errors import ArgumentError
from t2i.randomness import derive_seed
from t2i.terminal import plural, print_note_to_stderr
from train.batches.batch_order import BatchOrder
from train.config.run_config import TargetConfig
from train.data.class_picture_config import PriorPreservationConfig, resolve_class_picture_folder
from train.data.dataset_manifest import load_pictures_creating_manifest_if_new
from train.data.pictures import Pictures
from train.data.pictures_config import PictureDatasetConfig
from train.data.registry import DataConfig, build_dataset
from train.data.subsets import SubsetConfig
from train.parallel.processes import run_on_main_and_raise_on_all
from train.targets.control_network import ControlTargetConfig
from train.targets.finetune import FineTuneTargetConfig

DATASET_MANIFEST_NAME = "pictures.json"
"""File in a run's folder that lists the pictures it began with."""
MIN_PICTURES_FOR_PROGRESS = 200
"""Number of pictures from which on progress of reading them is printed."""


@dataclass(frozen=True, slots=True)
class RunConfigForData:
    """The parts of a training run's configuration (data, class pictures, target, batch size) that
    decide what it learns from.
    """

    data: DataConfig
    prior: PriorPreservationConfig | None
    target: TargetConfig
    batch_size: int


def load_run_dataset(
    settings: RunConfigForData, out: Path, accelerator: Accelerator
) -> TrainingDataset:
    """Load the training data set of a run, its class pictures included, and print remarks on it.

    Raises DataError where too many pictures are broken, ArgumentError where they are not those that
    the run began with.
    """
    target = settings.target
    data = add_class_picture_subset(settings.data, settings.prior, out)
    if not isinstance(data, PictureDatasetConfig):
        return build_dataset(data)
    found: list[Pictures] = []

    def read() -> None:  # the first time, the main process records what it finds
        found.append(
            load_pictures_creating_manifest_if_new(
                data, out / DATASET_MANIFEST_NAME, PictureReadingProgressPrinter()
            )
        )
        for remark in (
            *found[0].build_summary().format_startup_lines(settings.batch_size),
            *check_supervision_and_list_remarks(target, data, found[0]),
            *check_output_preservation_and_list_remarks(target, found[0]),
            *check_preferences_and_list_remarks(target, found[0]),
        ):
            print_note_to_stderr(remark)

    run_on_main_and_raise_on_all(accelerator, read)
    return (
        found[0]
        if found
        else load_pictures_creating_manifest_if_new(data, out / DATASET_MANIFEST_NAME)
    )


def add_class_picture_subset(
    data: DataConfig, prior: PriorPreservationConfig | None, out: Path
) -> DataConfig:
    """Return the data configuration with a run's class pictures, if any, as one more subset."""
    if prior is None:
        return data
    assert isinstance(data, PictureDatasetConfig)
    own = (SubsetConfig(folder=data.folder),) if data.folder is not None else data.subsets
    drawn = SubsetConfig(
        folder=resolve_class_picture_folder(prior, out),
        caption=prior.prompt,
        trigger="",
        prefix="",
        suffix="",
        shuffle_captions=False,
        tag_dropout=0.0,
        prior=True,
        prior_weight=prior.weight,
    )
    return data.model_copy(update={"folder": None, "subsets": (*own, drawn)})


def check_supervision_and_list_remarks(
    target: TargetConfig, data: PictureDatasetConfig, pictures: Pictures
) -> list[str]:
    """Check that attention supervision has masked pictures to learn from, and return remarks on
    those that it leaves out.

    Raises ArgumentError where it would leave out all of them.
    """
    if not getattr(target, "attention_weight", 0.0):
        return []
    own = [index for index in range(len(pictures)) if not pictures.is_class_picture(index)]
    masked = [index for index in own if pictures.picture_has_mask(index)]
    naming = [index for index in masked if pictures.captions_contain_masked_object_word(index)]
    if not masked:
        raise ArgumentError(
            "target.attention_weight is set, but no picture has a mask: name a folder of them, "
            "data.subsets.masks, set data.alpha_mask = true for transparent pictures, or set "
            "target.attention_weight = 0."
        )
    word = data.masked_word or "the trigger"
    if not naming:
        raise ArgumentError(
            f"target.attention_weight is set, but no caption of a masked picture says {word!r}: "
            "set data.masked_word to what the masks show, as captions name it, or data.trigger."
        )
    remarks = []
    if len(masked) < len(own):
        remarks.append(
            f"without a mask, so without attention supervision: {len(own) - len(masked)} of "
            f"{plural(len(own), 'picture')}"
        )
    if len(naming) < len(masked):
        remarks.append(
            f"with a mask, and a caption that does not say {word!r}, so without attention "
            f"supervision there: {plural(len(masked) - len(naming), 'picture')}"
        )
    return remarks


def check_output_preservation_and_list_remarks(
    target: TargetConfig, pictures: Pictures
) -> list[str]:
    """Check that output preservation has captions to preserve, and return a remark on those without
    effect, if there are any.

    Raises ArgumentError where none has an effect.
    """
    if not isinstance(target, FineTuneTargetConfig) or not target.preserve_weight:
        return []
    captions = [pictures.caption_at_visit(index, 0) for index in range(len(pictures))]
    kept = [caption for caption in captions if target.list_preserved_captions([caption])]
    if not kept:
        raise ArgumentError(
            f"target.preserve_words has {', '.join(map(repr, target.preserve_words))}, and no "
            f"caption says it; the first is {captions[0]!r}. Name the new word as captions do, or "
            "give target.preserve_captions."
        )
    if len(kept) == len(captions):
        return []
    return [
        f"captions that say no word of target.preserve_words, so nothing is preserved there: "
        f"{len(captions) - len(kept)} of {len(captions)}"
    ]


def check_preferences_and_list_remarks(target: TargetConfig, pictures: Pictures) -> list[str]:
    """Check that preference pairs and preference loss are given together, and return a remark on
    the number of pairs.

    Raises ArgumentError for a preference loss without pairs, and for pairs without such a loss.
    """
    beta, losers = getattr(target, "preference_beta", 0.0), pictures.count_preference_pairs()
    if beta and losers < len(pictures):
        raise ArgumentError(
            f"target.preference_beta learns from pairs, and {len(pictures) - losers} of "
            f"{plural(len(pictures), 'picture')} are alone: name the folder of the worse ones, "
            "data.subsets.losers, or a file of pairs, data.subsets.pairs, for every subset."
        )
    if losers and isinstance(target, ControlTargetConfig):
        return [f"pairs: {losers}, of which the better picture alone is learned from"]
    if losers and not beta:
        raise ArgumentError(
            "data.subsets has pairs of pictures, from which only a fine-tune with "
            "target.preference_beta learns: set it, as to 2000, or leave the worse ones out."
        )
    return [f"pairs: {losers}"] if losers else []


def build_batch_order(samples: TrainingDataset, batch_size: int, seed: int) -> BatchOrder:
    """Build the order in which a run with this seed reads its training examples."""
    return BatchOrder(samples.group_indices_by_shape(), batch_size, derive_seed(seed, "data"))


def build_data_identity(samples: TrainingDataset) -> dict[str, str]:
    """Return the digest of a run's pictures and captions, which must be unchanged when the run
    is resumed; paths may change.
    """
    return {"pictures": samples.compute_fingerprint()} if isinstance(samples, Pictures) else {}


class PictureReadingProgressPrinter:
    """Callable that prints a progress line on the reading of training pictures after each tenth of
    them.
    """

    def __init__(self) -> None:
        self._tenths = 0

    def __call__(self, done: int, of: int) -> None:
        if of >= MIN_PICTURES_FOR_PROGRESS and done * 10 // of > self._tenths:
            self._tenths = done * 10 // of
            print_note_to_stderr(f"read {done} of {plural(of, 'picture')}")
