"""A recorded source run, which its later edits read instead of computing the source again.

For every step it holds the latents, and for each site the source's query and key in the branch
"cond"; for edits that copy rows in every branch, also values and other branches.

N heads, Q query positions, K key positions, E width of a head, C channels, H W latent size,
Y X image size.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from pipelines.images.photo import Photo, pixel_tensor_to_pil_image
from pipelines.images.photo_tensors import (
    fitting_to_dict,
    photo_from_tensors,
    photo_to_tensors,
)
from pipelines.inversion.inversion_psnr import InversionPSNR
from pipelines.inversion.noise_levels import SamplerStepCoefficients
from pipelines.inversion.null_text import UncondScheduleCallback
from pipelines.inversion.path_scheduler import AddResidualsCallback, PrecomputedStepScheduler
from pipelines.prompt_to_prompt.automatic_edits import get_cond_text_at_step
from pipelines.prompt_to_prompt.photo_blending import (
    KeepUnmaskedOnPathCallback,
    compute_changed_pixel_weights,
    restore_unchanged_pixels,
)
from pipelines.prompt_to_prompt.recording import (
    END_FILE,
    RECORDING_MANIFEST_NAME,
    START_FILE,
    RecordedSteps,
    list_recorded_file_names,
    read_step_file,
)
from pipelines.run.argument_checks import check_path_type
from pipelines.run.call_state import CallOverrides
from pipelines.run.run_provenance import RunProvenance, prompt_from_json, prompt_to_json
from t2i.atomic_folders import restore_folder_from_backup
from t2i.attention.compute.recorded_rows import RecordedAttentionInputs
from t2i.attention.site import Site, site_from_dict
from t2i.controls.control import Control
from t2i.errors import ArgumentError, DataError
from t2i.safe_reading import RUN_FILE_KIND, open_regular_file, parse_json, read_bounded
from t2i.text.prompt import Prompt
from t2i.text.token_windows import EncoderInput

RECORDING_FORMAT_VERSION = 2


@dataclass(slots=True)
class RecordedSource:
    """Recorded run of a source, given to PromptEditPipeline instead of the source prompt.

    facts : model, prompt, sampler and all settings of the run, which edits of it take over
    state : state of the generator before anything was drawn
    noise : starting latents, if they were given or found by an inversion
    pixels : (1, 3, Y, X) in -1..1
    path_steps : sampler steps of the targets of an inverted picture, else empty
    photo : that was inverted, else None
    controls : of the run; none of a source that was loaded, see `add_controls_to_source`
    """

    prompt: str | Prompt
    facts: RunProvenance
    steps: RecordedSteps
    state: Tensor
    noise: Tensor | None
    latents: Tensor
    pixels: Tensor
    path_steps: tuple[SamplerStepCoefficients, ...] = ()
    photo: Photo | None = None
    controls: tuple[Control, ...] = ()
    _branches: tuple[int, tuple[str, ...]] | None = field(
        default=None, init=False, repr=False, compare=False
    )
    """Branches of the step that was read last."""

    @property
    def image(self) -> Image.Image:
        """Image of the recorded source, at the model's size."""
        return pixel_tensor_to_pil_image(self.pixels)

    @property
    def photo_pixels(self) -> Tensor | None:
        """Pixels (1, 3, Y, X) in -1..1 of the inverted photo at the model's size, else None."""
        return None if self.photo is None else self.photo.pixels

    @property
    def mask(self) -> Tensor | None:
        """Mask (1, 1, Y, X) of the inverted photo, 1 where edits may change it, else None."""
        return None if self.photo is None else self.photo.mask_pixels

    @property
    def bytes(self) -> int:
        """Size of the recorded steps in bytes, in memory or on disk."""
        return self.steps.bytes

    @property
    def text_sites(self) -> tuple[Site, ...]:
        """Sites that attend to the text; DataError for a source recorded without them."""
        if "text_sites" not in self.facts:
            raise DataError(
                "This source was recorded without the sizes of its sites, by an earlier t2i: "
                "record it again to read heat maps from it."
            )
        return tuple(map(site_from_dict, self.facts["text_sites"]))

    @property
    def error(self) -> InversionPSNR | None:
        """Error of an inverted picture; None for a source that the model generated."""
        error = self.facts.get("error")
        return None if error is None else InversionPSNR(**error)

    def call_overrides(self, pipe: Any) -> CallOverrides | None:
        """Return scheduler and callbacks for targets of an inversion or earlier edit, else None."""
        first = self.steps[0]
        residual_at = self.residual_at if "residual" in first else None
        if not self.path_steps:
            if residual_at is None:
                return None
            return CallOverrides(None, [AddResidualsCallback(residual_at)])
        scheduler = PrecomputedStepScheduler(pipe.scheduler, self.path_steps, residual_at)
        uncond = [UncondScheduleCallback(self.uncond_embedding_at)] if "uncond" in first else []
        mask_11YX = self.mask
        kept = (
            []
            if mask_11YX is None
            else [KeepUnmaskedOnPathCallback(self.path_latents_after_step, mask_11YX)]
        )
        return CallOverrides(scheduler, [*uncond, *kept])

    def restore_unchanged_pixels(self, pixels_B3YX: Tensor, latents_BCHW: Tensor) -> Tensor:
        """Return the pixels of edits of a photo with its own where nothing may or did change:
        outside of its mask, and where a blend by words left the latents as they are.

        Of a source that is an edit of a photo, its own are that edit's. Of a generated source the
        pixels are returned unchanged.
        """
        if self.photo is None:
            return pixels_B3YX
        own_13YX = self.pixels if "edit_of" in self.facts else self.photo.pixels
        height, width = own_13YX.shape[-2:]
        weights_B1YX = compute_changed_pixel_weights(latents_BCHW, self.latents, (height, width))
        return restore_unchanged_pixels(pixels_B3YX, own_13YX, weights_B1YX, self.mask)

    def paste_edit(self, image: Image.Image) -> Image.Image:
        """Return the photo at its own size with what an edit's image changes of the source.

        See `Photo.paste_edit`. Raises ArgumentError for a source that is no inverted photo.
        """
        if self.photo is None:
            raise ArgumentError(
                "This source is no photo, but generated by the model: its edits have their full "
                "size already."
            )
        return self.photo.paste_edit(image)

    def path_latents_after_step(self, step: int) -> Tensor:
        """Return the latents of the photo's path after a step, (1, C, H, W)."""
        tensors = self.steps[step]
        return tensors.get("path", tensors["latents"])

    def residual_at(self, step: int) -> Tensor:
        """Return the residual of the source's step, (1, C, H, W), for its targets to add."""
        return self.steps[step]["residual"]

    def uncond_embedding_at(self, step: int) -> Tensor:
        """Return the unconditional text embedding of a step, (1, T, D)."""
        return self.steps[step]["uncond"]

    # interface for the session: t2i.attention.compute.recorded_rows.RecordedRun

    @property
    def num_steps(self) -> int:
        """Number of steps of the source's run, and of the runs that read it."""
        return self.steps.count

    def prompt_at_step(self, step: int) -> EncoderInput:
        """Return the prompt text that was encoded at a step; under prompt editing such as
        "[cat:dog:0.5]" it changes between steps.
        """
        num_passes, num_steps = self.steps.count, self.facts["num_inference_steps"]
        return get_cond_text_at_step(self.prompt, step * num_steps // num_passes, num_steps)

    def get_recorded_qkv(self, site: str, step: int) -> RecordedAttentionInputs | None:
        """Return the source's recorded queries, keys and values at a site and step; None if none
        were recorded.
        """
        tensors = self.steps[step]
        others = [f"{site}/{branch}" for branch in self.branches_at_step(step)[1:]]

        def stack(part: str) -> Tensor | None:
            names = [f"{row}/{part}" for row in (site, *others)]
            rows = [tensors[name] for name in names if name in tensors]
            return torch.cat(rows) if len(rows) > 1 else next(iter(rows), None)

        query, key, value, mask = map(stack, ("query", "key", "value", "mask"))
        if query is None and key is None and value is None:
            return None
        return RecordedAttentionInputs(query, key, value, mask)

    def branches_at_step(self, step: int) -> tuple[str, ...]:
        """Return the guidance branches of the rows recorded at a step, "cond" first."""
        if self._branches is None or self._branches[0] != step:
            parts = (name.split("/") for name in self.steps[step])
            found = ("cond", *sorted({one[1] for one in parts if len(one) > 2}))
            self._branches = (step, found)
        return self._branches[1]

    def latents_after_step(self, step: int) -> Tensor:
        """Return the latents (1, C, H, W) that were recorded after a step of the source's run."""
        return self.steps[step]["latents"]


def finish_recorded_source_folder(kept: RecordedSource) -> None:
    """Write a recorded source into its folder: all but the steps already written, manifest last."""
    folder = kept.steps.folder
    if folder is None:
        return
    noise = {} if kept.noise is None else {"noise": kept.noise.cpu().contiguous()}
    save_file({"state": kept.state, **noise}, folder / START_FILE)
    end = {"latents": kept.latents, "pixels": kept.pixels}
    photo = {}
    if kept.photo is not None:
        end |= photo_to_tensors(kept.photo)
        photo = {"photo": fitting_to_dict(kept.photo)}
    save_file({name: one.cpu().contiguous() for name, one in end.items()}, folder / END_FILE)
    prompt = prompt_to_json(kept.prompt)
    steps = {"steps": kept.steps.count, "bytes": kept.steps.bytes}
    path = {"path": [asdict(step) for step in kept.path_steps]} if kept.path_steps else {}
    contents = {
        "version": RECORDING_FORMAT_VERSION,
        "prompt": prompt,
        **steps,
        "facts": kept.facts,
        **path,
        **photo,
    }
    digests = {
        name: compute_recorded_file_digest(folder / name)
        for name in list_recorded_file_names(kept.steps.count)
    }
    manifest = contents | {
        "sha256": {**digests, RECORDING_MANIFEST_NAME: compute_manifest_digest(contents)}
    }
    (folder / RECORDING_MANIFEST_NAME).write_text(json.dumps(manifest, indent=2) + "\n")


def compute_recorded_file_digest(path: Path) -> str:
    """Return the SHA-256 of a file; DataError if it cannot be read."""
    try:
        with open_regular_file(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror}.") from error


def compute_manifest_digest(manifest: Mapping[str, object]) -> str:
    """Return the SHA-256 of everything in a manifest but its digests."""
    contents = {key: value for key, value in manifest.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest()


def load_recorded_source(folder: str | Path) -> RecordedSource:
    """Load a source that PromptEditPipeline.remember(..., folder=...) has written.

    Raises DataError for any other folder, and for one of which a bit has changed since. The steps
    are read when they are needed, and not checked again then.
    """
    check_path_type("folder", folder)
    restore_folder_from_backup(folder := Path(folder))
    try:
        manifest = parse_json(
            read_bounded(folder / RECORDING_MANIFEST_NAME, RUN_FILE_KIND.max_bytes), lenient=True
        )
        if manifest["version"] != RECORDING_FORMAT_VERSION:
            raise DataError(
                f"{folder} has format {manifest['version']!r:.80}, this t2i reads "
                f"{RECORDING_FORMAT_VERSION}: record the source again."
            )
        prompt = manifest["prompt"]
        source = prompt_from_json(prompt)
        facts = dict(manifest["facts"])
        count, size = int(manifest["steps"]), int(manifest["bytes"])
        for name in ("num_inference_steps", "max_positions"):
            facts[name] = int(facts[name])
        if (error_dB := facts.get("error")) is not None:
            replay_dB = error_dB["replay"]
            facts["error"] = {
                "replay": None if replay_dB is None else float(replay_dB),
                "autoencoder": float(error_dB["autoencoder"]),
            }
        path_steps = tuple(
            SamplerStepCoefficients(**{**step, "denoised": tuple(step["denoised"])})
            for step in manifest.get("path", ())
        )
        photo = manifest.get("photo")
        digests = dict(manifest["sha256"])
        # First the manifest, so that no corrupt number of steps is used.
        check_digest(folder / RECORDING_MANIFEST_NAME, digests, compute_manifest_digest(manifest))
        missing = [
            name for name in list_recorded_file_names(count) if not (folder / name).is_file()
        ]
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        problem = f"{type(error).__name__}: {error}"
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            problem = f"there is no file {folder / RECORDING_MANIFEST_NAME}"
        raise DataError(
            f"{folder} is not a recorded source: {problem}. Name a folder that remember() or "
            "invert() has written, `t2i invert` or `t2i edit --record`."
        ) from error
    if missing:
        raise DataError(f"{folder} lacks {missing[0]}: record the source again.")
    for name in list_recorded_file_names(count):
        check_digest(folder / name, digests, compute_recorded_file_digest(folder / name))
    start, end = read_step_file(folder / START_FILE), read_step_file(folder / END_FILE)
    try:
        return RecordedSource(
            prompt=source,
            facts=facts,
            steps=RecordedSteps(folder, count=count, bytes=size),
            state=start["state"],
            noise=start.get("noise"),
            latents=end["latents"],
            pixels=end["pixels"],
            path_steps=path_steps,
            photo=None if photo is None else photo_from_tensors(end, photo),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{folder} lacks {error}: record the source again.") from error


def check_digest(path: Path, digests: Mapping[str, object], found: str) -> None:
    """Raise DataError if a file of a recorded source has changed since it was written."""
    if digests.get(path.name) != found:
        raise DataError(
            f"{path} has changed since it was written, or its disk has failed: "
            "record the source again."
        )
