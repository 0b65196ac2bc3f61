"""Time the kernels beside their rivals: ``python -m spectral.benchmarks --device cpu``."""

import argparse
import json
import os
import platform
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import torch
from tqdm import tqdm

from spectral.benchmarks.cases import (
    graph_case,
    growth_cases,
    propagator_case,
    spectra_case,
    triplet_case,
)
from spectral.benchmarks.timing import Case, measured, product_rate
from spectral.models.loading import choose_device

SHAPES = ((384, 16), (384, 64), (768, 64), (1280, 64))  # Tiny, Tiny, Small, Turbo


def main() -> None:
    """Run every case, print the ratios, and keep them beside a description of the machine."""
    parser = argparse.ArgumentParser(prog="python -m spectral.benchmarks", description=__doc__)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--repeats", type=int, default=5, help="turns that every way takes")
    parser.add_argument("--output", type=Path, default=Path("data/benchmarks"))
    arguments = parser.parse_args()
    device = choose_device(arguments.device)
    torch.backends.cuda.matmul.allow_tf32 = False
    before = product_rate(device)
    tables = [
        measured(case, arguments.repeats, device)
        for case in tqdm(list(_cases(device)), desc=str(device), unit="case")
    ]
    rate = max(before, product_rate(device))
    table = pd.concat(tables, ignore_index=True)
    ours = table.way == "ours"
    share = table.operations / table["median"] / rate
    table = table.assign(product_share=share.where(ours))
    arguments.output.mkdir(parents=True, exist_ok=True)
    stem = arguments.output / device.type
    _replace(stem.with_suffix(".csv"), table.to_csv(index=False, lineterminator="\n"))
    _replace(stem.with_suffix(".json"), json.dumps(_machine(device, rate), indent=1) + "\n")
    shown = table[~table.case.str.startswith("growth")]
    columns = ["case", "width", "tokens", "nodes", "way", "median", "ratio", "product_share"]
    print(shown[columns].to_string(index=False, float_format="{:.3g}".format, na_rep=""))


def _cases(device: torch.device) -> Iterator[Case]:
    for width, tokens in SHAPES:
        yield propagator_case(width, tokens, device)
    yield triplet_case(1280, 64, device)
    for width in (384, 1280):
        yield spectra_case(width, 64, 4, device)
    yield graph_case(1500, device)
    yield from growth_cases(device)


def _machine(device: torch.device, rate: float) -> dict[str, object]:
    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if cuda else _processor(),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "float32_product_rate": rate,
    }


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


if __name__ == "__main__":
    main()
