"""Routes of A1111's API that are not done here: refused by name, with what to do instead."""

from collections.abc import Mapping

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from t2i.server.compat.a1111.answers.error_route import A1111Route

NOT_IMPLEMENTED_STATUS = 501
REMEDY_BY_REFUSED_ROUTE: Mapping[str, str] = {
    "extra-single-image": "draw with enable_hr and hr_upscaler=Lanczos to enlarge",
    "extra-batch-images": "draw with enable_hr and hr_upscaler=Lanczos to enlarge",
    "interrogate": "pictures are not described; png-info reads how one was made",
    "create/embedding": "train with the command t2i train",
    "create/hypernetwork": "hypernetworks are not read",
    "train/embedding": "train with the command t2i train",
    "train/hypernetwork": "hypernetworks are not read",
    "unload-checkpoint": "models leave the memory by themselves when others need it",
    "reload-checkpoint": "models are loaded when a request needs them",
    "server-kill": "stop the server where it was started",
    "server-restart": "start the server again where it was started",
    "server-stop": "stop the server where it was started",
}
"""Route -> what to do instead."""

router = APIRouter(prefix="/sdapi/v1", include_in_schema=False)


def _add_refusals() -> None:
    def add(name: str, remedy: str) -> None:
        def refuse() -> JSONResponse:
            """Refuse, for this is not done here."""
            message = f"/sdapi/v1/{name} is not done here: {remedy}."
            return A1111Route.build_error_answer("ArgumentError", message, NOT_IMPLEMENTED_STATUS)

        router.add_api_route(
            f"/{name}",
            refuse,
            methods=["POST"],
            status_code=NOT_IMPLEMENTED_STATUS,
            name=f"refuse_{name}",
        )

    for name, remedy in REMEDY_BY_REFUSED_ROUTE.items():
        add(name, remedy)


_add_refusals()
