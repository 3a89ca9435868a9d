"""Dependencies of routes: the service of the running server and the owner of a request."""

from typing import Annotated, TypeAlias

from fastapi import Depends, Request

from t2i.server.jobs.job_service import JobService
from t2i.server.security.access import owner_of


def service_of(request: Request) -> JobService:
    """Return the service of the server that a request has come to."""
    service: JobService = request.app.state.service
    return service


Service: TypeAlias = Annotated[JobService, Depends(service_of)]
Owner: TypeAlias = Annotated[str, Depends(owner_of)]
