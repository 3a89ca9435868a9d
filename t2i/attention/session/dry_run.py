"""The dry run of a session: its sites and the kernels of its edits, before the first run."""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from diffusers import DiffusionPipeline

from t2i.attention.call import AttentionCall
from t2i.attention.compute.edit_plan import EditPlan
from t2i.attention.denoiser_pass import DenoiserPass
from t2i.attention.hooks.shared_hooks import SharedHooks
from t2i.attention.prompts.prompt_tokens import PromptTokens
from t2i.attention.session.participant import RegisteredParticipant
from t2i.attention.site import Site
from t2i.errors import AttentionError
from t2i.text.token_windows import EncoderInput

HINT_READERS = ("controlnet", "adapter")
"""Components with which diffusers' pipelines need a hint beside the prompt."""
RUN_FIRST_REMEDY = "make a picture inside the `with` block first; one step will do."


def run_pipeline_to_discover_sites(
    pipeline: Any, prompts: Sequence[EncoderInput] | None, shared_hooks: SharedHooks
) -> None:
    """Run one step of the pipeline to discover its sites; torch's global seed is left alone.

    Raises AttentionError for a model alone, and for a pipeline that needs more than a prompt.
    """
    if not isinstance(pipeline, DiffusionPipeline):
        raise AttentionError(
            f"The sites are found by running, and nothing ran yet: {RUN_FIRST_REMEDY}"
        )
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
    hint_reader = next((one for one in HINT_READERS if getattr(run, one, None) is not None), None)
    if required or hint_reader is not None or "prompt" not in known:
        raise AttentionError(
            f"The sites are found by running, and {type(pipeline).__name__} cannot be tried with a "
            f"prompt alone: {RUN_FIRST_REMEDY}"
        )
    shared_hooks.is_dry_run = True
    try:
        with _hidden_progress_bar(pipeline):
            run(**{name: value for name, value in options.items() if name in known})
    finally:
        shared_hooks.is_dry_run = False


@contextmanager
def _hidden_progress_bar(pipeline: Any) -> Iterator[None]:
    """Hide the progress bar inside the block."""
    before = vars(pipeline).get("_progress_bar_config")
    pipeline.set_progress_bar_config(disable=True)
    try:
        yield
    finally:
        if before is None:
            del pipeline._progress_bar_config
        else:
            pipeline._progress_bar_config = before


def forecast_kernels(
    sites: Sequence[Site],
    entries: Sequence[RegisteredParticipant],
    prompt_tokens: PromptTokens | None,
    denoiser_pass: DenoiserPass,
) -> dict[str, set[str]]:
    """Return site name -> descriptions of the attention kernels that a run with these edits will
    use there, such as "fused, with a mask".

    Edits that depend on words are planned only once the prompts are known.
    """
    if prompt_tokens is not None:
        for entry in entries:
            entry.begin_run(prompt_tokens, None)
    edits = [entry.participant for entry in entries if not entry.participant.reads_only]
    kernels: dict[str, set[str]] = {}
    for site in sites:
        fitting = [edit for edit in edits if edit.acts_at_site(site)]
        if fitting and prompt_tokens is None:
            kernels[site.name] = {"known once the prompts are"}
            continue
        kernels[site.name] = set()
        for step in range(denoiser_pass.num_steps):
            plan = EditPlan()
            for edit in fitting:
                if edit.acts_at_step(step, denoiser_pass.num_steps):
                    assert prompt_tokens is not None
                    one_pass = replace(denoiser_pass, step=step)
                    edit.add_to_plan(plan, AttentionCall(site, one_pass, prompt_tokens))
            kernels[site.name].add(plan.kernel_description)
    return kernels
