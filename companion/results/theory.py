"""Stacks of random propagators over the cube of gain, alignment and gap: bounds beside outcomes."""

import functools

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from companion.measurement.bounds import product_bounds, stationary_rates
from companion.models.random_layers import random_stack

KINDS = ("random", "reflections", "rotations")


def regime_grid(
    singular_value_ratios: list[float], points: int, layers: int, width: int, seed: int
) -> pd.DataFrame:
    """Growth per layer of long stacks of equal layers, over alignment and gain, for some gaps.

    One row per gap, gain, alignment: ``fastest`` and ``slowest`` as predicted, and what stacks of
    every kind did, |W_L ... W_1|^(1/L). Alignments, up to 1, and gains, up to 2, are
    midpoints of ``points`` cells.
    """
    middle = (torch.arange(points, dtype=torch.float64) + 0.5) / points
    singular_value_ratio, gain, alignment = (
        axis.flatten()
        for axis in torch.meshgrid(
            torch.tensor(singular_value_ratios, dtype=torch.float64),
            2 * middle,
            middle,
            indexing="ij",
        )
    )
    sigma = gain / alignment
    rates = stationary_rates(sigma, alignment, singular_value_ratio)
    columns = {"singular_value_ratio": singular_value_ratio, "gain": gain, "alignment": alignment}
    columns |= {"fastest": rates.fastest, "slowest": rates.slowest}
    for kind in KINDS:
        stack = random_stack(
            torch.ones(layers, len(singular_value_ratio), dtype=torch.float64),
            singular_value_ratio.expand(layers, -1),
            alignment.expand(layers - 1, -1),
            width,
            kind,
            seed,
        )
        columns[kind] = sigma * torch.linalg.matrix_norm(_product(stack), 2) ** (1 / layers)
    return pd.DataFrame({name: column.numpy() for name, column in columns.items()})


def bounded_stacks(count: int, layers: int, width: int, seed: int) -> pd.DataFrame:
    """Norm and rank-one ratio of stacks of unequal layers, beside their bounds.

    One row per stack and kind. Singular values span two decades; alignments and gaps crowd towards
    zero and one.
    """
    rng = np.random.default_rng(seed)
    shape = rng.uniform(-1, 1, count)
    sigma_1 = torch.from_numpy(10 ** rng.uniform(-1, 1, (layers, count)))
    sigma_2 = sigma_1 * torch.from_numpy(rng.random((layers, count)) ** 10**shape)
    alignment = torch.from_numpy(rng.random((layers - 1, count)) ** 10 ** shape[::-1])
    bounds = product_bounds(sigma_1, sigma_2, alignment)
    tables = []
    for kind in KINDS:
        stack = random_stack(sigma_1, sigma_2, alignment, width, kind, seed)
        values = torch.linalg.svdvals(_product(stack))
        columns = {
            "norm": values[:, 0],
            "ratio": values[:, 1] / values[:, 0],
            "ceiling": bounds.ceiling,
            "floor": bounds.floor,
            "rank_one_bound": bounds.rank_one_ratio,
            "norms_product": sigma_1.prod(0),
        }
        table = pd.DataFrame({name: column.numpy() for name, column in columns.items()})
        tables.append(table.assign(kind=kind))
    return pd.concat(tables, ignore_index=True)


def _product(stack: Tensor) -> Tensor:
    return functools.reduce(lambda below, layer: layer @ below, stack)
