"""Starter config of `t2i train --init`, for a method and a folder of pictures.

Its text is composed from t2i/assets/train/pieces.toml, line by line, with the reasons.
"""

import os
from pathlib import Path
from shlex import quote

from t2i.atomic_files import NameTakenError, write_new_file
from t2i.terminal import plural
from train.data.pictures_config import SMALL_SIZE_LIMIT
from train.starter_config.options import (
    METHODS_WITH_NEW_WORDS,
    StarterConfigOptions,
    check_method_allows_preference_pairs,
    check_options,
)
from train.starter_config.picture_folder import (
    HINTS_FOLDER,
    PictureFolderStats,
    has_enough_pictures_to_hold_out,
    inspect_picture_folder,
    map_subset_keys_to_folders,
)
from train.starter_config.subject_words import (
    build_default_trigger_comment,
    choose_subject_words,
    explain_omitted_trigger,
    teaches_trigger_word,
)
from train.starter_config.template_text import (
    build_template_piece_lines,
    format_path_relative_if_below,
    format_toml_literal,
    load_template_pieces,
)
from train.starter_config.template_values import (
    CONTROL_METHODS,
    FAMILY_NAMES,
    MODEL_FAMILIES,
    TEMPLATE_PIECES_BY_METHOD,
    ModelFamily,
    TemplateValue,
    choose_method_dependent_values,
    choose_num_steps,
    detect_image_size,
    detect_model_family,
)

METHODS_OFFERED_PRESERVATION = ("full", "cross-attention", "lora", "dora", "pivotal")
"""Methods that change what other prompts draw, and have no class pictures against it."""
MIN_SIZE_SHARE = 0.75
"""Pictures with sides below this share of what the base draws are learned at that share."""
HELD_OUT_LINES = [
    "# Fraction of the pictures that is kept out of training, for [validation] at the end.",
    "held_out = 0.05",
]
ADAPTER_DIVISOR = 32
"""What a T2I-Adapter of the embedded model shrinks a picture by; buckets of larger models fit."""
ADAPTER_BUCKET_LINES = [
    "# The sides of the buckets are multiples of what the adapter shrinks a picture by.",
    f"bucket_step = {ADAPTER_DIVISOR}",
]
SAMPLE_PROMPT_PLACES: dict[ModelFamily, tuple[str, ...]] = {
    "embedded": ("{} on a blue background", "{} on a white background"),
    "sd": ("{} on a beach at sunset", "an oil painting of {}"),
    "sdxl": ("{} on a beach at sunset", "an oil painting of {}"),
}


def write_starter_config(options: StarterConfigOptions, out: Path) -> PictureFolderStats:
    """Write the starter config of a training run to a TOML file, made for a folder of pictures;
    return the statistics of these pictures.

    Raises NameTakenError if `out` exists, ArgumentError for options that do not fit.
    """
    check_options(options)
    if os.path.lexists(out):
        raise NameTakenError(out)
    facts = inspect_picture_folder(options.folder, with_hints=options.method in CONTROL_METHODS)
    check_method_allows_preference_pairs(options, facts)
    head = f"# Start and resume with: t2i train {quote(str(out))}"
    text = build_starter_config_text(options, facts, out.parent, head)
    write_new_file(out, lambda part: part.write_text(text, "utf-8"))
    return facts


def build_starter_config_text(
    options: StarterConfigOptions,
    facts: PictureFolderStats,
    beside: Path,
    head: str,
    *,
    hints: bool = False,
) -> str:
    """Return the TOML text of a starter config for training on a folder of pictures; paths in it
    are relative to the folder `beside`.

    hints : add comments with the values for other base models
    """
    family = detect_model_family(options.base)
    values = choose_method_dependent_values(
        options.method, family
    ) | choose_picture_dependent_values(options, facts, family, beside)
    others = [other for other in MODEL_FAMILIES if hints and other != family]
    elsewhere = {
        FAMILY_NAMES[other]: choose_method_dependent_values(options.method, other)
        for other in others
    }
    for other in others:
        batch_size = int(str(elsewhere[FAMILY_NAMES[other]]["batch_size"]))
        steps = choose_num_steps(other, facts.pictures, batch_size, options.method)
        elsewhere[FAMILY_NAMES[other]]["steps"] = steps
    target = "target control" if options.method in CONTROL_METHODS else "target"
    names = [f"about {options.method}", target, *TEMPLATE_PIECES_BY_METHOD[options.method]]
    names += ["validation"] * has_enough_pictures_to_hold_out(facts)
    if family == "sdxl":
        # Its second encoder reads along: tying a word to a thing is left to the denoiser.
        names = [name for name in names if name != "part lora text"]
    lines = build_template_blocks(options, facts, head) | {
        "source": build_picture_folder_lines(options, facts, beside)
    }
    filled = [
        "\n".join(
            build_template_piece_lines(load_template_pieces()[name], values, lines, elsewhere)
        )
        for name in names
    ]
    return "\n\n".join([f"{filled[0]}\n{filled[1]}", *filled[2:]]) + "\n"


def choose_picture_dependent_values(
    options: StarterConfigOptions, facts: PictureFolderStats, family: ModelFamily, beside: Path
) -> dict[str, TemplateValue]:
    """Choose the values of a starter config that depend on the pictures: size, steps, word,
    prompts.
    """
    word, thing, kind = choose_subject_words(options)
    size = detect_image_size(options.base, family)
    if size >= SMALL_SIZE_LIMIT and facts.side < MIN_SIZE_SHARE * size:
        size = int(size * MIN_SIZE_SHARE) // 64 * 64
    batch_size = int(str(choose_method_dependent_values(options.method, family)["batch_size"]))
    named = [
        f"a photo of {thing}",
        *(place.format(thing) for place in SAMPLE_PROMPT_PLACES[family]),
    ]
    examples = (
        [*facts.captions[:3]] if facts.captions and not teaches_trigger_word(options) else named
    )
    return {
        "base": format_path_relative_if_below(beside, options.base)
        if Path(options.base).exists()
        else options.base,
        "size": size,
        "steps": choose_num_steps(family, facts.pictures, batch_size, options.method),
        "method": options.method,
        "word": word,
        "class_phrase": kind,
        "class_caption": f"a photo of {kind}",
        "prompts": [*examples, f"a photo of {kind}"],
    }


def build_template_blocks(
    options: StarterConfigOptions, facts: PictureFolderStats, head: str
) -> dict[str, list[str]]:
    """Return the lines of each block of the starter config's template, by the block's name."""
    word, thing, _ = choose_subject_words(options)
    trigger = (
        word
        if options.method in METHODS_WITH_NEW_WORDS or not options.kind
        else f"{word} {options.kind}"
    )
    sizes = (
        " to ".join((facts.sizes[0], facts.sizes[-1])) if len(facts.sizes) > 1 else facts.sizes[0]
    )
    captioned = {0: "none", facts.pictures: "all"}.get(facts.captioned, str(facts.captioned))
    captions = [
        "# Captions are those beside the pictures; this goes before captions that lack it.",
        f"trigger = {format_toml_literal(trigger)}",
    ]
    if options.method in CONTROL_METHODS:
        captions = build_control_caption_lines(facts)
    elif not facts.captioned:
        captions = [
            "# Caption of every picture, because none has its own. Better: a text file with the",
            "# same name beside each picture that names what else is in it; then delete this line.",
            f"caption = {format_toml_literal(f'a photo of {thing}')}",
        ]
    elif reason := explain_omitted_trigger(options, facts):
        captions = [f"# Captions are learned as they are: {reason}."]
    return {
        "next": head.splitlines(),
        "seen": [
            f"# {plural(facts.pictures, 'picture')}, {sizes}; {captioned} of them with a caption.",
            *(f"# {line}" for line in build_default_trigger_comment(options)),
        ],
        "captions": captions,
        "hint": build_hint_function_lines(options, facts),
        "masks": build_mask_lines(options, facts, trigger),
        "optional": build_optional_target_lines(options, facts, trigger),
        "bucket_step": ADAPTER_BUCKET_LINES if needs_adapter_bucket_step(options) else [],
        "held_out": HELD_OUT_LINES if has_enough_pictures_to_hold_out(facts) else [],
        "dora": ["dora = true"] if options.method == "dora" else [],
        "initial": [f", initial = {format_toml_literal(options.kind)}" if options.kind else ""],
    }


def needs_adapter_bucket_step(options: StarterConfigOptions) -> bool:
    """Return whether the default buckets of a small model are too fine for a T2I-Adapter."""
    size = detect_image_size(options.base, detect_model_family(options.base))
    is_small = size < SMALL_SIZE_LIMIT and size % ADAPTER_DIVISOR == 0
    return options.method == "t2i-adapter" and is_small


def build_picture_folder_lines(
    options: StarterConfigOptions, facts: PictureFolderStats, beside: Path
) -> list[str]:
    """Return the lines of a starter config's [data] table that name the folders of pictures, and of
    masks or worse pictures of pairs.
    """
    places = [
        f"{key} = {format_toml_literal(format_path_relative_if_below(beside, str(path)))}"
        for key, path in map_subset_keys_to_folders(
            options.folder, with_hints=options.method in CONTROL_METHODS
        ).items()
    ]
    return places if len(places) == 1 else [f"subsets = [{{ {', '.join(places)} }}]"]


def build_hint_function_lines(
    options: StarterConfigOptions, facts: PictureFolderStats
) -> list[str]:
    """Return the lines of a starter config's [data] table that choose a hint function; none if
    there are hint files or no control is trained.
    """
    if options.method not in CONTROL_METHODS or facts.has_hints:
        return []
    return [
        "# Hint that is made of each picture: canny, soft-edge, lines or colours. For others, as",
        f"# depth, put one for each picture, of its name, into a folder {HINTS_FOLDER!r} within",
        "# the folder of the pictures, and write this file again.",
        'hint = "canny"',
    ]


def build_control_caption_lines(facts: PictureFolderStats) -> list[str]:
    """Return the comment lines of a starter config's [data] table about captions when a control is
    trained.
    """
    if facts.captioned == facts.pictures:
        return ["# Captions are those beside the pictures."]
    return [
        "# Pictures without a caption are learned with the empty one. Better: a text file with the",
        "# same name beside each picture that says what it shows.",
    ]


def build_optional_target_lines(
    options: StarterConfigOptions, facts: PictureFolderStats, trigger: str
) -> list[str]:
    """Return the lines of a starter config's [target] table for keys that pictures and method
    allow, mostly commented out.
    """
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
    if options.kind and options.method in METHODS_OFFERED_PRESERVATION:
        quoted_trigger = format_toml_literal(trigger)
        lines += [
            "# Keeps predictions for prompts without the new word near those of the base model.",
            "# preserve_weight = 1.0",
            "# Maps the new word to its replacement in captions.",
            f"# preserve_words = {{ {quoted_trigger} = {format_toml_literal(options.kind)} }}",
        ]
    return lines


def build_mask_lines(
    options: StarterConfigOptions, facts: PictureFolderStats, trigger: str
) -> list[str]:
    """Return the commented lines about masks in a starter config's [data] table; none for pictures
    without masks or transparency, for preference pairs and for controls.
    """
    if facts.has_losers or not (facts.has_masks or facts.has_alpha):
        return []
    if options.method in CONTROL_METHODS:
        return []
    lines = []
    if not facts.has_masks:
        lines = ["# Counts the loss only where pictures are opaque.", "# alpha_mask = true"]
    word = trigger if teaches_trigger_word(options) else options.kind or "cat"
    return [
        *lines,
        "# Word in the captions for what the masks show; the trigger by default.",
        f"# masked_word = {format_toml_literal(word)}",
    ]
