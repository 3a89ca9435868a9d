"""All routes of A1111's API."""

from fastapi import APIRouter

from t2i.server.compat.a1111.routes import (
    generation_routes,
    list_routes,
    picture_routes,
    progress_routes,
    refused_routes,
)

router = APIRouter()
for _part in (
    generation_routes,
    progress_routes,
    picture_routes,
    list_routes,
    refused_routes,
):
    router.include_router(_part.router)
