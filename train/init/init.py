"""A configuration to start from: what a method needs, chosen after a look at a folder of pictures.

Its text is put together from t2i/assets/train/pieces.toml, line by line, with the reasons.
"""

import os
import re
from dataclasses import dataclass
from os.path import expanduser
from pathlib import Path
from shlex import quote

from t2i.atomic_files import NameTaken, write_new
from t2i.denoiser.loading.address import EMBEDDED_MODELS, locate_model
from t2i.denoiser.loading.hub import cached_models, is_hub_id
from t2i.denoiser.loading.model_folder import check_folder
from t2i.errors import ArgumentError, nearest
from t2i.scenes.captions import indefinite_article
from t2i.terminal import several
from train.caption_words import contains_words
from train.data.discovery import check_broken_share, find_pictures
from train.data.pictures_config import SMALL, PicturesConfig
from train.init.config_text import fill, path_from, pieces, toml
from train.init.config_values import (
    FAMILIES,
    NAMES,
    PIECES,
    Family,
    Value,
    family_of,
    size_of,
    steps_for,
    values_of,
)

METHODS = tuple(PIECES)
RARE = "sks"
"""A word that means nothing to most models, so that it can be given a meaning."""
OF_A_CLASS = ("dreambooth", "dreambooth-lora")
OF_NEW_WORDS = ("textual-inversion", "pivotal")
SMALL_SHARE = 0.75
"""Pictures with sides below this share of what the base draws are learned at that share."""
HELD_OUT = [
    "# Share that is never trained on; what it is for stands at the end.",
    "held_out = 0.05",
]
ENOUGH = 40
"""Pictures from which on some are held out, to measure on."""
PLACES: dict[Family, tuple[str, ...]] = {
    "embedded": ("{} on a blue background", "{} on a white background"),
    "sd": ("{} on a beach at sunset", "an oil painting of {}"),
    "sdxl": ("{} on a beach at sunset", "an oil painting of {}"),
}


@dataclass(frozen=True, slots=True)
class Look:
    """What a folder of pictures holds.

    side : of the square that has the area of the middle picture
    sizes : the smallest, the middle and the largest, as "640x480"
    captions : the different ones, each picture's first before others of one picture; `captioned`
        is how many pictures have one
    """

    pictures: int
    broken: int
    side: int
    sizes: tuple[str, ...]
    captioned: int
    captions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Wish:
    """What somebody asks for. kind : the class of the thing, such as "mug"."""

    method: str
    folder: Path
    base: str = "embedded"
    word: str | None = None
    kind: str | None = None


def look(folder: Path) -> Look:
    """Read every picture of the folder, as the run will. Raises DataError where none is sound."""
    found = find_pictures(PicturesConfig(folder=folder))
    if not found.pictures:
        check_broken_share(found.broken, found.total, 0.0)
    shapes = sorted(
        (one.shape for one in found.pictures), key=lambda shape: shape.height * shape.width
    )
    middle = shapes[len(shapes) // 2]
    told = [one.entry.captions for one in found.pictures if one.entry.captions]
    captions = [captions[0] for captions in told] + [other for of in told for other in of]
    return Look(
        pictures=len(found.pictures),
        broken=len(found.broken),
        side=round((middle.height * middle.width) ** 0.5),
        sizes=tuple(
            dict.fromkeys(f"{s.width}x{s.height}" for s in (shapes[0], middle, shapes[-1]))
        ),
        captioned=len(told),
        captions=tuple(dict.fromkeys(captions)),
    )


def write_start(wish: Wish, out: Path) -> Look:
    """Write the file. Raises NameTaken where something has that name already."""
    check_wish(wish)
    if os.path.lexists(out):
        raise NameTaken(out)
    seen = look(wish.folder)
    head = f"# Begin, and go on, with: t2i train {quote(str(out))}"
    text = starting_config(wish, seen, out.parent, head)
    write_new(out, lambda part: part.write_text(text, "utf-8"))
    return seen


def check_wish(wish: Wish) -> None:
    if wish.method not in METHODS:
        raise ArgumentError(f"--init {wish.method}: {nearest(wish.method, METHODS)}")
    if wish.method in OF_A_CLASS and not wish.kind:
        raise ArgumentError(
            f"--init {wish.method} needs the class of the thing, which is to stay what it is: "
            "give it, as in --class mug."
        )
    if wish.word is not None and wish.method in OF_NEW_WORDS:
        if wish.word.split() != [wish.word] or "," in wish.word:
            raise ArgumentError(
                f"Got --word {wish.word!r}; a new word has no blanks and no commas: write it as "
                "<my-mug>."
            )
    check_base(wish.base)


def check_base(base: str) -> None:
    """Raise ModelError for what is no model; an id of the hub is taken at its word."""
    place = Path(expanduser(base))
    if (
        base in EMBEDDED_MODELS
        or place.exists()
        or not is_hub_id(base)
        or place.suffix == ".safetensors"
    ):
        if (found := locate_model(base)).is_dir():
            check_folder(found)


def is_unseen(base: str) -> bool:
    """Whether the base is a model of the hub that is not here, so that nothing is known of it."""
    return (
        base not in EMBEDDED_MODELS
        and not Path(expanduser(base)).exists()
        and base not in cached_models()
    )


def will_start(seen: Look) -> bool:
    """Whether a run takes so many broken pictures."""
    bad_share: float = PicturesConfig.model_fields["bad_share"].default
    return seen.broken <= bad_share * (seen.pictures + seen.broken)


def starting_config(wish: Wish, seen: Look, beside: Path, head: str, *, hints: bool = False) -> str:
    """The text of the file, for the folder `beside` in which it will lie.

    hints : over each value that depends on the base, say what it would be for others
    """
    family = family_of(wish.base)
    values = values_of(wish.method, family) | chosen(wish, seen, family, beside)
    others = [other for other in FAMILIES if hints and other != family]
    elsewhere = {NAMES[other]: values_of(wish.method, other) for other in others}
    for other in others:
        batch_size = int(str(elsewhere[NAMES[other]]["batch_size"]))
        steps = steps_for(other, seen.pictures, batch_size)
        elsewhere[NAMES[other]]["steps"] = steps
    names = [f"about {wish.method}", "target", *PIECES[wish.method]]
    names += ["validation"] * holds_out(seen)
    if family == "sdxl":
        # Its second encoder reads along: tying a word to a thing is left to the denoiser.
        names = [name for name in names if name != "part lora text"]
    lines = blocks_of(wish, seen, head)
    filled = ["\n".join(fill(pieces()[name], values, lines, elsewhere)) for name in names]
    return "\n\n".join([f"{filled[0]}\n{filled[1]}", *filled[2:]]) + "\n"


def chosen(wish: Wish, seen: Look, family: Family, beside: Path) -> dict[str, Value]:
    """What a look at the pictures decides."""
    word, thing, kind = called(wish, seen)
    size = size_of(wish.base, family)
    if size >= SMALL and seen.side < SMALL_SHARE * size:
        size = int(size * SMALL_SHARE) // 64 * 64
    batch_size = int(str(values_of(wish.method, family)["batch_size"]))
    named = [f"a photo of {thing}", *(place.format(thing) for place in PLACES[family])]
    told = [*seen.captions[:3]] if seen.captions and not has_a_word(wish) else named
    return {
        "base": path_from(beside, wish.base) if Path(wish.base).exists() else wish.base,
        "folder": path_from(beside, str(wish.folder)),
        "size": size,
        "steps": steps_for(family, seen.pictures, batch_size),
        "word": word,
        "class_phrase": kind,
        "class_caption": f"a photo of {kind}",
        "prompts": [*told, f"a photo of {kind}"],
    }


def has_a_word(wish: Wish) -> bool:
    """Whether the thing has a name of its own, which captions and prompts are to say."""
    named = wish.word is not None or wish.kind is not None
    return named or wish.method in OF_A_CLASS + OF_NEW_WORDS


def as_they_are(wish: Wish, seen: Look) -> str | None:
    """Why nothing goes before the captions, or None where a word does or there are none."""
    if seen.captioned < seen.pictures:
        return None
    word, _, _ = called(wish, seen)
    if not has_a_word(wish):
        return "neither --class nor --word was given"
    if all(contains_words(caption, word) for caption in seen.captions):
        return f"each says {word} already"
    return None


def called(wish: Wish, seen: Look) -> tuple[str, str, str]:
    """The word, the thing as prompts name it, and its class or, where that is unknown, another."""
    kind = f"{indefinite_article(wish.kind)} {wish.kind}" if wish.kind else "a cat"
    if wish.method in OF_NEW_WORDS:
        plain = re.sub(r"[^a-z0-9]+", "-", wish.folder.resolve().name.lower()).strip("-")
        word = wish.word or f"<{plain or 'thing'}>"
        return word, word, kind
    word = wish.word or RARE
    return word, f"{indefinite_article(word)} {word} {wish.kind}" if wish.kind else word, kind


def about_word(wish: Wish, seen: Look) -> list[str]:
    """Why a word stands there that nobody chose, and how to choose another."""
    word, thing, _ = called(wish, seen)
    if wish.word is not None or word != RARE or not has_a_word(wish):
        return []
    return [
        f'Prompts are to call it "{thing}": {RARE} means nothing to most models, so that it can be',
        "given a meaning, and what the model knows of the class stays. Another one: --word.",
    ]


def blocks_of(wish: Wish, seen: Look, head: str) -> dict[str, list[str]]:
    """Lines that stand in a piece by the name of a block."""
    word, thing, _ = called(wish, seen)
    trigger = word if wish.method in OF_NEW_WORDS or not wish.kind else f"{word} {wish.kind}"
    sizes = " to ".join((seen.sizes[0], seen.sizes[-1])) if len(seen.sizes) > 1 else seen.sizes[0]
    told = {0: "none", seen.pictures: "all"}.get(seen.captioned, str(seen.captioned))
    captions = [
        "# Captions are those beside the pictures; this goes before each that does not say it.",
        f"trigger = {toml(trigger)}",
    ]
    if not seen.captioned:
        captions = [
            "# For every picture, as none has a caption. A text file of the same name beside each,",
            "# that says what else is in it, keeps the rest out of the word: then drop this line.",
            f"caption = {toml(f'a photo of {thing}')}",
        ]
    elif reason := as_they_are(wish, seen):
        captions = [f"# Captions are learned as they are: {reason}."]
    return {
        "next": head.splitlines(),
        "seen": [
            f"# {several(seen.pictures, 'picture')}, {sizes}; {told} of them with a caption.",
            *(f"# {line}" for line in about_word(wish, seen)),
        ],
        "captions": captions,
        "held_out": HELD_OUT if holds_out(seen) else [],
        "dora": ["dora = true"] if wish.method == "dora" else [],
        "initial": [f", initial = {toml(wish.kind)}" if wish.kind else ""],
    }


def holds_out(seen: Look) -> bool:
    """Whether there are enough pictures to keep some from being trained on."""
    return seen.pictures >= ENOUGH
