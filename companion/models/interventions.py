"""Change what cross-attention adds to the residual stream while a model decodes: causal tests.

Two changes follow from the theory. *Damping* takes away what an output has along the direction that
the layer above amplifies most. *Restoring rank* makes the spectrum of the last few outputs flatter.
Each has a control of the same size in a random direction. A change is called with the layer, from
0, and its outputs of one step, (rows, width), and gives what is added to them, (rows, width).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from companion.models.decoding import Heard, Transcript
from companion.models.forcing import streams_in
from companion.models.view import SpeechModel
from spectral import top_singular_triplets
from spectral.jacobians.sublayers import without_mean
from spectral.whisper import as_layer, hooked

_NEGLIGIBLE = 1e-6  # of the largest singular value: noise, which is not made larger
_DRAWS = 64  # random directions of a layer; later steps take the first ones again


class Damping:
    """Take away what outputs have along unit ``vectors`` (windows, layers, width) or zeros."""

    def __init__(self, vectors: Tensor) -> None:
        self._vectors = vectors

    def keep(self, rows: Tensor) -> None:
        self._vectors = self._vectors[rows]

    def __call__(self, layer: int, output: Tensor) -> Tensor:
        along = self._vectors[:, layer].to(output)
        return -(output * along).sum(-1, keepdim=True) * along


class Restoring:
    """Flatten the spectrum of the last ``window`` outputs R = U S V' of a layer, not centred.

    The newest output becomes the last row of U f(S) V', where f(S) is S to ``power``, scaled to the
    same sum of squares: 1 changes nothing, 0 makes all singular values equal.
    """

    def __init__(self, window: int, power: float) -> None:
        self._window, self._power = window, power
        self._last: dict[int, Tensor] = {}

    def keep(self, rows: Tensor) -> None:
        self._last = {layer: last[rows] for layer, last in self._last.items()}

    def __call__(self, layer: int, output: Tensor) -> Tensor:
        before = self._last.get(layer, output[:, None][:, :0])
        last = torch.cat([before, output[:, None]], 1)[:, -self._window :]
        self._last[layer] = last
        exact = last.double()
        values, vectors = torch.linalg.eigh(exact @ exact.mT)
        sizes = values.clamp(min=0).sqrt()
        real = sizes > _NEGLIGIBLE * sizes[:, -1:]
        flat = torch.where(real, sizes, 0.0) ** self._power * real
        flat = flat * (sizes.norm(dim=-1) / flat.norm(dim=-1).clamp(min=1e-30))[:, None]
        factors = torch.where(real, flat / sizes.clamp(min=1e-30), 0.0)
        weights = (vectors[:, -1] * factors)[:, None] @ vectors.mT
        return ((weights @ exact)[:, 0] - exact[:, -1]).to(output)


class Randomly:
    """A change of the size that another one has, in a random direction of the layer and step.

    ``fixed``: of the layer alone, as damping's is one direction all along.
    """

    def __init__(self, change: Damping | Restoring, width: int, fixed: bool) -> None:
        self._change, self._width, self._fixed = change, width, fixed
        self._steps: dict[int, int] = {}

    def keep(self, rows: Tensor) -> None:
        self._change.keep(rows)

    def __call__(self, layer: int, output: Tensor) -> Tensor:
        step = 0 if self._fixed else self._steps.get(layer, 0) % _DRAWS
        self._steps[layer] = self._steps.get(layer, 0) + 1
        draw = torch.Generator().manual_seed(layer * _DRAWS + step)
        random = normalize(torch.randn(self._width, generator=draw), dim=0).to(output)
        return self._change(layer, output).norm(dim=-1, keepdim=True) * random


@contextmanager
def intervening(
    model: SpeechModel, change: Damping | Restoring | Randomly, layers: int
) -> Iterator[None]:
    """Add a change to the cross-attention of the lowest ``layers`` while one batch is decoded."""

    def hook(layer: int) -> Callable[[nn.Module, Any, Any], Any]:
        def changed(module: nn.Module, inputs: Any, output: Any) -> Any:
            rows = (output[0] if isinstance(output, tuple) else output).clone()
            rows[:, -1] += change(layer, rows[:, -1])  # from which a token is chosen, and no other
            return (rows, *output[1:]) if isinstance(output, tuple) else rows

        return changed

    pairs = [(layer.cross_attention, hook(i)) for i, layer in enumerate(model.layers[:layers])]
    model.watchers.append(change.keep)
    try:
        with hooked(pairs):
            yield
    finally:
        model.watchers.remove(change.keep)


@torch.no_grad()
def aligned_directions(
    model: SpeechModel, heard: Heard, transcripts: Sequence[Transcript], tokens: int
) -> Tensor:
    """What the layer above each layer amplifies most in a text: (windows, layers, width).

    v of the top singular triplet of the propagator of layer l + 1, modulo the direction 1, at most
    ``tokens`` positions of the text, and of these the first principal direction, as signs mean
    nothing. Zeros for the last layer and for a window without text.
    """
    stack = [as_layer(layer.layer, torch.float32) for layer in model.layers]
    directions = heard.context.new_zeros(len(heard.context), len(stack), model.width)
    texts = [window for transcript in transcripts for window in transcript.windows]
    for i, text in enumerate(texts):
        if not text:
            continue
        streams = streams_in(model, heard.context[i : i + 1], text)
        step = -(-len(text) // tokens)
        chosen = slice(streams.text.start, streams.text.stop, step)
        points = streams.linearised(stack, chosen)
        triplets = top_singular_triplets(without_mean(points.propagators()), k=1)
        vectors = triplets.v[..., 0]  # (layers, tokens, width)
        principal = torch.linalg.svd(vectors[1:], full_matrices=False).Vh[:, 0]
        directions[i, :-1] = principal.to(directions)
    return directions
