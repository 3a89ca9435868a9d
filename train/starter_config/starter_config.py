"""Starter config of `t2i train --init`, for a method and a folder of pictures.

Its text is composed from t2i/assets/train/pieces.toml, line by line, with the reasons.
"""

import os
import re
from dataclasses import dataclass
from os.path import expanduser
from pathlib import Path
from shlex import quote

from t2i.atomic_files import NameTaken, write_new_file
from t2i.denoiser.loading.address import EMBEDDED_MODELS, locate_model
from t2i.denoiser.loading.hub import is_hub_id, list_cached_models
from t2i.denoiser.loading.model_folder import check_folder
from t2i.errors import ArgumentError, nearest_hint
from t2i.scenes.captions import choose_indefinite_article
from t2i.terminal import plural
from train.caption_words import contains_words
from train.data.discovery import check_broken_fraction, list_and_read_pictures
from train.data.pictures_config import SMALL, PicturesConfig
from train.data.subsets import SubsetConfig
from train.starter_config.template_text import (
    fill_template_piece,
    format_relative_path,
    format_toml_literal,
    load_template_pieces,
)
from train.starter_config.template_values import (
    FAMILIES,
    NAMES,
    PIECES,
    Family,
    Value,
    choose_num_steps,
    detect_image_size,
    detect_model_family,
    list_method_values,
)

METHODS = tuple(PIECES)
RARE = "sks"
"""A word that means nothing to most models, so that it can be given a meaning."""
OF_A_CLASS = ("dreambooth", "dreambooth-lora")
PRESERVING = ("full", "cross-attention", "lora", "dora", "pivotal")
"""Methods that change what other prompts draw, and have no class pictures against it."""
OF_NEW_WORDS = ("textual-inversion", "pivotal")
COMPANIONS = ("masks", "losers")
"""Folders within a folder of pictures that hold masks, or the worse pictures of pairs."""
SMALL_SHARE = 0.75
"""Pictures with sides below this share of what the base draws are learned at that share."""
HELD_OUT = [
    "# Fraction of the pictures that is kept out of training, for [validation] at the end.",
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
class PictureFolderStats:
    """Statistics of a folder of pictures: counts, sizes, captions, masks, worse pictures of pairs.

    side : of the square that has the area of the middle picture
    sizes : the smallest, the middle and the largest, as "640x480"
    captions : the different ones, each picture's first before others of one picture; `captioned`
        is how many pictures have one
    has_masks, has_losers : there is a folder of masks, or of the worse pictures of pairs, in it
    has_alpha : some pictures are transparent
    """

    pictures: int
    broken: int
    side: int
    sizes: tuple[str, ...]
    captioned: int
    captions: tuple[str, ...] = ()
    has_masks: bool = False
    has_alpha: bool = False
    has_losers: bool = False


@dataclass(frozen=True, slots=True)
class StarterConfigRequest:
    """Options of `t2i train --init`: method, folder of pictures, base model, trigger word, class.

    kind : class of the subject, such as "mug"
    """

    method: str
    folder: Path
    base: str = "embedded"
    word: str | None = None
    kind: str | None = None


def inspect_picture_folder(folder: Path) -> PictureFolderStats:
    """Read every picture of a folder and return their counts, sizes and captions.

    Raises DataError if none is usable.
    """
    companions = {key: folder / key for key in COMPANIONS if (folder / key).is_dir()}
    subset = SubsetConfig.model_validate({"folder": folder, **companions})
    found = list_and_read_pictures(PicturesConfig(subsets=(subset,)))
    if not found.pictures:
        check_broken_fraction(found.broken, found.total, 0.0)
    shapes = sorted(
        (one.shape for one in found.pictures), key=lambda shape: shape.height * shape.width
    )
    middle = shapes[len(shapes) // 2]
    captioned = [one.entry.captions for one in found.pictures if one.entry.captions]
    captions = [texts[0] for texts in captioned] + [text for texts in captioned for text in texts]
    return PictureFolderStats(
        pictures=len(found.pictures),
        broken=len(found.broken),
        side=round((middle.height * middle.width) ** 0.5),
        sizes=tuple(
            dict.fromkeys(f"{s.width}x{s.height}" for s in (shapes[0], middle, shapes[-1]))
        ),
        captioned=len(captioned),
        captions=tuple(dict.fromkeys(captions)),
        has_masks="masks" in companions,
        has_alpha=any(one.transparent for one in found.pictures),
        has_losers="losers" in companions,
    )


def write_starter_config(request: StarterConfigRequest, out: Path) -> PictureFolderStats:
    """Write a starter config and return counts and sizes of the pictures in the folder.

    Raises NameTaken if `out` exists, ArgumentError for options that do not fit.
    """
    check_request(request)
    if os.path.lexists(out):
        raise NameTaken(out)
    facts = inspect_picture_folder(request.folder)
    check_no_pairs_for_dreambooth(request, facts)
    head = f"# Start and resume with: t2i train {quote(str(out))}"
    text = build_starter_config(request, facts, out.parent, head)
    write_new_file(out, lambda part: part.write_text(text, "utf-8"))
    return facts


def check_request(request: StarterConfigRequest) -> None:
    """Raise ArgumentError for options of `t2i train --init` that are wrong: an unknown method, a
    missing class, an invalid word.
    """
    if request.method not in METHODS:
        raise ArgumentError(f"--init {request.method}: {nearest_hint(request.method, METHODS)}")
    if request.method in OF_A_CLASS and not request.kind:
        raise ArgumentError(
            f"--init {request.method} needs the class of the thing, which is to stay what it is: "
            "give it, as in --class mug."
        )
    word = request.word if request.method in OF_NEW_WORDS else None
    if word is not None and (word.split() != [word] or "," in word):
        raise ArgumentError(
            f"Got --word {word!r}; a new word has no blanks and no commas: write it as <my-mug>."
        )
    check_base_model(request.base)


def check_no_pairs_for_dreambooth(request: StarterConfigRequest, facts: PictureFolderStats) -> None:
    """Raise ArgumentError for preference pairs with a DreamBooth method, as class pictures have
    no worse ones.
    """
    if facts.has_losers and request.method in OF_A_CLASS:
        raise ArgumentError(
            f"--init {request.method}: {request.folder / 'losers'} makes pairs of the pictures, "
            "and class pictures have no worse ones: choose a method without class pictures, as "
            "--init lora, or move that folder out."
        )


def check_base_model(base: str) -> None:
    """Raise ModelError if the base model of a starter config is not one; hub ids are not
    checked.
    """
    place = Path(expanduser(base))
    is_local = base in EMBEDDED_MODELS or place.exists() or place.suffix == ".safetensors"
    if (is_local or not is_hub_id(base)) and (found := locate_model(base)).is_dir():
        check_folder(found)


def needs_download(base: str) -> bool:
    """Return True if a base model is on the hub and not in the local cache."""
    return (
        base not in EMBEDDED_MODELS
        and not Path(expanduser(base)).exists()
        and base not in list_cached_models()
    )


def is_broken_fraction_allowed(facts: PictureFolderStats) -> bool:
    """Return True if the fraction of broken pictures in a folder is one that a run accepts."""
    bad_share: float = PicturesConfig.model_fields["bad_share"].default
    return facts.broken <= bad_share * (facts.pictures + facts.broken)


def build_starter_config(
    request: StarterConfigRequest,
    facts: PictureFolderStats,
    beside: Path,
    head: str,
    *,
    hints: bool = False,
) -> str:
    """Build the text of a starter config, for a file in the folder `beside`.

    hints : add comments with the values for other base models
    """
    family = detect_model_family(request.base)
    values = list_method_values(request.method, family) | choose_picture_dependent_values(
        request, facts, family, beside
    )
    others = [other for other in FAMILIES if hints and other != family]
    elsewhere = {NAMES[other]: list_method_values(request.method, other) for other in others}
    for other in others:
        batch_size = int(str(elsewhere[NAMES[other]]["batch_size"]))
        steps = choose_num_steps(other, facts.pictures, batch_size)
        elsewhere[NAMES[other]]["steps"] = steps
    names = [f"about {request.method}", "target", *PIECES[request.method]]
    names += ["validation"] * has_enough_to_hold_out(facts)
    if family == "sdxl":
        # Its second encoder reads along: tying a word to a thing is left to the denoiser.
        names = [name for name in names if name != "part lora text"]
    lines = build_template_blocks(request, facts, head) | {
        "source": build_picture_folder_lines(request, facts, beside)
    }
    filled = [
        "\n".join(fill_template_piece(load_template_pieces()[name], values, lines, elsewhere))
        for name in names
    ]
    return "\n\n".join([f"{filled[0]}\n{filled[1]}", *filled[2:]]) + "\n"


def choose_picture_dependent_values(
    request: StarterConfigRequest, facts: PictureFolderStats, family: Family, beside: Path
) -> dict[str, Value]:
    """Choose the values of a starter config that depend on the pictures: size, steps, word,
    prompts.
    """
    word, thing, kind = choose_trigger_and_class(request, facts)
    size = detect_image_size(request.base, family)
    if size >= SMALL and facts.side < SMALL_SHARE * size:
        size = int(size * SMALL_SHARE) // 64 * 64
    batch_size = int(str(list_method_values(request.method, family)["batch_size"]))
    named = [f"a photo of {thing}", *(place.format(thing) for place in PLACES[family])]
    examples = [*facts.captions[:3]] if facts.captions and not has_trigger_word(request) else named
    return {
        "base": format_relative_path(beside, request.base)
        if Path(request.base).exists()
        else request.base,
        "size": size,
        "steps": choose_num_steps(family, facts.pictures, batch_size),
        "word": word,
        "class_phrase": kind,
        "class_caption": f"a photo of {kind}",
        "prompts": [*examples, f"a photo of {kind}"],
    }


def has_trigger_word(request: StarterConfigRequest) -> bool:
    """Return True if the starter config teaches a trigger word for the subject."""
    named = request.word is not None or request.kind is not None
    return named or request.method in OF_A_CLASS + OF_NEW_WORDS


def explain_missing_trigger(request: StarterConfigRequest, facts: PictureFolderStats) -> str | None:
    """Return the reason why the config sets no trigger word; None if it does, or if pictures
    lack captions.
    """
    if facts.captioned < facts.pictures:
        return None
    word, _, _ = choose_trigger_and_class(request, facts)
    if not has_trigger_word(request):
        return "neither --class nor --word was given"
    if all(contains_words(caption, word) for caption in facts.captions):
        return f"each says {word} already"
    return None


def choose_trigger_and_class(
    request: StarterConfigRequest, facts: PictureFolderStats
) -> tuple[str, str, str]:
    """Choose the trigger word, the subject's name in prompts, and its class with article ("a
    cat" if unknown).
    """
    kind = f"{choose_indefinite_article(request.kind)} {request.kind}" if request.kind else "a cat"
    if request.method in OF_NEW_WORDS:
        plain = re.sub(r"[^a-z0-9]+", "-", request.folder.resolve().name.lower()).strip("-")
        word = request.word or f"<{plain or 'thing'}>"
        return word, word, kind
    word = request.word or RARE
    return (
        word,
        f"{choose_indefinite_article(word)} {word} {request.kind}" if request.kind else word,
        kind,
    )


def build_trigger_comment(request: StarterConfigRequest, facts: PictureFolderStats) -> list[str]:
    """Build comment lines of a starter config on the default trigger word and how to choose
    another.
    """
    word, thing, _ = choose_trigger_and_class(request, facts)
    if request.word is not None or word != RARE or not has_trigger_word(request):
        return []
    return [
        f'Prompts should call it "{thing}": {RARE} means nothing to most models, so it can get',
        "a new meaning, while the model keeps its knowledge of the class. Another one: --word.",
    ]


def build_template_blocks(
    request: StarterConfigRequest, facts: PictureFolderStats, head: str
) -> dict[str, list[str]]:
    """Build the lines of each block, by the block's name in the starter config's template."""
    word, thing, _ = choose_trigger_and_class(request, facts)
    trigger = (
        word if request.method in OF_NEW_WORDS or not request.kind else f"{word} {request.kind}"
    )
    sizes = (
        " to ".join((facts.sizes[0], facts.sizes[-1])) if len(facts.sizes) > 1 else facts.sizes[0]
    )
    captioned = {0: "none", facts.pictures: "all"}.get(facts.captioned, str(facts.captioned))
    captions = [
        "# Captions are those beside the pictures; this goes before captions that lack it.",
        f"trigger = {format_toml_literal(trigger)}",
    ]
    if not facts.captioned:
        captions = [
            "# Caption of every picture, because none has its own. Better: a text file with the",
            "# same name beside each picture that names what else is in it; then delete this line.",
            f"caption = {format_toml_literal(f'a photo of {thing}')}",
        ]
    elif reason := explain_missing_trigger(request, facts):
        captions = [f"# Captions are learned as they are: {reason}."]
    return {
        "next": head.splitlines(),
        "seen": [
            f"# {plural(facts.pictures, 'picture')}, {sizes}; {captioned} of them with a caption.",
            *(f"# {line}" for line in build_trigger_comment(request, facts)),
        ],
        "captions": captions,
        "masks": build_mask_lines(request, facts, trigger),
        "optional": build_optional_target_lines(request, facts, trigger),
        "held_out": HELD_OUT if has_enough_to_hold_out(facts) else [],
        "dora": ["dora = true"] if request.method == "dora" else [],
        "initial": [f", initial = {format_toml_literal(request.kind)}" if request.kind else ""],
    }


def build_picture_folder_lines(
    request: StarterConfigRequest, facts: PictureFolderStats, beside: Path
) -> list[str]:
    """Build the lines of [data] that name the pictures, with their masks or worse pictures."""
    folder = format_toml_literal(format_relative_path(beside, str(request.folder)))
    present = {"masks": facts.has_masks, "losers": facts.has_losers}
    places = [
        f"{key} = {format_toml_literal(format_relative_path(beside, str(request.folder / key)))}"
        for key in COMPANIONS
        if present[key]
    ]
    if not places:
        return [f"folder = {folder}"]
    return [f"subsets = [{{ {', '.join([f'folder = {folder}', *places])} }}]"]


def build_optional_target_lines(
    request: StarterConfigRequest, facts: PictureFolderStats, trigger: str
) -> list[str]:
    """Build the keys of [target] that pictures and method allow, mostly as comments."""
    lines = []
    if facts.has_losers:
        lines += [
            "# Trains on pairs; larger values keep the model nearer to its base.",
            "preference_beta = 2000",
        ]
    elif facts.has_masks or facts.has_alpha:
        lines += [
            "# Weight of aligning the attention map of data.masked_word with its mask; 0: none.",
            "# attention_weight = 0.1",
            "# Weight of each pixel of that map, relative to the share of it that is in the mask.",
            "# attention_pixel_weight = 1.0",
        ]
    if request.kind and request.method in PRESERVING:
        quoted_trigger = format_toml_literal(trigger)
        lines += [
            "# Keeps predictions for prompts without the new word near those of the base model.",
            "# preserve_weight = 1.0",
            "# Maps the new word to its replacement in captions.",
            f"# preserve_words = {{ {quoted_trigger} = {format_toml_literal(request.kind)} }}",
        ]
    return lines


def build_mask_lines(
    request: StarterConfigRequest, facts: PictureFolderStats, trigger: str
) -> list[str]:
    """Build the keys of [data] about masks as comments; none without masks."""
    if facts.has_losers or not (facts.has_masks or facts.has_alpha):
        return []
    lines = []
    if not facts.has_masks:
        lines = ["# Counts the loss only where pictures are opaque.", "# alpha_mask = true"]
    word = trigger if has_trigger_word(request) else request.kind or "cat"
    return [
        *lines,
        "# Word in the captions for what the masks show; the trigger by default.",
        f"# masked_word = {format_toml_literal(word)}",
    ]


def has_enough_to_hold_out(facts: PictureFolderStats) -> bool:
    """Return True if there are enough pictures to hold some out for validation."""
    return facts.pictures >= ENOUGH
