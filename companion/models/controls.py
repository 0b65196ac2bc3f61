"""Controls without what a network learned: its weights' sizes in random directions.

A weight W = U S V' becomes Q S R' with Haar-distributed Q and R: every linear map and convolution
of encoder and decoder (a kernel as a matrix, out x (in width)) keeps its singular values. Biases,
layer norms and embeddings stay. Embeddings of tokens and positions, and so the output projection
where it is tied to them, are how a network codes what it is given: trained network and control are
given the same. Query, key and value are matrices of their own.
"""

import copy
from functools import lru_cache
from pathlib import PurePath

import numpy as np
import torch
from torch import Tensor, nn

from companion.models.view import SpeechModel

_LINEAR = nn.Linear | nn.Conv1d


@torch.no_grad()
def spectrum_preserving(model: SpeechModel, draw: int, seed: int) -> SpeechModel:
    """A network with the model's singular values, biases, norms and embeddings, random vectors.

    Depends on the model's name, ``draw`` and ``seed``; the model stays as it is.
    """
    control, spectra = _copy(model), _singular_values(model)
    rng = torch.Generator().manual_seed(draw_seed(model.name, draw, seed))
    for weight, values in zip(matrices(control), spectra, strict=True):
        rows = weight.shape[0]
        sizes = (rows, weight.numel() // rows)
        left, right = (haar(size, len(values), rng).to(weight) for size in sizes)
        weight.copy_(((left * values) @ right.T).reshape(weight.shape))
    return control


def haar(rows: int, columns: int, rng: torch.Generator) -> Tensor:
    """Orthonormal columns, uniformly distributed: (rows, columns), float32, on the CPU.

    QR of a Gaussian matrix with the signs of R's diagonal (Mezzadri 2007).
    """
    q, r = torch.linalg.qr(torch.randn(rows, columns, generator=rng))
    return q * r.diagonal().sign()


def matrices(model: SpeechModel) -> list[Tensor]:
    """The weights of linear maps and convolutions, tied ones once, those of embeddings left out."""
    modules = list(model.module.modules())
    embedded = {id(module.weight) for module in modules if isinstance(module, nn.Embedding)}
    weights = [module.weight for module in modules if isinstance(module, _LINEAR)]
    once = {id(weight): weight for weight in weights if id(weight) not in embedded}
    return list(once.values())


def draw_seed(name: str, draw: int, seed: int) -> int:
    """A seed for one draw of a model's control, wherever the model lies."""
    key = [seed, draw, *PurePath(name).name.encode()]
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])


@lru_cache(maxsize=1)
def _singular_values(model: SpeechModel) -> list[Tensor]:
    """Those of each of the model's ``matrices``, the same for all draws."""
    return [
        torch.linalg.svdvals(weight.detach().flatten(1).double()).to(weight.dtype)
        for weight in matrices(model)
    ]


def _copy(model: SpeechModel) -> SpeechModel:
    """With weights of its own; tokenizers, which are slow to copy or cannot be, are shared."""
    attributes = vars(model).values()
    shared = {id(value): value for value in attributes if not isinstance(value, nn.Module | list)}
    control = copy.deepcopy(model, shared)
    control.name = f"{model.name}-spectrum"
    return control
