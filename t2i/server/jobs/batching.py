"""Settings by which waiting jobs are drawn together in one batch, an image each."""

from dataclasses import replace
from pathlib import Path

from t2i.cli.request.options import check_no_composed_prompts
from t2i.cli.request.request import Request
from t2i.errors import ArgumentError, T2IError
from t2i.server.catalogue import Catalogue
from t2i.server.jobs.job import Job
from t2i.server.jobs.job_request import GenerateRequest, parse_job_request
from t2i.server.jobs.request_building import resolve_job_request, wants_heat_maps


def find_batch_settings(job: Job, catalogue: Catalogue) -> Request | None:
    """Return what jobs must have in common to be drawn in one batch, a request without its prompts;
    None for a job that is drawn alone.

    Alone are drawn edits, several images of one job, changed and enlarged pictures, words bound to
    boxes, controls, reference pictures, prompts of parts joined by AND, and images whose heat maps
    are asked for.
    """
    if job.kind != "generate" or len(job.seeds) != 1:
        return None
    try:
        body = parse_job_request(job.kind, job.request)
        assert isinstance(body, GenerateRequest)
        if body.image is not None or body.upscale is not None or wants_heat_maps(body):
            return None
        if body.regions or body.controls or body.reference:
            return None
        request = resolve_job_request(body, catalogue, _refuse_upload).request
        check_no_composed_prompts(request, [request.prompt, request.negative_prompt])
    except (T2IError, ValueError):  # it fails for itself, and for no other job
        return None
    return replace(request, prompt="", negative_prompt="")


def _refuse_upload(_upload_id: str) -> Path:
    raise ArgumentError("A job of a batch has no pictures.")
