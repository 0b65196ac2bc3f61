"""An error of one per cent in any observable changes what the notebooks' checks compare."""

import contextlib
import io
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
MARK = "# NBVAL_CHECK_OUTPUT"
SPECTRA = ("n_eff", "alpha", "kirchhoff", "kirchhoff_resolved")
JACOBIANS = (
    "gain", "alignment", "singular_value_ratio", "sigma_1", "injection", "arriving",
    "rank_one_fraction",
)  # fmt: skip
PLANTED = {
    ("spectra", "rows"): (*SPECTRA, "attention_kirchhoff", "similarity_kirchhoff"),
    ("spectra", "null_rows"): SPECTRA,
    ("replication", "rows"): ("n_eff", "alpha", "kirchhoff_of_fractions"),
    ("propagators", "rows"): (*JACOBIANS, "product_norm", "normed_product_norm", "unstable"),
    ("stress", "rows"): ("n_eff", "alpha", "kirchhoff_resolved", "wer"),
    ("early_warning", "rows"): ("n_eff", "alpha", "log10_variance", "log_probability"),
    ("attraction", "rows"): ("value",),
    ("attraction", "perturbed"): ("sigma_1", "wer"),
    ("transcripts", "rows"): ("wer", "text_log_probability", "no_speech_probability"),
}
CASES = [(*where, column) for where, columns in PLANTED.items() for column in columns]


@cache
def _up_to_the_check(name: str) -> tuple[dict[str, Any], str, str]:
    """What a notebook knows before its first check, the check, and the output kept of it."""
    cells = json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text())["cells"]
    known: dict[str, Any] = {}
    with contextlib.chdir(ROOT / "notebooks"):
        for cell in cells:
            source = "".join(cell["source"])
            if MARK in source:
                return known, source, "".join(cell["outputs"][0]["text"])
            if cell["cell_type"] == "code":
                exec(source, known)
    raise AssertionError(f"{name}: no cell is marked {MARK}")


def _printed(check: str, known: dict[str, Any]) -> str:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(check, dict(known))
    return printed.getvalue()


@pytest.mark.parametrize("name", list(dict.fromkeys(name for name, _ in PLANTED)))
def test_the_check_says_what_is_kept(name: str) -> None:
    known, check, kept = _up_to_the_check(name)
    assert _printed(check, known) == kept


@pytest.mark.parametrize(("name", "frame", "column"), CASES)
@pytest.mark.parametrize("factor", [0.99, 1.01])
def test_an_error_of_one_per_cent_is_seen(
    name: str, frame: str, column: str, factor: float
) -> None:
    known, check, kept = _up_to_the_check(name)
    rows = known[frame]
    wrong = rows.assign(**{column: factor * rows[column]})
    assert _printed(check, {**known, frame: wrong}) != kept
