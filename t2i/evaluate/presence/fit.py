"""`python -m t2i.evaluate.presence.fit MODEL`: fit `HeatMaps.found` to a model's weights.

Draws captions of scenes, reads the heat maps of their objects, and fits the probability that an
object is in the picture to what the recogniser finds. Writes presence.json into the model's folder,
and a report beside the records. The same command continues where it was stopped.
"""

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipelines.text_to_image import TextToImagePipeline
from t2i.accelerate_state import default_device, isolated_torch_rng
from t2i.atomic_files import write_atomically
from t2i.attention.probes.presence import PresenceFit, compute_attention_fingerprint
from t2i.denoiser.loading.model_location import PRESENCE_FILE, locate_model
from t2i.denoiser.sampling_defaults import parse_sampling_defaults
from t2i.denoiser.schedulers import build_scheduler
from t2i.environment_info import collect_environment_info
from t2i.errors import ArgumentError, T2IError
from t2i.evaluate.optional_imports import check_extra_installed
from t2i.evaluate.preferences.second_recogniser import compute_weights_digest
from t2i.evaluate.presence.part import HeatMapPresenceConfig, HeatMapPresencePart
from t2i.evaluate.progress import showing_suite_progress
from t2i.evaluate.promptable_objects import find_promptable_objects
from t2i.evaluate.result_folder import ResultFolder
from t2i.evaluate.run import measure_parts, write_result_files
from t2i.evaluate.scene_splits import SceneSplitConfig
from t2i.evaluate.suite_part import EvaluationContext
from t2i.library_messages import quieting_libraries
from t2i.run_folder import locking_folder
from t2i.scenes.recogniser import DEFAULT_FOLDER, Recogniser
from t2i.scenes.sprites import load_object_entries_by_name
from t2i.terminal import print_note_to_stderr, print_result_line

DEFAULT_COUNT = 200
LIBRARIES = ("torch", "diffusers")
REPORTED_HEADS = ("area under ROC", "missing noticed", "false alarms")
"""Columns of the report that presence.json repeats."""


def fit_presence_of_model(model: str, count: int, out: Path, recogniser: Path) -> Path:
    """Fit presence to a model, write its presence.json and a report; return the path of the former.

    count : number of pictures to fit to; as many again test the fit
    out : folder of the records and the report, begun or continued
    recogniser : folder of the recogniser that judges the pictures

    Raises T2IError: a model that is one file, too few objects, nothing missing in any picture.
    """
    check_extra_installed()
    path = locate_model(model)
    if path.is_file():
        raise ArgumentError(
            f"{path} is one file: {PRESENCE_FILE} lies in a model's folder. Convert it with "
            "t2i convert."
        )
    half = max(1, count // 2)
    defaults = HeatMapPresenceConfig()
    config = HeatMapPresenceConfig(
        fit=SceneSplitConfig(seed=defaults.fit.seed, count=count),
        seen=SceneSplitConfig(seed=defaults.seen.seed, count=half),
        held_out=SceneSplitConfig(seed=defaults.held_out.seed, count=half),
    )
    with ExitStack() as held:
        held.enter_context(locking_folder(out))
        held.enter_context(quieting_libraries())
        held.enter_context(isolated_torch_rng())
        pipe, sampler = _load_pipeline(path)
        facts: dict[str, Any] = {
            "model": {"name": model, "digest": compute_attention_fingerprint(pipe)},
            "recogniser": compute_weights_digest(recogniser),
            "config": config.model_dump(mode="json"),
            "libraries": {name: version(name) for name in ("t2i", *LIBRARIES)},
        }
        store = ResultFolder(out, facts, noun="fit")
        part = HeatMapPresencePart(config, _build_context(path, pipe, recogniser, store))
        with showing_suite_progress([part]) as report:
            measure_parts([part], store, report)
        facts |= {
            "command": f"python -m t2i.evaluate.presence.fit {model} --count {count}",
            "machine": collect_environment_info(),
        }
        document = write_result_files([part], store, facts)
        fit = part.fit_presence(store.get_part_records(part.name))
    made = {
        "recogniser": facts["recogniser"],
        "pictures": count,
        "steps": part.context.steps,
        "guidance_scale": part.context.guidance_scale,
        "sampler": sampler,
        "on_other_scenes": _summarise_table(document),
    }
    words = list_object_words(part.context.objects)
    return _write_fit(fit.model_copy(update={"words": words, "made": made}), path / PRESENCE_FILE)


def _load_pipeline(path: Path) -> tuple[TextToImagePipeline, str]:
    """Return the model with the sampler that its notes recommend, and the sampler's name."""
    pipe = TextToImagePipeline.from_pretrained(path)
    sampler = parse_sampling_defaults(pipe.notes).sampler
    if sampler is not None and sampler != type(pipe.scheduler).__name__:
        pipe.scheduler = build_scheduler(sampler, pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)  # type: ignore[no-untyped-call]  # diffusers'
    return pipe.to(default_device()), sampler or type(pipe.scheduler).__name__


def _build_context(
    path: Path, pipe: TextToImagePipeline, recogniser: Path, store: ResultFolder
) -> EvaluationContext:
    """Return the context of the part: captions name one object more than training showed."""
    judge = Recogniser.load(recogniser)
    known = find_promptable_objects(path, judge)
    defaults = pipe.defaults
    return EvaluationContext(
        pipe=pipe,
        recogniser=judge.to(pipe.device),
        objects=known.objects,
        max_objects=known.max_at_once + 1,
        steps=int(defaults["num_inference_steps"]),
        guidance_scale=float(defaults["guidance_scale"]),
        save_picture=store.save_picture,
    )


def list_object_words(objects: Sequence[str]) -> tuple[str, ...]:
    """Return the words that captions have for objects: their names and other names, sorted."""
    entries = load_object_entries_by_name()
    others = {other for name in objects for other in entries[name].synonyms}
    return tuple(sorted({*objects, *others}))


def _summarise_table(document: dict[str, Any]) -> dict[str, dict[str, float | None]]:
    """Return the figures of the report's table that presence.json repeats, by row."""
    rows = document["chapters"]["presence"]["blocks"]["presence"]["rows"]
    return {
        row["label"]: {
            head: None if row["cells"][head] is None else round(row["cells"][head]["value"], 4)
            for head in REPORTED_HEADS
        }
        for row in rows
    }


def _write_fit(fit: PresenceFit, path: Path) -> Path:
    text = fit.model_dump_json(indent=1) + "\n"
    write_atomically(path, lambda part: part.write_text(text, "utf-8"))
    return path


def main() -> None:
    """Fit presence to a model, from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="a name of `t2i models`, or a folder")
    parser.add_argument(
        "--count",
        type=int,
        default=DEFAULT_COUNT,
        help="pictures to fit to; as many again test the fit (default: %(default)s)",
    )
    parser.add_argument("--out", type=Path, help="folder of the records and the report")
    parser.add_argument(
        "--recogniser", type=Path, default=DEFAULT_FOLDER, help="folder of the judge"
    )
    given = parser.parse_args()
    out = given.out or Path("outputs") / f"presence-{Path(given.model).name}"
    try:
        if given.count < 1:
            raise ArgumentError(f"Got --count {given.count}, expected at least 1.")
        print_result_line(fit_presence_of_model(given.model, given.count, out, given.recogniser))
    except T2IError as error:
        print_note_to_stderr(f"{type(error).__name__}: {error}")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print_note_to_stderr("Interrupted: the same command continues.")
        sys.exit(130)


if __name__ == "__main__":
    main()
