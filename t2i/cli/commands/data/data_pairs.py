"""`t2i data pairs`: generate preference pairs with a model, judged by a second recogniser."""

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from t2i.cli.output import FormatOption, print_json, print_remark
from t2i.errors import ArgumentError, DataError
from t2i.terminal import plural, print_result_line

if TYPE_CHECKING:
    from t2i.evaluate.preferences.pair_generation import PreferencePairGenerator
    from t2i.evaluate.result_folder import ResultFolder

DEFAULT_SEED = 80001
"""Seed of the scenes whose captions are drawn; no suite and no training run has it."""

ModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="A name of `t2i models`, a folder or a file.")
]
OutOption = Annotated[Path, typer.Option(metavar="FOLDER", help="Where the pairs go.")]
NumOption = Annotated[int, typer.Option(min=1, max=1_000_000, help="How many pairs.")]
PerCaptionOption = Annotated[
    int, typer.Option(min=2, max=64, help="Pictures drawn for each caption.")
]
SeedOption = Annotated[int, typer.Option(min=0, help="Seed of the captions and of the noise.")]
RecogniserOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="The judge: not the one of `t2i evaluate`.",
        show_default="runs/second-recogniser/model",
    ),
]


def generate_preference_pairs(
    model: ModelArgument,
    out: OutOption,
    num: NumOption = 100,
    seed: SeedOption = DEFAULT_SEED,
    per_caption: PerCaptionOption = 4,
    recogniser: RecogniserOption = None,
    format: FormatOption = "text",
) -> None:
    """Draw pairs of right and wrong pictures with MODEL, to train on; print the path of their list.

    Captions are those of training scenes. In the folder: win/ and lose/, the pictures and captions;
    pairs.jsonl, their list; records.jsonl, every caption with the seeds and verdicts of all its
    pictures. The same command continues where it was stopped.
    """
    from t2i.accelerate_state import isolated_torch_rng
    from t2i.evaluate.preferences.pair_generation import PAIRS_UNIT_NAME, write_pairs_file
    from t2i.evaluate.progress import showing_progress
    from t2i.evaluate.suite import list_seeds_of_all_suites
    from t2i.library_messages import quieting_libraries
    from t2i.run_folder import locking_folder

    if seed in list_seeds_of_all_suites():
        raise ArgumentError(
            f"--seed {seed} is a seed of `t2i evaluate`: a model that was trained on its scenes "
            f"cannot be measured by them any more. Choose another, as {DEFAULT_SEED}."
        )
    with ExitStack() as held:
        held.enter_context(locking_folder(out))
        held.enter_context(quieting_libraries())
        held.enter_context(isolated_torch_rng())
        generator, store = _prepare_generation(model, out, seed, per_caption, recogniser)
        for change in store.library_changes:
            print_remark(f"Warning: since the first pairs {change}: others may differ slightly.")
        try:
            with showing_progress({PAIRS_UNIT_NAME: num}) as report:
                found = generator.generate_and_save_pairs(num, store, report)
        except KeyboardInterrupt:
            write_pairs_file(store)
            print_remark("Interrupted: finished pairs are kept. The same command continues.")
            raise typer.Exit(130) from None
        path = write_pairs_file(store)
    captions = len(store.finished_units)
    if not found:
        raise DataError(
            f"No pair among the pictures of {plural(captions, 'caption')}: none has both a right "
            "and a wrong one. Draw more of each, as --per-caption 16, with a model that is "
            "sometimes right."
        )
    if found < num:
        print_remark(
            f"Warning: {plural(found, 'pair')} of {num} wanted, in {plural(captions, 'caption')}: "
            "of most, all pictures are right, or all wrong. --per-caption 16 finds more."
        )
    if format == "json":
        print_json({"path": str(path), "pairs": found, "captions": captions, "seed": seed})
    else:
        print_result_line(path)


def _prepare_generation(
    model: str, out: Path, seed: int, per_caption: int, recogniser: Path | None
) -> "tuple[PreferencePairGenerator, ResultFolder]":
    """Return the loaded model with its judge, and the folder in which pairs are begun or
    continued.
    """
    from t2i import __version__
    from t2i.cli.generation.loaded_request import load_model_with_defaults
    from t2i.cli.metadata.writing import read_library_versions
    from t2i.cli.request.digests import compute_model_digest
    from t2i.denoiser.families import sd
    from t2i.denoiser.loading.model_location import locate_model
    from t2i.evaluate.preferences.pair_generation import PreferencePairGenerator
    from t2i.evaluate.preferences.second_recogniser import (
        SECOND_RECOGNISER_FOLDER,
        compute_weights_digest,
        load_pair_judge,
    )
    from t2i.evaluate.promptable_objects import find_promptable_objects
    from t2i.evaluate.result_folder import ResultFolder
    from t2i.evaluate.scene_splits import MAX_OBJECTS_IN_SCENE
    from t2i.scenes.scenes import SceneDataset, SceneDatasetConfig

    path = locate_model(model)
    judging = recogniser or SECOND_RECOGNISER_FOLDER
    judge = load_pair_judge(judging)
    known = find_promptable_objects(path, judge)
    loaded = load_model_with_defaults(path)
    generator = PreferencePairGenerator(
        pipe=loaded.pipe,
        recogniser=judge.to(loaded.pipe.device),
        scenes=SceneDataset(
            SceneDatasetConfig(
                size=sd.default_height_and_width(loaded.pipe.unet, loaded.pipe.vae)[0],
                seed=seed,
                vocabulary=known.objects,
                max_objects=min(known.max_at_once, MAX_OBJECTS_IN_SCENE),
            )
        ),
        steps=loaded.steps,
        guidance_scale=loaded.guidance_scale,
        per_caption=per_caption,
    )
    identity = {
        "kind": "preference pairs",
        "model": {"name": model, "digest": compute_model_digest(path)},
        "recogniser": compute_weights_digest(judging),
        "seed": seed,
        "per_caption": per_caption,
        "sampling": {
            "steps": generator.steps,
            "guidance_scale": generator.guidance_scale,
            "sampler": loaded.sampler,
        },
        "libraries": {"t2i": __version__, **read_library_versions(("torch", "diffusers"))},
    }
    return generator, ResultFolder(out, identity, noun="set of pairs")
