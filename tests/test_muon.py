"""Muon: orthogonal updates, and the library's own numbers up to its bfloat16."""

import pytest
import torch
from torch import nn

from companion.training.muon import Muon, orthogonalised


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 12, 48), (2, 48, 12), (7, 5)])
def test_singular_values_move_near_one_and_singular_vectors_stay(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    matrices = torch.randn(shape, dtype=torch.float64)
    moved = orthogonalised(matrices)
    u, values, v = torch.linalg.svd(matrices, full_matrices=False)
    inside = u.mT @ moved @ v.mT
    diagonal = inside.diagonal(dim1=-2, dim2=-1)
    torch.testing.assert_close(inside, torch.diag_embed(diagonal))
    resolved = diagonal[values > 0.05 * values.amax(-1, keepdim=True)]
    assert resolved.min() > 0.6
    assert resolved.max() < 1.3


def test_zeros_stay_zeros_and_scale_does_not_matter() -> None:
    assert not orthogonalised(torch.zeros(2, 4, 3)).any()
    matrix = torch.randn(6, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(orthogonalised(1e-12 * matrix), orthogonalised(matrix))


def trained(optimiser: type[torch.optim.Optimizer], **options: object) -> list[torch.Tensor]:
    torch.manual_seed(2)
    weights = [nn.Parameter(torch.randn(shape)) for shape in ((8, 8), (8, 8), (8, 20), (20, 8))]
    before = [weight.detach().clone() for weight in weights]
    made = optimiser(weights, lr=0.02, weight_decay=0.1, **options)  # type: ignore[call-arg]
    for _ in range(5):
        for weight in weights:
            weight.grad = torch.randn_like(weight)
        made.step()
    return [weight.detach() - old for weight, old in zip(weights, before, strict=True)]


def test_updates_agree_with_the_library_up_to_its_bfloat16() -> None:
    project = trained(Muon)
    library = trained(torch.optim.Muon, adjust_lr_fn="match_rms_adamw")
    for mine, other in zip(project, library, strict=True):
        assert torch.linalg.norm(mine - other) < 0.05 * torch.linalg.norm(other)


def test_what_is_no_matrix_is_refused_and_what_has_no_gradient_stays() -> None:
    with pytest.raises(ValueError, match=r"shape \(3,\) is no matrix; use AdamW"):
        Muon([nn.Parameter(torch.zeros(3))], lr=0.1)
    weight = nn.Parameter(torch.ones(2, 2))
    Muon([weight], lr=0.1, weight_decay=0.5).step()
    assert torch.equal(weight.detach(), torch.ones(2, 2))
