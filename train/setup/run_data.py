"""The data of a run: the same samples in the same order whenever it goes on."""

from pathlib import Path

from accelerate import Accelerator

from t2i.errors import ArgumentError
from t2i.randomness import derive_seed
from t2i.scenes.sample import Samples
from t2i.terminal import print_note, several
from train.batches.order import Order
from train.config.run_config import RunConfig
from train.data.class_picture_config import PriorConfig, class_picture_folder
from train.data.picture_record import load_run_pictures
from train.data.pictures import Pictures
from train.data.pictures_config import PicturesConfig
from train.data.registry import DataConfig, open_data_set
from train.data.subsets import SubsetConfig
from train.parallel.processes import on_main
from train.targets.finetune import FineTuneConfig

RECORD = "pictures.json"
"""In a run's folder, which pictures it began with."""
SHOWN_FROM = 200
"""Pictures that take long enough to look at for a bar."""


def data_of(config: RunConfig, out: Path, accelerator: Accelerator) -> Samples:
    """What the run learns from, its class pictures with it.

    Raises DataError where too many pictures are broken, ArgumentError where they are not those that
    the run began with.
    """
    data = with_class_pictures(config.data, config.prior, out)
    if not isinstance(data, PicturesConfig):
        return open_data_set(data)
    found: list[Pictures] = []

    def look() -> None:  # the first time the main process writes down what it sees
        found.append(load_run_pictures(data, out / RECORD, Looking()))
        for remark in found[0].summary().remarks(config.train.batch_size):
            print_note(remark)
        for remark in (
            *supervision_remarks(config, found[0]),
            *preservation_remarks(config, found[0]),
            *preference_remarks(config, found[0]),
        ):
            print_note(remark)

    on_main(accelerator, look)
    return found[0] if found else load_run_pictures(data, out / RECORD)


def with_class_pictures(data: DataConfig, prior: PriorConfig | None, out: Path) -> DataConfig:
    """Add the class pictures, where there are to be some, to a run's data as one more subset."""
    if prior is None:
        return data
    assert isinstance(data, PicturesConfig)
    own = (SubsetConfig(folder=data.folder),) if data.folder is not None else data.subsets
    drawn = SubsetConfig(
        folder=class_picture_folder(prior, out),
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


def supervision_remarks(config: RunConfig, pictures: Pictures) -> list[str]:
    """Which pictures attention supervision leaves out.

    Raises ArgumentError where it would leave out all of them.
    """
    if not getattr(config.target, "attention_weight", 0.0):
        return []
    own = [index for index in range(len(pictures)) if not pictures.is_prior(index)]
    masked = [index for index in own if pictures.has_mask(index)]
    naming = [index for index in masked if pictures.has_masked_word(index)]
    if not masked:
        raise ArgumentError(
            "target.attention_weight is set, but no picture has a mask: name a folder of them, "
            "data.subsets.masks, set data.alpha_mask = true for transparent pictures, or set "
            "target.attention_weight = 0."
        )
    word = config.data.masked_word or "the trigger"  # type: ignore[union-attr]  # of pictures
    if not naming:
        raise ArgumentError(
            f"target.attention_weight is set, but no caption of a masked picture says {word!r}: "
            "set data.masked_word to what the masks show, as captions name it, or data.trigger."
        )
    remarks = []
    if len(masked) < len(own):
        remarks.append(
            f"without a mask, so without attention supervision: {len(own) - len(masked)} of "
            f"{several(len(own), 'picture')}"
        )
    if len(naming) < len(masked):
        remarks.append(
            f"with a mask, and a caption that does not say {word!r}, so without attention "
            f"supervision there: {several(len(masked) - len(naming), 'picture')}"
        )
    return remarks


def preservation_remarks(config: RunConfig, pictures: Pictures) -> list[str]:
    """Which pictures have no caption that is to draw what it drew.

    Raises ArgumentError where none has one.
    """
    target = config.target
    if not isinstance(target, FineTuneConfig) or not target.preserve_weight:
        return []
    captions = [pictures.caption(index, 0) for index in range(len(pictures))]
    kept = [caption for caption in captions if target.all_preserved([caption])]
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


def preference_remarks(config: RunConfig, pictures: Pictures) -> list[str]:
    """Raises ArgumentError where pairs are to be learned from and there are none, or the other
    way round."""
    beta, losers = getattr(config.target, "preference_beta", 0.0), pictures.count_pairs()
    if beta and losers < len(pictures):
        raise ArgumentError(
            f"target.preference_beta learns from pairs, and {len(pictures) - losers} of "
            f"{several(len(pictures), 'picture')} are alone: name the folder of the worse ones, "
            "data.subsets.losers, for every subset."
        )
    if losers and not beta:
        raise ArgumentError(
            "data.subsets.losers are the worse ones of pairs, from which only a fine-tune with "
            "target.preference_beta learns: set it, as to 2000, or leave the losers out."
        )
    return [f"pairs: {losers}"] if losers else []


def order_of(samples: Samples, config: RunConfig) -> Order:
    return Order(samples.groups(), config.train.batch_size, derive_seed(config.seed, "data"))


def shown(samples: Samples) -> dict[str, str]:
    """What tells pictures from others, wherever they lie."""
    return {"pictures": samples.fingerprint()} if isinstance(samples, Pictures) else {}


class Looking:
    """Lines about every tenth of the pictures that are looked at."""

    def __init__(self) -> None:
        self._tenths = 0

    def __call__(self, done: int, of: int) -> None:
        if of >= SHOWN_FROM and done * 10 // of > self._tenths:
            self._tenths = done * 10 // of
            print_note(f"looked at {done} of {several(of, 'picture')}")
