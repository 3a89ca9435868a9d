"""Checks of a request that come before its pictures are decoded."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from t2i.server.jobs.job_request import GenerateRequest
from t2i.server.jobs.job_service import JobService
from t2i.server.jobs.request_building import build_request, check_size_of_work


def check_fields(fields: Mapping[str, Any], service: JobService) -> None:
    """Check the fields of a job without pictures: prompt, sampler, size, and how much work it is.

    Raises T2IError as `JobService.submit` does.
    """
    body = GenerateRequest(**{**fields, "image": None, "mask": None, "strength": None})
    built = build_request(body, service.catalogue, Path)  # names no uploads
    check_size_of_work(built, body.num, service.catalogue, service.settings.max_pixels_x_steps)
