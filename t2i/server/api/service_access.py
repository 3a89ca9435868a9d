"""Dependencies of routes: the service of the running server, its names, a request's owner."""

from typing import Annotated, TypeAlias

from fastapi import Depends, Request

from t2i.server.catalogue import Catalogue
from t2i.server.jobs.job_service import JobService
from t2i.server.security.access import get_owner


def get_service(request: Request) -> JobService:
    """Return the service of the running server that a request was sent to."""
    service: JobService = request.app.state.service
    return service


def get_catalogue(request: Request) -> Catalogue:
    """Return the running server's catalogue of the models, LoRAs and learned words that requests
    may name.
    """
    catalogue: Catalogue = request.app.state.catalogue
    return catalogue


Names: TypeAlias = Annotated[Catalogue, Depends(get_catalogue)]
Service: TypeAlias = Annotated[JobService, Depends(get_service)]
Owner: TypeAlias = Annotated[str, Depends(get_owner)]
