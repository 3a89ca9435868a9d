"""State of A1111's API: the options and tasks of its clients, until the server ends."""

from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request

from t2i.server.api.service_access import Service
from t2i.server.compat.a1111.state.options import OwnerModels
from t2i.server.compat.a1111.state.tasks import TaskRegistry


@dataclass(frozen=True)
class A1111State:
    """State of A1111's API on a server: the model that each owner has chosen, and the tasks of all
    owners.
    """

    models: OwnerModels
    tasks: TaskRegistry = field(default_factory=TaskRegistry)


async def get_state(request: Request, service: Service) -> A1111State:
    """Return the state of A1111's API in the application, which the first request creates."""
    found: A1111State | None = getattr(request.app.state, "a1111", None)
    if found is None:
        found = request.app.state.a1111 = A1111State(OwnerModels(service.catalogue))
    return found


State = Annotated[A1111State, Depends(get_state)]
