"""Routes of OpenAI's API about models."""

from fastapi import APIRouter

from t2i.server.api.service_access import Service
from t2i.server.catalogue import Catalogue
from t2i.server.compat.openai.error_route import ERROR_RESPONSES, OpenAIRoute
from t2i.server.compat.openai.image_routes import choose_model
from t2i.server.compat.openai.image_schemas import ModelItem, ModelList

router = APIRouter(
    prefix="/v1", tags=["OpenAI"], route_class=OpenAIRoute, responses=ERROR_RESPONSES
)


@router.get("/models")
def list_models(service: Service) -> ModelList:
    """List the models that requests may name."""
    catalogue = service.catalogue
    return ModelList(data=[_describe_model(name, catalogue) for name in catalogue.models])


@router.get("/models/{model:path}")
def get_model(model: str, service: Service) -> ModelItem:
    """Return one of the models."""
    return _describe_model(choose_model(model, service.catalogue), service.catalogue)


def _describe_model(name: str, catalogue: Catalogue) -> ModelItem:
    return ModelItem(id=name, created=int(catalogue.models[name].stat().st_mtime))
