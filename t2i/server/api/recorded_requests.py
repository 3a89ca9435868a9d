"""The job that draws a picture again, from what its metadata say; and what such a job cannot do."""

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

from t2i.cli.metadata.parsed_metadata import ImageMetadata
from t2i.cli.request.control_files import ControlFilesAndSettings
from t2i.cli.request.digests import compute_file_sha256, compute_model_digest
from t2i.cli.request.input_files import InputFile
from t2i.cli.request.prompt_edits import EditedPrompts
from t2i.cli.request.prompt_loras import remove_network_tags
from t2i.cli.request.request import Request
from t2i.denoiser.loading.model_location import locate_control_network
from t2i.denoiser.presets import EXACT
from t2i.server.catalogue import Catalogue
from t2i.server.jobs.job import JobKind

RESTORED_FIELDS = {
    *("prompt", "negative_prompt", "model", "num_inference_steps", "guidance_scale", "sampler"),
    *("width", "height", "grammar", "guidance_method", "loras", "embeddings", "image", "mask"),
    *("strength", "upscale", "edited", "inversion", "regions", "controls"),
    *("references", "preset"),
}
"""Fields of a request that jobs can repeat; a picture with any other says so by name."""


@dataclass(slots=True)
class ReproductionJob:
    """Server job rebuilt from the metadata of a picture, which draws the picture again; with the
    pictures to upload for it and what could not be restored.

    pictures : that have to be uploaded for it, (field of the request, file); of the first control
        "controls.0.image" and "controls.0.mask", of the reference picture "reference.image"
    not_restored : what the picture was made with beside that, by name
    """

    kind: JobKind
    values: dict[str, Any] = field(default_factory=dict)
    pictures: list[tuple[str, InputFile]] = field(default_factory=list)
    not_restored: list[str] = field(default_factory=list)


@lru_cache(maxsize=64)
def get_cached_model_digest(folder: Path) -> str:
    """Return the SHA-256 digest of a model or network that the server lists, computed once and then
    cached: the list is made when the server starts.
    """
    return compute_model_digest(folder)


def find_model_digest(request: Request, catalogue: Catalogue) -> str | None:
    """Return the SHA-256 digest of the model that a request names; None if the server does not list
    the model.
    """
    folder = catalogue.models.get(request.model)
    return None if folder is None else get_cached_model_digest(folder)


def build_reproduction_job(
    metadata: ImageMetadata, request: Request, catalogue: Catalogue
) -> ReproductionJob:
    """Build from a picture's metadata the server job that draws the picture again, without its
    seed.

    Files that it was made with are taken where the server lists one of the same name.
    """
    prompt = request.prompt
    if metadata.request is None and request.grammar != "plain":
        prompt = remove_network_tags(prompt)
    job = ReproductionJob("generate")
    by_preset = _is_repeated_by_preset(request, catalogue)
    for one in fields(request):
        given = getattr(request, one.name)
        default = one.default_factory() if one.default_factory is not MISSING else one.default
        if one.name == "cache" and by_preset:
            continue
        if one.name not in RESTORED_FIELDS and given != default:
            job.not_restored.append(one.name.replace("_", " "))
    own = metadata.request is not None  # other tools' models have no names here
    if own and request.model not in catalogue.models:
        job.not_restored.append(f"the model {request.model}")
    values: dict[str, Any] = {
        "negative_prompt": request.negative_prompt,
        "model": request.model if own and request.model in catalogue.models else None,
        "steps": request.num_inference_steps,
        "guidance_scale": request.guidance_scale,
        "sampler": request.sampler,
        "width": request.width,
        "height": request.height,
        "grammar": request.grammar,
        "guidance_method": request.guidance_method,
        "preset": request.preset.name if request.preset is not None and by_preset else None,
        "loras": [
            {"name": name, "scale": file.scale}
            for file in request.loras
            if not (by_preset and file.in_model is not None)
            and (name := _find_listed(file, catalogue.loras, "LoRA", job)) is not None
        ],
        "embeddings": [
            {"name": name, "token": file.token}
            for file in request.embeddings
            if (name := _find_listed(file, catalogue.embeddings, "embedding", job)) is not None
        ],
    }
    job.pictures = [
        (name, file) for name in ("image", "mask") if (file := getattr(request, name)) is not None
    ]
    values["controls"] = [
        _describe_control(control, name, number, job)
        for number, (control, name) in enumerate(_find_listed_controls(request, catalogue, job))
    ]
    if request.inversion is not None:
        values |= {"method": request.inversion.method, "fit": request.inversion.fit}
    if request.edited is not None:
        job.kind = "edit"
        if request.inversion is not None:
            values["full_size"] = request.inversion.full_size or None
        values |= _describe_edit(request.edited, job)
    elif request.inversion is not None:
        job.kind = "invert"
        values["prompt"] = prompt
    else:
        upscale = None if request.upscale is None else request.upscale.option_value
        values |= {"prompt": prompt, "strength": request.strength, "upscale": upscale}
        values["regions"] = [asdict(region) for region in request.regions]
        for reference in request.references:
            job.pictures.append(("reference.image", reference.picture))
            values["reference"] = {
                "prompt": reference.prompt,
                "scale": reference.scale,
                "steps": list(reference.steps),
            }
    job.values = {key: value for key, value in values.items() if value not in (None, "", [], {})}
    return job


def _is_repeated_by_preset(request: Request, catalogue: Catalogue) -> bool:
    """Return True if the preset that a picture was made with has still the caches, the guidance and
    the LoRAs of the picture, so that its name stands for them.
    """
    if request.preset is None or request.model not in catalogue.models:
        return False
    folder, presets = catalogue.models[request.model], catalogue.read_presets(request.model)
    if request.preset.name not in (EXACT, *presets.by_name):
        return False
    preset = presets.get(request.preset.name)
    own = {lora.path: (lora.scale, folder / lora.path) for lora in preset.loras}
    recorded = [lora for lora in request.loras if lora.in_model is not None]
    same = len(recorded) == len(own) and all(
        lora.path in own
        and own[lora.path][0] == lora.scale
        and own[lora.path][1].is_file()
        and lora.sha256 in (None, compute_file_sha256(own[lora.path][1]))
        for lora in recorded
    )
    fills_method = request.guidance_method is None and preset.guidance_method is not None
    return same and preset.cache == request.cache and not fills_method


def _find_listed(
    file: InputFile, known: Mapping[str, Path], noun: str, job: ReproductionJob
) -> str | None:
    """Return the listed name of a recorded file; None for one that is not listed, which is named.

    Of several files of one name that with the recorded contents is taken.
    """
    stem, own_name = Path(file.path).stem, Path(file.path).name  # a folder's has no suffix
    found = [name for name in known if Path(name).name in (stem, own_name)]
    same = [name for name in found if file.sha256 in (None, _compute_digest(known[name]))]
    if not same:
        what = "has other contents here" if found else "is not among the server's"
        job.not_restored.append(f"the {noun} {stem}, which {what}")
    return same[0] if same else None


def _compute_digest(path: Path) -> str:
    """Return the SHA-256 of a file, or of a folder with a network, as metadata records it."""
    place = locate_control_network(str(path))  # one of the package has its name as path
    return get_cached_model_digest(place) if place.is_dir() else compute_file_sha256(place)


def _find_listed_controls(
    request: Request, catalogue: Catalogue, job: ReproductionJob
) -> list[tuple[ControlFilesAndSettings, str]]:
    """Return the controls of a request whose networks the server lists, with their listed names."""
    found = [
        (control, _find_listed(control.model, catalogue.controls, "control", job))
        for control in request.controls
    ]
    return [(control, name) for control, name in found if name is not None]


def _describe_control(
    control: ControlFilesAndSettings, name: str, number: int, job: ReproductionJob
) -> dict[str, Any]:
    """Return a control of a job without its uploads, which are added to the job's pictures.

    number : among the controls of the job
    """
    job.pictures.append((f"controls.{number}.image", control.picture))
    if control.mask is not None:
        job.pictures.append((f"controls.{number}.mask", control.mask))
    values = {"name": name, "scale": control.scale, "steps": list(control.steps)}
    values |= {"mode": control.mode, "blocks": list(control.blocks or ()), "type": control.type}
    return {key: value for key, value in values.items() if value not in (None, [])}


def _describe_edit(edited: EditedPrompts, job: ReproductionJob) -> dict[str, Any]:
    """Return the fields of a job that edits as a picture was edited, of its own target alone."""
    # Here, for they import torch, which most requests need much later.
    from t2i.attention.edits.base.word_edit import SourceMapEdit
    from t2i.attention.edits.local_blend import LocalBlend
    from t2i.attention.edits.regions import Regions
    from t2i.attention.edits.registry import to_dict
    from t2i.attention.edits.reweight import Reweight
    from t2i.attention.edits.self_replace import SelfReplace
    from t2i.attention.prompts.prompt_tokens import as_word_tuple

    target = edited.picture or len(edited.prompts) - 1
    values: dict[str, Any] = {
        "source_prompt": edited.prompts[0],
        "targets": [edited.prompts[target]],
        "cross_replace": 0.0,
        "self_replace": 0.0,
        "blend": "none",
    }
    if edited.earlier:
        job.not_restored.append("edits of the photo before this one")
    for edit in edited.parse_edits():
        name = to_dict(edit)["edit"]
        if getattr(edit, "target", target) != target:
            continue
        plain = edit.sites is None and edit.heads is None and not getattr(edit, "words", None)
        window = _describe_window(edit.steps)
        match edit:
            case SourceMapEdit(source=0) if plain and window is not None:
                values |= {"cross_replace": window, "alignment": dict(edit.alignment)}
            case Reweight(source=0) if plain and window is not None:
                values |= {"cross_replace": window, "weights": dict(edit.weights)}
            case SelfReplace(source=0) if plain and window is not None:
                values["self_replace"] = window
            case LocalBlend() if all(edit.words) and edit == LocalBlend(
                target=target, words=edit.words
            ):
                sides = ["+".join(as_word_tuple(side)) for side in edit.words]
                values["blend"] = ",".join(sides)
            case Regions() if edit == Regions(edit.regions, target=target) and all(
                region.box is not None for region in edit.regions
            ):
                values["regions"] = [
                    {"words": word, "box": list(region.box or ())}
                    for region in edit.regions
                    for word in as_word_tuple(region.words)
                ]
            case _:
                job.not_restored.append(f"the edit {name} as it is recorded")
    return values


def _describe_window(steps: Any) -> list[float] | None:
    """Return a window of steps as shares of the run; None for numbers of steps."""
    if steps is None:
        return [0.0, 1.0]
    return list(steps) if all(isinstance(edge, float) for edge in steps) else None
