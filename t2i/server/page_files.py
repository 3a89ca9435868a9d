"""The files of the page, listed when the server starts: nothing else below its folder is served."""

from collections.abc import Awaitable, Callable
from pathlib import Path

from fastapi import APIRouter
from starlette.responses import FileResponse, Response

MEDIA_TYPE_BY_SUFFIX = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".json": "application/json",
    ".webp": "image/webp",
    ".woff2": "font/woff2",
}
INDEX_FILE_NAME = "index.html"


def build_page_router(folder: Path) -> APIRouter:
    """Return a FastAPI router with a route for each file of the server's web page; index.html is
    that of "/".
    """
    router = APIRouter(include_in_schema=False)
    for file in sorted(folder.rglob("*")):
        if file.suffix in MEDIA_TYPE_BY_SUFFIX and file.is_file():
            name = file.relative_to(folder).as_posix()
            router.add_api_route(
                "/" if name == INDEX_FILE_NAME else f"/{name}", _build_answer(file)
            )
    return router


def _build_answer(file: Path) -> Callable[[], Awaitable[Response]]:
    async def answer() -> Response:
        return FileResponse(
            file,
            media_type=MEDIA_TYPE_BY_SUFFIX[file.suffix],
            headers={"cache-control": "no-cache"},
        )

    return answer
