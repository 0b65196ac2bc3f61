"""Moments add, and give the spectra of any union of rows."""

import pytest
import torch

from companion.measurement.pooling import union_spectra
from spectral.spectra import eigenvalues


def _rows(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    scale = torch.arange(1, 13, dtype=torch.float64) ** -1.5
    rows = torch.randn(90, 12, generator=generator, dtype=torch.float64) * scale + 2.0
    return rows, torch.randint(5, (90,), generator=generator)


def test_a_union_has_the_spectrum_of_its_rows_each_as_often_as_its_weight() -> None:
    rows, group = _rows()
    weights = torch.tensor([[1.0, 0.0, 2.0, 0.0, 1.0], [0.0, 1.0, 0.0, 3.0, 0.0], [1.0] * 5])
    counts, found = union_spectra(rows, group, weights)
    for union, count, spectrum in zip(weights, counts, found, strict=True):
        taken = rows.repeat_interleave(union[group].long(), dim=0)
        assert count == len(taken)
        torch.testing.assert_close(spectrum, eigenvalues(taken), rtol=1e-9, atol=1e-13)


def test_a_large_mean_costs_no_more_digits_than_stated() -> None:
    rows, group = _rows()
    _, far = union_spectra(rows + 1e3, group, torch.ones(1, 5))
    torch.testing.assert_close(far[0], eigenvalues(rows), rtol=0, atol=1e-9)


def test_groups_of_one_row_or_none_have_no_spectrum() -> None:
    counts, found = union_spectra(torch.randn(1, 4), torch.tensor([1]), torch.eye(3))
    assert counts.tolist() == [0, 1, 0]
    assert not found.any()


def test_modes_below_the_noise_are_zero_and_nan_is_refused() -> None:
    rows, group = torch.zeros(6, 3, dtype=torch.float64), torch.zeros(6, dtype=torch.long)
    rows[:3, 0], rows[:2, 1] = 1.0, 1e-6
    _, modes = union_spectra(rows, group, torch.ones(1, 1))
    assert (modes[0] > 0).tolist() == [True, False, False]
    with pytest.raises(ValueError, match="finite"):
        union_spectra(rows * torch.nan, group, torch.ones(1, 1))
