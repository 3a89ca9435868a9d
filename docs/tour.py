"""Run docs/tour.ipynb and save the outputs of its cells: make tour.

python -m docs.tour

The cells run in an empty temporary folder. Outputs are saved without times or anything specific to
the machine; the same versions on the same processor make the same file. The last sheet is also the
picture of docs/getting-started.md.
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
CELL_TIMEOUT = 3600
"""Greatest duration of a cell in seconds."""


def digest(notebook: NotebookNode) -> str:
    """Return the digest of the code cells, which the file stores to detect outdated outputs."""
    code = "\0".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    return hashlib.sha256(code.encode()).hexdigest()


def run(notebook: NotebookNode) -> NotebookNode:
    """Return the notebook with new outputs. Raises CellExecutionError if a cell fails."""
    handler = signal.getsignal(signal.SIGINT)  # the client replaces it
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(
            notebook,
            timeout=CELL_TIMEOUT,
            startup_timeout=CELL_TIMEOUT,
            kernel_name="python3",
            record_timing=False,
            resources={"metadata": {"path": folder}},
        )
        try:
            return client.execute()
        finally:
            signal.signal(signal.SIGINT, handler)


def pictures(notebook: NotebookNode) -> list[Image.Image]:
    """Return all pictures in the outputs, in their order."""
    outputs = (output for cell in notebook.cells for output in cell.get("outputs", ()))
    encoded = (
        output["data"]["image/png"] for output in outputs if "image/png" in output.get("data", {})
    )
    return [Image.open(io.BytesIO(base64.b64decode(data))) for data in encoded]


def without_variable_outputs(notebook: NotebookNode) -> NotebookNode:
    """Return the notebook without times, progress bars, warnings and duplicate pictures."""
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
    done = without_variable_outputs(run(nbformat.read(TOUR, as_version=4)))
    write_atomically(TOUR, lambda part: nbformat.write(done, part))
    save_picture(pictures(done)[-1], PICTURE)


if __name__ == "__main__":
    main()
