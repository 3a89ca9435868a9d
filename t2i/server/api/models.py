"""Routes of what the server has: health, models, samplers, LoRAs, and the tokens of a prompt."""

from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from t2i.cli.commands.models import build_model_description
from t2i.cli.request.request import Grammar, read_model_defaults
from t2i.denoiser.presets import EXACT
from t2i.denoiser.sampler_names import SAMPLER_NAMES, SAMPLERS_WITH_SPACINGS, SPACINGS
from t2i.server.api.schemas import (
    AdaptersAnswer,
    ControlsAnswer,
    HealthAnswer,
    ModelAnswer,
    ModelsAnswer,
    PresetAnswer,
    SamplersAnswer,
    TokensAnswer,
)
from t2i.server.api.service_access import Names
from t2i.server.api.tokens import build_tokens_answer
from t2i.server.catalogue import Catalogue

router = APIRouter(prefix="/api/v1", tags=["models"])


class TokensRequest(BaseModel):
    """Body of the request for a prompt's tokens: the prompt, the model and the prompt grammar."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"prompt": "a (red:1.2) apple"}]}
    )

    prompt: Annotated[str, Field(max_length=20_000)]
    model: Annotated[str, Field(max_length=500)] | None = None
    grammar: Grammar = "a1111"


@router.get("/health")
async def check_health(request: Request) -> HealthAnswer:
    """Say that the server is there, and whether its default model is loaded. Needs no token."""
    pool = request.app.state.pool
    return HealthAnswer(status="ok", ready=pool.ready, problem=pool.problem)


@router.get("/models")
def list_models(catalogue: Names) -> ModelsAnswer:
    """List the models that requests may name, the default first."""
    models = []
    for name, folder in catalogue.models.items():
        facts, defaults = build_model_description(name, folder), read_model_defaults(folder)
        width, height = catalogue.read_default_size(name)
        models.append(
            ModelAnswer(
                name=name,
                summary=str(facts["summary"]),
                bytes=int(str(facts["bytes"])),
                width=width,
                height=height,
                steps=catalogue.read_default_steps(name),
                guidance_scale=defaults.guidance_scale,
                sampler=defaults.sampler,
                default=name == catalogue.default_model,
                presets=_list_presets(catalogue, name),
            )
        )
    return ModelsAnswer(models=models)


def _list_presets(catalogue: Catalogue, model: str) -> list[PresetAnswer]:
    """Return the presets of a model, `exact` first; none for a model that has no other."""
    presets = catalogue.read_presets(model)
    defaults = read_model_defaults(catalogue.models[model])
    names = [EXACT, *presets.by_name] if presets.by_name else []
    answers = []
    for name in names:
        one = presets.get(name)
        scale = defaults.guidance_scale if one.guidance_scale is None else one.guidance_scale
        answers.append(
            PresetAnswer(
                name=name,
                steps=one.steps or catalogue.read_default_steps(model),
                guidance_scale=scale,
                guidance_method=one.guidance_method,
                sampler=one.sampler or defaults.sampler,
                cache=[*one.cache],
                loras=[Path(lora.path).stem for lora in one.loras],
                cost=one.cost,
            )
        )
    return answers


@router.get("/samplers")
def list_samplers() -> SamplersAnswer:
    """List the samplers that requests may name."""
    spaced = [f"{name} {spacing}" for name in SAMPLERS_WITH_SPACINGS for spacing in SPACINGS]
    return SamplersAnswer(samplers=sorted([*SAMPLER_NAMES, *spaced]))


@router.get("/loras")
def list_loras(catalogue: Names) -> AdaptersAnswer:
    """List the LoRAs and the learned words that requests may name."""
    return AdaptersAnswer(loras=list(catalogue.loras), embeddings=list(catalogue.embeddings))


@router.get("/controls")
def list_controls(catalogue: Names) -> ControlsAnswer:
    """List the networks of controls (ControlNets, T2I-Adapters) that requests may name."""
    return ControlsAnswer(controls=list(catalogue.controls))


@router.post("/tokens")
def read_tokens(asked: TokensRequest, catalogue: Names) -> TokensAnswer:
    """Answer with the tokens and words of a prompt as a model's text encoder sees them."""
    model = catalogue.resolve_model_name(asked.model)
    return build_tokens_answer(asked.prompt, asked.grammar, catalogue.models[model])
