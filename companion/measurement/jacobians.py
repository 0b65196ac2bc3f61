"""Measure Jacobians: every layer at some tokens, trained and at random weights.

Everything is modulo the direction 1, which no layer norm sees (see
``spectral.jacobians.sublayers``), and products and injections once more after the final one.
"""

from collections.abc import Callable, Iterator
from itertools import accumulate, product
from typing import NamedTuple

import torch
from torch import Tensor

from companion.measurement.bounds import growing_dimensions, product_bounds
from companion.measurement.controls import random_control
from companion.measurement.schemas import RANDOM, TRAINED
from companion.measurement.settings import JacobianSettings
from companion.measurement.tangents import (
    LayerNormJacobian,
    as_norm,
    layer_norm_jacobian,
    total_sensitivity,
)
from companion.measurement.texts import Batch, Row, text_columns
from companion.models.capture import COMPONENTS
from companion.models.decoding import hear, transcribe_heard
from companion.models.forcing import Streams, evenly_spread, streams_in
from companion.models.rules import recorded
from companion.models.view import SpeechModel, encoded
from spectral import LinearisedLayers, layer_gains, top_singular_triplets, unstable_dimensions
from spectral.jacobians.context_jacobian import ContextJacobian, joined, through_heads
from spectral.jacobians.layers import Layer, LayerNorm
from spectral.jacobians.propagators import SubLayerJacobians
from spectral.jacobians.sublayers import without_mean
from spectral.whisper import as_layer

_TOLERANCE = 1e-9  # of the propagators' triplets, whose bounds are held against their products
_SINGLE_TOLERANCE = 1e-4  # of triplets in float32: of sigma it leaves less than 1e-6
_TEXT = ("model", "parameters", "utterance", "speaker", "wer", "candidate", "outcome")


def jacobian_rows(model: SpeechModel, batch: Batch, settings: JacobianSettings) -> list[Row]:
    """All rows of a batch of utterances; the randomly initialised control is fed the model's own
    tokens.

    A text without tokens has no rows; of longer audio the first window counts. Jacobians are in
    float64. Raises TypeError for a model whose layers have no closed form.
    """
    initialised = random_control(settings, model.device)
    networks = {TRAINED: model, RANDOM: initialised}
    stacks = {
        name: Stack(
            [as_layer(layer.layer, torch.float64) for layer in network.layers],
            as_norm(network.final_norm, torch.float64),
        )
        for name, network in networks.items()
    }
    rows: list[Row] = []
    for condition, mixtures in batch.items():
        waves = [mixture.wave for mixture in mixtures]
        heard, other = hear(model, waves), encoded(initialised, model.features(waves))
        transcripts = transcribe_heard(model, heard, recorded(settings.rule))
        first_windows = [0, *accumulate(heard.windows[:-1])]
        contexts = {TRAINED: heard.context[first_windows], RANDOM: other}
        for i, (mixture, transcript) in enumerate(zip(mixtures, transcripts, strict=True)):
            text, tokens = text_columns(model, mixture, transcript), transcript.windows[0]
            shared = {name: text[name] for name in _TEXT} | {"condition": condition}
            shared["tokens"] = len(tokens)
            for name, network in networks.items() if tokens else ():
                streams = streams_in(network, contexts[name][i : i + 1], tokens)
                chosen = evenly_spread(streams.text, settings.tokens)
                columns = jacobian_columns(
                    stacks[name], streams, chosen, settings.probes, settings.seed
                )
                rows += _rows(shared | {"network": name}, columns, streams.text, chosen)
    return rows


class Stack(NamedTuple):
    """Decoder layers from the lowest up and the final norm, in float64."""

    layers: list[Layer]
    final_norm: LayerNorm


def _rows(shared: Row, columns: dict[str, Tensor], text: slice, chosen: slice) -> Iterator[Row]:
    """Columns (layers, tokens) as one row per token and layer."""
    positions = range(text.stop)[chosen]
    values = {name: column.tolist() for name, column in columns.items()}
    for (i, position), layer in product(enumerate(positions), range(len(columns["sigma_1"]))):
        place = {"position": position - text.start + 1, "layer": layer + 1}
        yield shared | place | {name: value[layer][i] for name, value in values.items()}


def jacobian_columns(
    stack: Stack, streams: Streams, chosen: slice, probes: int, seed: int
) -> dict[str, Tensor]:
    """Every number of one utterance at the chosen positions, each (layers, tokens)."""
    stack_at = streams.linearised(stack.layers, chosen)
    states = torch.stack([hidden[0, chosen].double() for hidden in (*streams.hidden, streams.last)])
    norms = layer_norm_jacobian(stack.final_norm, states)
    sublayers = stack_at.sublayers()
    propagators = sublayers.product()
    matrices = without_mean(propagators)
    triplets = top_singular_triplets(matrices, tolerance=_TOLERANCE, limit=matrices.shape[-1])
    gains = layer_gains(triplets)
    uppers = _uppers(matrices)
    last = torch.full_like(gains.gain[:1], torch.nan)  # nothing to align with above it
    width = propagators.shape[-1]
    columns = {
        "width": torch.full(propagators.shape[:2], width),
        "sigma_1": triplets.sigma[..., 0],
        "singular_value_ratio": gains.singular_value_ratio,
        "alignment": torch.cat([gains.alignment, last]),
        "gain": torch.cat([gains.gain, last]),
        "converged": triplets.converged,
        "unstable": unstable_dimensions(matrices).double() / width,
        "growing": growing_dimensions(propagators).double() / width,
        "state": (states[1:] - states[1:].mean(-1, keepdim=True)).norm(dim=-1),
    }
    parts = _largest_two(without_mean(torch.stack([getattr(sublayers, n) for n in COMPONENTS])))
    for name, sigma in zip(COMPONENTS, parts, strict=True):
        columns |= {f"{name}_sigma_1": sigma[..., 0], f"{name}_singular_value_ratio": _ratio(sigma)}
    columns |= _product_columns(uppers, norms, triplets.sigma, gains.alignment)
    single = [injection.to(torch.float32) for injection in _injections(stack_at, sublayers)]
    pairs = zip(single, uppers[1:].float(), strict=True)
    whole = joined([injection.then(upper) for injection, upper in pairs])
    gram, cores = whole.gram_and_cores(len(single))
    ways = torch.stack([injection.ways[0] for injection in single])
    columns |= _injection_columns(ways, whole.ways[0], cores, norms.to(torch.float32))
    size = torch.linalg.eigvalsh(gram).clamp(min=0)
    per_token = {
        "sensitivity": size.sum(-1).sqrt(),
        "rank_one_fraction": size[..., -1] / size.sum(-1),
        **_total_columns(stack, whole, streams, chosen, probes, seed),
    }
    shape = len(stack.layers), -1
    return columns | {name: value.double().expand(shape) for name, value in per_token.items()}


def _uppers(matrices: Tensor) -> Tensor:
    """P W_L ... W_{l+1} for l = 0 .. L, (layers + 1, tokens, width, width); the last is P."""
    width = matrices.shape[-1]
    identity = torch.eye(width, dtype=matrices.dtype, device=matrices.device)
    products = [without_mean(identity).expand_as(matrices[0])]
    for matrix in matrices.flip(0):
        products.append(products[-1] @ matrix)
    return torch.stack(products[::-1])


def _largest_two(matrices: Tensor) -> Tensor:
    """The two largest singular values, (*batch, 2), in float64."""
    limit = matrices.shape[-1]
    singles = matrices.float()
    return top_singular_triplets(singles, tolerance=_SINGLE_TOLERANCE, limit=limit).sigma.double()


def _largest_two_exactly(matrices: Tensor) -> Tensor:
    """The same by one more product in float64: what the vectors lack counts by its square alone."""
    triplets = top_singular_triplets(matrices.float(), limit=matrices.shape[-1])
    return torch.linalg.svdvals(matrices @ torch.linalg.qr(triplets.v.to(matrices.dtype)).Q)


def _product_columns(
    uppers: Tensor, norms: LayerNormJacobian, sigma: Tensor, alignment: Tensor
) -> dict[str, Tensor]:
    """The product of all layers above and with each: its norm, rank-one ratio, and bounds."""
    products = torch.cat([_largest_two_exactly(uppers[:-2]), sigma[-1:]])
    normed = _largest_two(norms[-1].apply(uppers[:-1]))
    bounds = [
        product_bounds(sigma[i:, ..., 0], sigma[i:, ..., 1], alignment[i:])
        for i in range(len(sigma))
    ]
    direct = _largest_two(norms[:-1].apply(uppers[-1]))
    return {
        "product_norm": products[..., 0],
        "product_ratio": _ratio(products),
        "ceiling": torch.stack([bound.ceiling for bound in bounds]),
        "floor": torch.stack([bound.floor for bound in bounds]),
        "rank_one_bound": torch.stack([bound.rank_one_ratio for bound in bounds]),
        "normed_product_norm": normed[..., 0],
        "normed_product_ratio": _ratio(normed),
        "normed_direct": direct[..., 0],
    }


def _injections(stack: LinearisedLayers, factors: SubLayerJacobians) -> Iterator[ContextJacobian]:
    """What ``stack.injection`` gives of each layer, by the FFN's Jacobians that are there."""
    for point, ffn in zip(stack.points, factors.ffn, strict=True):
        attention, crossed = point.layer.cross_attention, point.crossed
        assert attention is not None, "a decoder layer"
        assert crossed is not None
        out = attention.out_weight
        yield through_heads(attention, crossed, ffn @ out + out)


def _injection_columns(
    ways: Tensor, arriving: Tensor, cores: Tensor, norms: LayerNormJacobian
) -> dict[str, Tensor]:
    """Norms of injections by what leads into the layer's own output, and into the last."""
    cores = cores.movedim(1, 0)
    last = torch.unflatten(arriving, -1, (len(ways), -1)).movedim(-2, 0)
    entering, arrived = (ways, ways @ cores), (last, last @ cores)

    def norm(pair: tuple[Tensor, Tensor], projection: Callable[[Tensor], Tensor]) -> Tensor:
        left, right = pair
        return (projection(left) * projection(right)).sum((-2, -1)).clamp(min=0).sqrt().double()

    return {
        "injection": norm(entering, without_mean),
        "arriving": norm(arrived, without_mean),
        "normed_injection": norm(entering, norms[1:].apply),
        "normed_arriving": norm(arrived, norms[-1].apply),
    }


def _total_columns(
    stack: Stack, whole: ContextJacobian, streams: Streams, chosen: slice, probes: int, seed: int
) -> dict[str, Tensor]:
    """The total derivative, of random directions of the context, and what J_L explains of it."""
    context = streams.context[0].float()
    generator = torch.Generator().manual_seed(seed)
    columns = torch.randn(context.numel(), probes, generator=generator).to(context.device)
    fixed = whole.operator().matmat(columns.expand(*whole.shape, -1, -1))
    # without the tokens after the last chosen one, which a decoder does not hear
    stop = range(streams.hidden[0].shape[1])[chosen][-1] + 1
    hidden = streams.hidden[0][0, :stop].float()
    singles = [layer.to(torch.float32) for layer in stack.layers]
    moved = total_sensitivity(singles, hidden, context, chosen).matmat(columns)
    total = without_mean(torch.unflatten(moved, 0, (-1, hidden.shape[-1])))
    size = total.square().sum((-2, -1))
    left_over = (total - fixed).square().sum((-2, -1))
    return {"total_sensitivity": (size / probes).sqrt(), "explained": 1 - left_over / size}


def _ratio(values: Tensor) -> Tensor:
    return values[..., 1] / values[..., 0]
