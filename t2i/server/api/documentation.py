"""The page /docs: every route with its fields and an example, made without scripts."""

import json
from html import escape
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse

router = APIRouter(include_in_schema=False)
METHODS = ("get", "post", "put", "patch", "delete")


@router.get("/docs")
def show_documentation(request: Request) -> HTMLResponse:
    """Answer with the documentation of all routes as a page."""
    return HTMLResponse(render_documentation(request.app.openapi()))


def render_documentation(schema: dict[str, Any]) -> str:
    """Return an OpenAPI schema as an HTML page."""
    info = schema["info"]
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(info['title'])} API</title></head><body><main>",
        f"<h1>{escape(info['title'])} {escape(info['version'])}</h1>",
        f"<p>{escape(info.get('summary', ''))}</p>",
        '<p>For programs: <a href="openapi.json">openapi.json</a></p>',
    ]
    for path, operations in schema["paths"].items():
        for method in METHODS:
            if method in operations:
                parts += _render_operation(schema, path, method, operations[method])
    return "\n".join([*parts, "</main></body></html>"])


def _render_operation(
    schema: dict[str, Any], path: str, method: str, operation: dict[str, Any]
) -> list[str]:
    parts = [f"<h2><code>{method.upper()} {escape(path)}</code></h2>"]
    parts.append(f"<p>{escape(operation.get('description', ''))}</p>")
    fields = [
        f"<li><code>{escape(field['name'])}</code> ({escape(field['in'])})</li>"
        for field in operation.get("parameters", [])
    ]
    if fields:
        parts.append(f"<ul>{''.join(fields)}</ul>")
    for body in operation.get("requestBody", {}).get("content", {}).values():
        for model in _list_models(schema, body["schema"]):
            parts += _render_model(model)
    return parts


def _list_models(schema: dict[str, Any], reference: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the models that a body may have, those inside it after it."""
    if "oneOf" in reference:
        return [model for one in reference["oneOf"] for model in _list_models(schema, one)]
    name = reference.get("$ref", "").rpartition("/")[2]
    model = schema.get("components", {}).get("schemas", {}).get(name)
    if model is None:
        return []
    inner = model.get("properties", {}).get("request", {})
    return [model, *_list_models(schema, inner)]


def _render_model(model: dict[str, Any]) -> list[str]:
    parts = [f"<h3>{escape(model.get('title', ''))}</h3>"]
    parts.append(f"<pre>{escape(model.get('description', ''))}</pre>")
    required = set(model.get("required", []))
    for name, field in model.get("properties", {}).items():
        default = "required" if name in required else f"default {json.dumps(field.get('default'))}"
        parts.append(f"<div><code>{escape(name)}</code>: {escape(default)}</div>")
    examples = model.get("examples", [])
    shown = [f"<pre>{escape(json.dumps(example, indent=2))}</pre>" for example in examples]
    return [*parts, *(["<p>Example:</p>"] if shown else []), *shown]
