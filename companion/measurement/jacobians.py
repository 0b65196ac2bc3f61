"""Measure Jacobians: every layer at some tokens, trained and at random weights.

Everything is modulo the direction 1, which no layer norm sees (see
``spectral.jacobians.sublayers``), and products and injections once more after the final one.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import accumulate

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
from companion.models.rules import recorded
from companion.models.streams import Streams, streams_in
from companion.models.view import SpeechModel, encoded
from spectral import (
    LinearisedLayers,
    layer_gains,
    linearise,
    top_singular_triplets,
    unstable_dimensions,
)
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

    A text without tokens has no rows; of audio longer than the model's window the first window
    counts. Streams are the networks' own, Jacobians are in float64. Raises TypeError for a model
    whose layers have no closed form.
    """
    initialised = random_control(settings, model.device)
    networks = {TRAINED: model, RANDOM: initialised}
    stacks = {name: _stack(network) for name, network in networks.items()}
    rows: list[Row] = []
    for condition, mixtures in batch.items():
        waves = [mixture.wave for mixture in mixtures]
        heard, other = hear(model, waves), encoded(initialised, model.features(waves))
        transcripts = transcribe_heard(model, heard, recorded(settings.rule))
        first_windows = [0, *accumulate(heard.windows[:-1])]
        contexts = {TRAINED: heard.context[first_windows], RANDOM: other}
        for i, (mixture, transcript) in enumerate(zip(mixtures, transcripts, strict=True)):
            text, tokens = text_columns(model, mixture, transcript), transcript.first_window
            shared = {name: text[name] for name in _TEXT} | {"condition": condition}
            shared["tokens"] = len(tokens)
            for name, network in networks.items() if tokens else ():
                streams = streams_in(network, contexts[name][i : i + 1], tokens)
                chosen = _spread(streams.text, settings.tokens)
                columns = jacobian_columns(
                    stacks[name], streams, chosen, settings.probes, settings.seed
                )
                first = streams.text.start
                rows += _rows(shared | {"network": name}, columns, chosen, first)
    return rows


@dataclass(frozen=True)
class Stack:
    """Decoder layers from the lowest up and the final norm, in float64."""

    layers: list[Layer]
    final_norm: LayerNorm


def _stack(model: SpeechModel) -> Stack:
    layers = [as_layer(layer.layer, torch.float64) for layer in model.layers]
    return Stack(layers, as_norm(model.final_norm, torch.float64))


def _spread(text: slice, count: int) -> slice:
    """At most ``count`` positions of the text, evenly apart and centred."""
    length = text.stop - text.start
    step = -(-length // count)
    return slice(text.start + (length - 1) % step // 2, text.stop, step)


def _rows(shared: Row, columns: dict[str, Tensor], chosen: slice, first: int) -> Iterator[Row]:
    """Columns (layers, tokens) as one row per token and layer."""
    values = {name: column.tolist() for name, column in columns.items()}
    layers, tokens = columns["sigma_1"].shape
    for token in range(tokens):
        position = chosen.start + token * chosen.step - first + 1
        for layer in range(layers):
            yield {
                **shared,
                "position": position,
                "layer": layer + 1,
                **{name: value[layer][token] for name, value in values.items()},
            }


def jacobian_columns(
    stack: Stack, streams: Streams, chosen: slice, probes: int, seed: int
) -> dict[str, Tensor]:
    """Every number of one utterance at the chosen positions, each (layers, tokens)."""
    hidden = [stream[0].double() for stream in streams.hidden]
    found = linearise(stack.layers, hidden, streams.context[0].double(), tokens=chosen)
    states = torch.stack([hidden[0, chosen].double() for hidden in (*streams.hidden, streams.last)])
    norms = layer_norm_jacobian(stack.final_norm, states)
    sublayers = found.sublayers()
    propagators = sublayers.product()
    matrices = without_mean(propagators)
    triplets = top_singular_triplets(matrices, tolerance=_TOLERANCE, limit=matrices.shape[-1])
    gains = layer_gains(triplets.unbind())
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
    single = [one.to(torch.float32) for one in _injections(found, sublayers)]
    whole = joined([one.then(upper) for one, upper in zip(single, uppers[1:].float(), strict=True)])
    gram, cores = whole.gram_and_cores(len(single))
    ways = torch.stack([one.ways[0] for one in single])
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
    found = [without_mean(identity).expand_as(matrices[0])]
    for matrix in matrices.flip(0):
        found.append(found[-1] @ matrix)
    return torch.stack(found[::-1])


def _largest_two(matrices: Tensor) -> Tensor:
    """The two largest singular values, (*batch, 2), in float64."""
    limit = matrices.shape[-1]
    found = top_singular_triplets(matrices.float(), tolerance=_SINGLE_TOLERANCE, limit=limit)
    return found.sigma.double()


def _largest_two_exactly(matrices: Tensor) -> Tensor:
    """The same by one more product in float64: what the vectors lack counts by its square alone."""
    found = top_singular_triplets(matrices.float(), limit=matrices.shape[-1])
    basis = torch.linalg.qr(found.v.to(matrices.dtype)).Q
    sigma: Tensor = torch.linalg.svdvals(matrices @ basis)
    return sigma


def _product_columns(
    uppers: Tensor, norms: LayerNormJacobian, sigma: Tensor, alignment: Tensor
) -> dict[str, Tensor]:
    """The product of all layers above and with each: its norm, rank-one ratio, and bounds.

    ``normed_direct`` is the norm of the final layer norm alone, at the state before the layer.
    """
    products = torch.cat([_largest_two_exactly(uppers[:-2]), sigma[-1:]])
    normed = _largest_two(norms[-1].apply(uppers[:-1]))
    bounds = [
        product_bounds(sigma[i:, ..., 0], sigma[i:, ..., 1], alignment[i:])
        for i in range(len(sigma))
    ]
    direct = top_singular_triplets(
        norms[:-1].to(torch.float32).operator(), k=1, tolerance=_SINGLE_TOLERANCE, block=4,
        limit=uppers.shape[-1],
    )  # fmt: skip
    return {
        "product_norm": products[..., 0],
        "product_ratio": _ratio(products),
        "ceiling": torch.stack([bound.ceiling for bound in bounds]),
        "floor": torch.stack([bound.floor for bound in bounds]),
        "rank_one_bound": torch.stack([bound.rank_one_ratio for bound in bounds]),
        "normed_product_norm": normed[..., 0],
        "normed_product_ratio": _ratio(normed),
        "normed_direct": direct.sigma[..., 0].double(),
    }


def _injections(found: LinearisedLayers, factors: SubLayerJacobians) -> Iterator[ContextJacobian]:
    """What ``found.injection`` gives of each layer, by the FFN's Jacobians that are there."""
    for point, ffn in zip(found.points, factors.ffn, strict=True):
        attention, crossed = point.layer.cross_attention, point.crossed
        assert attention is not None, "a decoder layer"
        assert crossed is not None
        out = attention.out_weight
        yield through_heads(attention, crossed, ffn @ out + out)


def _injection_columns(
    ways: Tensor, arriving: Tensor, cores: Tensor, norms: LayerNormJacobian
) -> dict[str, Tensor]:
    """Frobenius norms of injections where they enter and where they arrive.

    ``ways`` (layers, tokens, width, inner) lead into the layer's own output, ``arriving`` (tokens,
    width, layers inner) into the last.
    """
    cores = cores.movedim(1, 0)
    last = torch.unflatten(arriving, -1, (len(ways), -1)).movedim(-2, 0)
    entering, arrived = ((one, one @ cores) for one in (ways, last))

    def norm(pair: tuple[Tensor, Tensor], seen: Callable[[Tensor], Tensor]) -> Tensor:
        left, right = pair
        return (seen(left) * seen(right)).sum((-2, -1)).clamp(min=0).sqrt().double()

    return {
        "injection": norm(entering, without_mean),
        "arriving": norm(arrived, without_mean),
        "normed_injection": norm(entering, norms[1:].apply),
        "normed_arriving": norm(arrived, norms[-1].apply),
    }


def _total_columns(
    stack: Stack, whole: ContextJacobian, streams: Streams, chosen: slice, probes: int, seed: int
) -> dict[str, Tensor]:
    """The total derivative and its share in J_L; one product with each probe tells of all tokens.

    The probes are directions of the context. Tokens after the last chosen one, which a decoder
    does not hear, are left out.
    """
    context = streams.context[0].float()
    generator = torch.Generator().manual_seed(seed)
    columns = torch.randn(context.numel(), probes, generator=generator).to(context.device)
    fixed = whole.operator().matmat(columns.expand(*whole.shape, -1, -1))
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
