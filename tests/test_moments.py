"""Moments add, and give the spectra of any union of rows."""

import pytest
import torch

from companion.measurement.moments import Moments
from spectral.spectra import eigenvalues


def _rows(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    scale = torch.arange(1, 13, dtype=torch.float64) ** -1.5
    rows = torch.randn(90, 12, generator=generator, dtype=torch.float64) * scale + 2.0
    return rows, torch.randint(5, (90,), generator=generator)


def test_all_groups_together_have_the_spectrum_of_all_rows() -> None:
    rows, group = _rows()
    found = Moments.of(rows, group, 5).summed(torch.ones(1, 5)).eigenvalues()[0]
    torch.testing.assert_close(found, eigenvalues(rows), rtol=1e-9, atol=1e-13)


def test_a_union_has_the_spectrum_of_its_rows_each_as_often_as_its_weight() -> None:
    rows, group = _rows()
    weights = torch.tensor([[1.0, 0.0, 2.0, 0.0, 1.0], [0.0, 1.0, 0.0, 3.0, 0.0]])
    found = Moments.of(rows, group, 5).summed(weights).eigenvalues()
    for union, spectrum in zip(weights, found, strict=True):
        taken = rows.repeat_interleave(union[group].long(), dim=0)
        torch.testing.assert_close(spectrum, eigenvalues(taken), rtol=1e-9, atol=1e-13)


def test_a_large_mean_costs_no_more_digits_than_stated() -> None:
    rows, group = _rows()
    far = Moments.of(rows + 1e3, group, 5).summed(torch.ones(1, 5)).eigenvalues()[0]
    torch.testing.assert_close(far, eigenvalues(rows), rtol=0, atol=1e-9)


def test_groups_of_one_row_or_none_have_no_spectrum() -> None:
    moments = Moments.of(torch.randn(1, 4), torch.tensor([1]), 3)
    assert moments.count.tolist() == [0, 1, 0]
    assert not moments.eigenvalues().any()


def test_modes_below_the_noise_are_zero() -> None:
    rows = torch.zeros(6, 3, dtype=torch.float64)
    rows[:3, 0], rows[:2, 1] = 1.0, 1e-6
    modes = Moments.of(rows, torch.zeros(6, dtype=torch.long), 1).eigenvalues()[0]
    assert (modes > 0).tolist() == [True, False, False]


def test_nan_and_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        Moments.of(torch.full((2, 2), torch.nan), torch.zeros(2, dtype=torch.long), 1)
    with pytest.raises(ValueError, match="group per token"):
        Moments.of(torch.zeros(2, 3, 2), torch.zeros(2, dtype=torch.long), 1)
