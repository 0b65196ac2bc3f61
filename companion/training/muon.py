"""Muon: momentum whose step is the nearest orthogonal matrix, for the matrices inside a network.

torch.optim.Muon iterates in bfloat16, which a CPU without that arithmetic emulates: a step of the
ladder's models then takes four times as long. This one iterates in float32, equal shapes at once.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic (Jordan et al. 2024)
_ITERATIONS = 5
_UPDATE_RMS = (
    0.2  # an update's root mean square as a fraction of the learning rate (Liu et al. 2025)
)


def orthogonalised(matrices: Tensor) -> Tensor:
    """Matrices (*batch, rows, columns) with every singular value moved near 1 (0.7 to 1.2).

    Newton-Schulz iterations X <- aX + (bXX' + c(XX')^2) X on the side of the smaller dimension
    (Jordan et al. 2024). A matrix of zeros stays zero. Cost: 5 iterations of 3 matrix products.
    """
    a, b, c = _COEFFICIENTS
    wide = matrices if matrices.shape[-2] <= matrices.shape[-1] else matrices.mT
    norms = torch.linalg.matrix_norm(wide, keepdim=True)
    wide = wide / norms.clamp_min(torch.finfo(wide.dtype).tiny)
    for _ in range(_ITERATIONS):
        gram = wide @ wide.mT
        wide = a * wide + (b * gram + c * gram @ gram) @ wide
    return wide if matrices.shape[-2] <= matrices.shape[-1] else wide.mT


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised, with AdamW's size of update and decoupled weight decay.

    Raises ValueError for a parameter that is no matrix; vectors, embeddings and kernels are for
    AdamW.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
    ) -> None:
        defaults = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum}
        super().__init__(parameters, defaults)
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.ndim != 2:
                    shape = tuple(parameter.shape)
                    raise ValueError(f"a parameter of shape {shape} is no matrix; use AdamW for it")

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            of_shape: dict[torch.Size, list[nn.Parameter]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    of_shape.setdefault(parameter.shape, []).append(parameter)
            for shape, parameters in of_shape.items():
                updates = orthogonalised(self._momentum(parameters, group["momentum"]))
                size = group["lr"] * _UPDATE_RMS * max(shape) ** 0.5
                for parameter, update in zip(parameters, updates, strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.add_(update, alpha=-size)

    def _momentum(self, parameters: list[nn.Parameter], momentum: float) -> Tensor:
        looked_ahead = []
        for parameter in parameters:
            assert parameter.grad is not None
            state = self.state[parameter]
            if "average" not in state:
                state["average"] = torch.zeros_like(parameter)
            average = state["average"]
            average.lerp_(parameter.grad, 1 - momentum)
            looked_ahead.append(parameter.grad.lerp(average, momentum))
        return torch.stack(looked_ahead)
