"""What a benchmark ran on, and where its table is kept."""

import json
import os
import platform
from collections.abc import Collection
from pathlib import Path

import pandas as pd
import torch


def machine(device: torch.device, rate: float) -> dict[str, object]:
    """The device in words, with the rate of its float32 matrix products in operations a second."""
    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if cuda else _processor(),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "float32_product_rate": rate,
    }


def keep(table: pd.DataFrame, described: dict[str, object], stem: Path) -> None:
    """Write a table and the machine that it was timed on to stem.csv and stem.json, each whole."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    _replace(stem.with_suffix(".csv"), table.to_csv(index=False, lineterminator="\n"))
    _replace(stem.with_suffix(".json"), json.dumps(described, indent=1) + "\n")


def others(stem: Path, described: dict[str, object], cases: Collection[str]) -> pd.DataFrame:
    """The rows in stem.csv of other cases than these, timed on the same machine.

    Raises ValueError where there are none or where they are of another machine.
    """
    try:
        before = json.loads(stem.with_suffix(".json").read_text())
        table = pd.read_csv(stem.with_suffix(".csv"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{stem}.csv: cannot be read ({error}); time all cases first") from error
    for name in described.keys() - {"float32_product_rate"}:
        if before.get(name) != described[name]:
            raise ValueError(
                f"{stem}.json: {name} was {before.get(name)} and is {described[name]}; time all "
                "cases again"
            )
    return table[~table.case.isin(cases)]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(
            line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _replace(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    part.replace(path)
