"""Execute notebooks in place, on their defaults, keeping the outputs that tests compare.

``python scripts/refresh.py notebooks/*.ipynb``. Cells marked ``# NBVAL_CHECK_OUTPUT`` keep their
output; all other outputs, counts and traces of the run are cleared.
"""

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from companion.results.tables import write_text

MARK = "# NBVAL_CHECK_OUTPUT"
CELL_TIMEOUT = 600


def main() -> None:
    """Refresh the notebooks named on the command line; each is left alone where a cell fails."""
    for name in sys.argv[1:]:
        try:
            changed = refresh(Path(name))
        except CellExecutionError as error:
            sys.exit(f"error: {name}: {error.ename}: {error.evalue}; the file is as it was")
        print(f"{name}: {'refreshed' if changed else 'unchanged'}")


def refresh(path: Path) -> bool:
    """Execute one notebook and write it back; whether that changed the file."""
    before = path.read_text(encoding="utf-8")
    notebook = nbformat.reads(before, as_version=4)  # type: ignore[no-untyped-call]
    metadata = dict(notebook.metadata)
    where = {"metadata": {"path": str(path.parent)}}
    client = NotebookClient(notebook, timeout=CELL_TIMEOUT, kernel_name="python3", resources=where)
    client.execute()
    notebook.metadata = nbformat.from_dict(metadata)  # type: ignore[no-untyped-call]
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            kept = cell.outputs if MARK in cell.source else []
            cell.outputs = [output for output in kept if output.get("name") != "stderr"]
            cell.execution_count = cell.execution_count if cell.outputs else None
    text = nbformat.writes(notebook) + "\n"  # type: ignore[no-untyped-call]
    write_text(path, text)
    return text != before


if __name__ == "__main__":
    main()
