"""All routes of OpenAI's API."""

from fastapi import APIRouter

from t2i.server.compat.openai import image_routes, model_routes

router = APIRouter()
for _part in (image_routes, model_routes):
    router.include_router(_part.router)
