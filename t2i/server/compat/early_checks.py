"""Checks of a request that come before its pictures are decoded."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from t2i.server.jobs.job_request import GenerateRequest
from t2i.server.jobs.job_service import JobService
from t2i.server.jobs.request_building import check_pixel_steps_limit, resolve_job_request


def check_job_fields_without_pictures(fields: Mapping[str, Any], service: JobService) -> None:
    """Check the fields of a generation job before its pictures are read: prompt, sampler, size, and
    the amount of work.

    Raises T2IError as `JobService.submit` does.
    """
    body = GenerateRequest(**{**fields, "image": None, "mask": None, "strength": None})
    built = resolve_job_request(body, service.catalogue, Path)  # names no uploads
    check_pixel_steps_limit(built, body.num, service.catalogue, service.settings.max_pixels_x_steps)
