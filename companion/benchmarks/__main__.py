"""Time the kernels beside their rivals: ``python -m companion.benchmarks --device cpu``."""

from collections.abc import Iterator

import pandas as pd
import torch

from companion.benchmarks.cases import (
    graph_case,
    growth_cases,
    propagator_case,
    spectra_case,
    triplet_case,
)
from companion.benchmarks.timing import OURS, Case, machine, measured, options, time_all
from companion.models.loading import choose_device

SHAPES = ((384, 16), (384, 64), (768, 64), (1280, 64))  # Tiny, Tiny, Small, Turbo


def main() -> None:
    """Time every case, as a fraction of what the machine's matrix products reach as well."""
    arguments = options("companion.benchmarks", __doc__, repeats=5).parse_args()
    device = choose_device(arguments.device)
    described = machine(device)
    rate = described["float32_product_rate"]

    def timed(case: Case) -> pd.DataFrame:
        table = measured(case, arguments.repeats, device)
        fraction = (table.operations / table["median"] / rate).where(table.way == OURS)
        return table.assign(product_fraction=fraction, product_rate=rate)

    time_all(list(_cases(device)), timed, described, device.type)


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
