"""What a session can say before its first run: the sites, and which kernels the edits will need."""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from diffusers import DiffusionPipeline

from t2i.attention.call import AttentionCall
from t2i.attention.compute.edit_plan import Effects
from t2i.attention.denoiser_pass import DenoiserPass
from t2i.attention.edits.base.edit import Edit
from t2i.attention.hooks.installation import Installation
from t2i.attention.prompts.prompt_tokens import Said
from t2i.attention.session.participant import ParticipantEntry
from t2i.attention.site import Site
from t2i.errors import AttentionError
from t2i.text.token_layout import Readable

FIRST = "make a picture inside the `with` block first; one step will do."


def rehearse(pipeline: Any, prompts: Sequence[Readable] | None, installation: Installation) -> None:
    """One step of the pipeline, whose result is thrown away; torch's own seed is left alone."""
    if not isinstance(pipeline, DiffusionPipeline):
        raise AttentionError(f"The sites are found by running, and nothing ran yet: {FIRST}")
    run: Any = pipeline
    known = inspect.signature(type(run).__call__).parameters
    options = {
        "prompt": [one if isinstance(one, str) else "" for one in prompts or [""]],
        "num_inference_steps": 1,
        "output_type": "latent",
        "generator": torch.Generator().manual_seed(0),
    }
    required = [
        name
        for name, parameter in known.items()
        if parameter.default is parameter.empty
        and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        and name not in ("self", "prompt")
    ]
    if required or "prompt" not in known:
        raise AttentionError(
            f"The sites are found by running, and {type(pipeline).__name__} cannot be tried with a "
            f"prompt alone: {FIRST}"
        )
    installation.rehearsing = True
    try:
        with quiet(pipeline):
            run(**{name: value for name, value in options.items() if name in known})
    finally:
        installation.rehearsing = False


@contextmanager
def quiet(pipeline: Any) -> Iterator[None]:
    """Without a progress bar."""
    before = vars(pipeline).get("_progress_bar_config")
    pipeline.set_progress_bar_config(disable=True)
    try:
        yield
    finally:
        if before is None:
            del pipeline._progress_bar_config
        else:
            pipeline._progress_bar_config = before


def planned(
    sites: Sequence[Site],
    listed: Sequence[ParticipantEntry],
    said: Said | None,
    denoiser_pass: DenoiserPass,
) -> dict[str, set[str]]:
    """For each site the kernels that a run of as many steps will need, as far as prompts are
    known."""
    if said is not None:
        for one in listed:
            one.begin(said, None)
    edits = [one.what for one in listed if isinstance(one.what, Edit)]
    kernels: dict[str, set[str]] = {}
    for site in sites:
        fitting = [edit for edit in edits if edit.fits(site)]
        if fitting and said is None:
            kernels[site.name] = {"told when the prompts are known"}
            continue
        kernels[site.name] = set()
        for step in range(denoiser_pass.num_steps):
            effects = Effects()
            for edit in fitting:
                if edit.covers(step, denoiser_pass.num_steps):
                    assert said is not None
                    edit.apply(
                        effects, AttentionCall(site, replace(denoiser_pass, step=step), said)
                    )
            kernels[site.name].add(effects.kernel)
    return kernels
