"""Routes of a folder of training runs, which are only looked at: logs, configs and sheets."""

from pathlib import Path as FilePath
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from starlette.responses import FileResponse

from t2i.safe_reading import RUN_FILE_KIND, parse_json, read_bounded
from t2i.server.api.schemas import RunAnswer, RunLogAnswer, RunsAnswer
from t2i.server.jobs.job import JobNotFoundError

router = APIRouter(prefix="/api/v1/runs", tags=["runs"])
LOG, CONFIG, SHEETS = "log.jsonl", "config.json", "samples"
MAX_LOG_RECORDS = 5_000
"""Records of a log that are sent; of a longer one every n-th."""
MEDIA_TYPE_BY_SUFFIX = {".png": "image/png", ".webp": "image/webp", ".jpg": "image/jpeg"}
Name = Annotated[str, Path(max_length=300)]


def list_training_run_folders(request: Request) -> dict[str, FilePath]:
    """Return the folders of the training runs in the server's folder of runs, by the runs'
    names.
    """
    folder: FilePath = request.app.state.settings.runs_folder
    if not folder.is_dir():
        return {}
    return {
        path.name: path
        for path in sorted(folder.iterdir())
        if path.is_dir() and (path / LOG).is_file()
    }


def find_training_run_folder(request: Request, name: str) -> FilePath:
    """Return the folder of a training run. Raises JobNotFoundError."""
    runs = list_training_run_folders(request)
    if name not in runs:
        raise JobNotFoundError(f"No training run {name!r:.80} in the server's folder of runs.")
    return runs[name]


@router.get("")
def list_runs(request: Request) -> RunsAnswer:
    """List the training runs, the one that was written last first."""
    found = [
        RunAnswer(name=name, updated=(folder / LOG).stat().st_mtime, steps=_read_steps(folder))
        for name, folder in list_training_run_folders(request).items()
    ]
    return RunsAnswer(runs=sorted(found, key=lambda run: run.updated, reverse=True))


@router.get("/{name}")
def read_run(name: Name, request: Request) -> RunLogAnswer:
    """Answer with the log of a training run, and the names of its sheets."""
    folder = find_training_run_folder(request, name)
    records = _read_records(folder / LOG)
    stride = -(-len(records) // MAX_LOG_RECORDS) or 1
    kept = [one for n, one in enumerate(records) if n % stride == 0 or "validation_loss" in one]
    sheets = folder / SHEETS
    names = [path.name for path in sorted(sheets.iterdir())] if sheets.is_dir() else []
    return RunLogAnswer(
        name=name,
        config=_read_config(folder),
        records=kept,
        sheets=[one for one in names if FilePath(one).suffix in MEDIA_TYPE_BY_SUFFIX],
    )


@router.get(
    "/{name}/sheets/{sheet}",
    response_class=FileResponse,
    responses={200: {"content": {"image/png": {"schema": {"type": "string", "format": "binary"}}}}},
)
def read_sheet(name: Name, sheet: Name, request: Request) -> FileResponse:
    """Answer with the image file of a sheet of a training run."""
    folder = find_training_run_folder(request, name) / SHEETS
    known = {path.name: path for path in folder.iterdir()} if folder.is_dir() else {}
    path = known.get(sheet)
    if path is None or path.suffix not in MEDIA_TYPE_BY_SUFFIX or not path.is_file():
        raise JobNotFoundError(f"The run {name!r:.80} has no sheet {sheet!r:.80}.")
    return FileResponse(path, media_type=MEDIA_TYPE_BY_SUFFIX[path.suffix])


def _read_records(log: FilePath) -> list[dict[str, Any]]:
    """Return the records of a log; a last line that is still being written is left out."""
    records = []
    for line in read_bounded(log, RUN_FILE_KIND.max_bytes).splitlines():
        try:
            record = parse_json(line, lenient=True)
        except ValueError:
            continue
        if isinstance(record, dict):
            records.append(record)
    return records


def _read_config(folder: FilePath) -> dict[str, Any]:
    try:
        config = parse_json(read_bounded(folder / CONFIG, RUN_FILE_KIND.max_bytes), lenient=True)
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}


def _read_steps(folder: FilePath) -> int | None:
    steps = _read_config(folder).get("train", {}).get("steps")
    return steps if isinstance(steps, int) else None
