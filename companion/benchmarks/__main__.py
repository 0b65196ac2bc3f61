"""Time the kernels beside their rivals: ``python -m companion.benchmarks --device cpu``."""

from collections.abc import Iterator

import pandas as pd
import torch
from tqdm import tqdm

from companion.benchmarks.cases import (
    graph_case,
    growth_cases,
    propagator_case,
    spectra_case,
    triplet_case,
)
from companion.benchmarks.timing import OURS, Case, keep, machine, measured, options, product_rate
from companion.models.loading import choose_device

SHAPES = ((384, 16), (384, 64), (768, 64), (1280, 64))  # Tiny, Tiny, Small, Turbo


def main() -> None:
    """Run every case, print the ratios, and keep them beside a description of the machine."""
    arguments = options("companion.benchmarks", __doc__, repeats=5).parse_args()
    device = choose_device(arguments.device)
    rate = product_rate(device)
    described = machine(device, rate)
    table = pd.DataFrame()
    for case in tqdm(list(_cases(device)), desc=str(device), unit="case"):
        timed = measured(case, arguments.repeats, device)
        fraction = timed.operations / timed["median"] / rate
        timed["product_fraction"] = fraction.where(timed.way == OURS)
        timed["product_rate"] = rate
        table = pd.concat([table, timed], ignore_index=True)
        keep(table, described, arguments.output / device.type)  # what is timed is not lost
    shown = table[~table.case.str.startswith("growth")]
    columns = ["case", "width", "tokens", "nodes", "way", "median", "ratio", "product_fraction"]
    print(shown[columns].to_string(index=False, float_format="{:.3g}".format, na_rep=""))


def _cases(device: torch.device) -> Iterator[Case]:
    yield triplet_case(1280, 64, device)
    for width in (384, 1280):
        yield spectra_case(width, 64, 4, device)
    yield graph_case(1500, device)
    yield from growth_cases(device)
    for width, tokens in SHAPES:
        yield propagator_case(width, tokens, device)  # rivals take longest here


if __name__ == "__main__":
    main()
