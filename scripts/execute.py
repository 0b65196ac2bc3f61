"""Run a notebook with papermill, whole or not at all.

``python scripts/execute.py notebooks/x.ipynb build/x.ipynb --values build/x.json``

The notebook runs into OUTPUT with the suffix .part.ipynb, which becomes OUTPUT when all is well and
is kept for reading when a cell fails; what went wrong is one line. Two processes never work at the
same OUTPUT: what an engine that was killed left behind may still be at work.
"""

import argparse
import fcntl
import json
import logging
import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

# Importing it compiles a grammar for some seconds; jsonschema, which papermill needs, does without.
sys.modules["rfc3987_syntax"] = None  # type: ignore[assignment]

import papermill  # type: ignore[import-untyped]  # noqa: E402
from nbclient.exceptions import DeadKernelError  # noqa: E402
from papermill.exceptions import PapermillExecutionError  # type: ignore[import-untyped]  # noqa: E402

CELL_TIMEOUT = 4 * 3600
START_TIMEOUT = 600  # seconds until a kernel answers: the first waits for what all of them import


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; errors are one line on standard error and exit status 1."""
    parser = argparse.ArgumentParser(prog="python scripts/execute.py", description=__doc__)
    parser.add_argument("notebook", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--values", type=Path, required=True, help="a JSON file: its parameters")
    parser.add_argument("--cwd", type=Path, default=Path("notebooks"), help="where it runs")
    parser.add_argument("--timeout", type=int, default=CELL_TIMEOUT, help="seconds for one cell")
    parser.add_argument(
        "--products", type=Path, nargs="+", default=[], help="files, or folders of files, it writes"
    )
    asked = parser.parse_args(arguments)
    started = time.time()
    part = asked.output.with_suffix(".part.ipynb")
    part.parent.mkdir(parents=True, exist_ok=True)
    try:
        with part.with_suffix(".lock").open("w") as held:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            values = json.loads(asked.values.read_text(encoding="utf-8"))
            execute(asked.notebook, part, values, asked.cwd, asked.timeout)
            record_products(asked.output, asked.products, started)
            part.replace(asked.output)
    except PapermillExecutionError as error:
        what = (
            f"In [{error.exec_count}] failed: {error.ename}: {' '.join(str(error.evalue).split())}"
        )
    except TimeoutError:
        what = f"a cell took longer than {asked.timeout} s"
    except DeadKernelError:
        what = "the kernel died, most often for want of memory"
    except BlockingIOError:
        what = "an earlier run, which was killed, still executes it; wait for its end"
    except (OSError, ValueError) as error:
        what = " ".join(str(error).split())
    except KeyboardInterrupt:
        what = "interrupted"
    else:
        return 0
    print(f"error: {asked.notebook}: {what}; the notebook up to there: {part}", file=sys.stderr)
    return 1


def execute(
    notebook: Path, output: Path, values: Mapping[str, object], cwd: Path, timeout: int
) -> None:
    """Run a notebook with ``values`` in the folder ``cwd``; what it prints goes to the terminal."""
    logging.getLogger("papermill").setLevel(logging.ERROR)
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_MININTERVAL", "30")  # a log file needs no animation
    papermill.execute_notebook(
        str(notebook),
        str(output),
        parameters=dict(values),
        cwd=str(cwd),
        kernel_name="python3",
        language="python",
        progress_bar=False,
        stdout_file=sys.stdout,
        stderr_file=sys.stderr,
        start_timeout=START_TIMEOUT,
        execution_timeout=timeout,
        extra_arguments=["--log-level=CRITICAL"],  # the kernel warns at every start and stop
    )


def record_products(output: Path, places: Iterable[Path], since: float) -> None:
    """List the files in ``places`` written since then in OUTPUT with the suffix .written."""
    named = (file for place in places for file in ([*place.rglob("*")] or [place]))
    files = (file for file in named if file.is_file() and ".part" not in file.name)
    written = sorted(str(file) for file in files if file.stat().st_mtime >= since)
    output.with_suffix(".written").write_text("".join(f"{file}\n" for file in written))


if __name__ == "__main__":
    sys.exit(main())
