"""Runs docs/tour.ipynb anew and keeps what its cells show: make tour.

python -m docs.tour

The cells run in an empty folder, so nothing is left behind. What they show is kept without times or
anything of this machine; the same versions on the same processor make the same file. The last sheet
is also the picture of docs/getting-started.md.
"""

import base64
import hashlib
import io
import signal
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from PIL import Image

from t2i.atomic_files import write_atomically
from t2i.pictures import save_picture

TOUR = Path(__file__).with_name("tour.ipynb")
PICTURE = Path(__file__).with_name("images") / "mushrooms.webp"
PATIENCE = 3600
"""Seconds that a cell may take."""


def digest(notebook: NotebookNode) -> str:
    """Of what the cells say; kept in the file, so that stale outputs are found."""
    said = "\0".join(cell.source for cell in notebook.cells)
    return hashlib.sha256(said.encode()).hexdigest()


def run(notebook: NotebookNode) -> NotebookNode:
    """The notebook with fresh outputs. Raises CellExecutionError where a cell does."""
    held = signal.getsignal(signal.SIGINT)  # the client puts Python's own in its place
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(
            notebook,
            timeout=PATIENCE,
            startup_timeout=PATIENCE,
            kernel_name="python3",
            record_timing=False,
            resources={"metadata": {"path": folder}},
        )
        try:
            return client.execute()
        finally:
            signal.signal(signal.SIGINT, held)


def pictures(notebook: NotebookNode) -> list[Image.Image]:
    """All that the cells show, in their order."""
    shown = (output for cell in notebook.cells for output in cell.get("outputs", ()))
    kept = (
        output["data"]["image/png"] for output in shown if "image/png" in output.get("data", {})
    )
    return [Image.open(io.BytesIO(base64.b64decode(data))) for data in kept]


def tidied(notebook: NotebookNode) -> NotebookNode:
    """Only what the same run shows again: no times, no bars, no warnings, each picture once."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
        "run": digest(notebook),
    }
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
        cell.metadata = {}
        if "outputs" in cell:
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
            for output in cell.outputs:
                output.get("data", {}).pop("image/jpeg", None)
    return notebook


def main() -> None:
    done = tidied(run(nbformat.read(TOUR, as_version=4)))
    write_atomically(TOUR, lambda part: nbformat.write(done, part))
    save_picture(pictures(done)[-1], PICTURE)


if __name__ == "__main__":
    main()
