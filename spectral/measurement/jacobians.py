"""Measure Jacobians: every layer at some tokens, trained and at random weights."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from spectral.jacobians.injections import injection, sensitivity, total_sensitivity
from spectral.jacobians.layers import Layer
from spectral.jacobians.products import ProductBounds, product_bounds
from spectral.jacobians.propagators import propagators, sublayer_propagators
from spectral.jacobians.stability import layer_gains, symmetric_eigenvalues, unstable_dimensions
from spectral.jacobians.triplets import SingularTriplets, top_singular_triplets
from spectral.measurement.run import Summary, measure
from spectral.measurement.schemas import JACOBIANS
from spectral.measurement.settings import JacobianSettings
from spectral.measurement.texts import Row, text_columns
from spectral.measurement.twins import random_twin
from spectral.models.adapters import as_layer
from spectral.models.capture import COMPONENTS
from spectral.models.decoding import transcribe
from spectral.models.rules import recorded
from spectral.models.streams import residual_streams
from spectral.models.view import SpeechModel
from spectral.stress.mixture import Mixture

TRAINED, RANDOM = "trained", "random"
_TEXT = ("model", "parameters", "utterance", "speaker", "word_error", "candidate", "outcome")


def measure_jacobians(settings: JacobianSettings) -> Summary:
    """Jacobians at some tokens of every utterance: :func:`measure` with ``jacobian_rows``."""
    return measure("jacobians", settings, jacobian_rows, JACOBIANS)


def jacobian_rows(
    model: SpeechModel, batch: dict[str, Sequence[Mixture]], settings: JacobianSettings
) -> list[Row]:
    """All rows of a batch of utterances; the random twin is fed the model's own tokens.

    A text without tokens has no rows; of audio longer than the model's window the first window
    counts. Streams are the networks' own, Jacobians are in float64. Raises TypeError for a model
    whose layers have no closed form.
    """
    return paired_rows(model, random_twin(settings, model.device), batch, settings)


def paired_rows(
    model: SpeechModel,
    twin: SpeechModel,
    batch: dict[str, Sequence[Mixture]],
    settings: JacobianSettings,
) -> list[Row]:
    """:func:`jacobian_rows` of a model and a twin that are there."""
    networks = {
        name: (network, _closed_forms(network))
        for name, network in ((TRAINED, model), (RANDOM, twin))
    }
    rows: list[Row] = []
    for condition, mixtures in batch.items():
        waves = [mixture.wave for mixture in mixtures]
        features = model.features(waves)
        for i, (mixture, transcript) in enumerate(
            zip(mixtures, transcribe(model, waves, recorded(settings.rule)), strict=True)
        ):
            text, tokens = text_columns(model, mixture, transcript), transcript.first_window
            shared = {name: text[name] for name in _TEXT} | {"condition": condition}
            shared["tokens"] = len(tokens)
            for name, (network, layers) in networks.items():
                if tokens:
                    streams = residual_streams(network, features[i : i + 1], tokens)
                    chosen = _spread(streams.text, settings.tokens)
                    hidden = [stream.double() for stream in streams.hidden]
                    columns = _columns(layers, hidden, streams.context.double(), chosen, settings)
                    first = streams.text.start
                    rows += _rows(shared | {"network": name}, columns, chosen, first)
    return rows


def _closed_forms(model: SpeechModel) -> list[Layer]:
    try:
        return [as_layer(layer.layer, torch.float64) for layer in model.layers]
    except TypeError:
        kind = type(model.layers[0].layer).__name__
        raise TypeError(
            f"{model.name}: injections and sensitivities have closed forms for Whisper's layers "
            f"alone, not for {kind}; leave the model out of jacobians, and take propagators from "
            "spectral.jacobians.propagators.autodiff_propagators of its layer_function"
        ) from None


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


def _columns(
    layers: list[Layer],
    hidden: list[Tensor],
    context: Tensor,
    chosen: slice,
    settings: JacobianSettings,
) -> dict[str, Tensor]:
    """Every number of one utterance, each (layers, tokens)."""
    matrices = torch.cat(
        [
            propagators(layer, h, context, tokens=chosen)
            for layer, h in zip(layers, hidden, strict=True)
        ]
    )
    triplets = [top_singular_triplets(matrix, limit=matrix.shape[-1]) for matrix in matrices]
    columns = _layer_columns(matrices, triplets)
    for name, factor in _factors(layers, hidden, context, chosen).items():
        values = torch.linalg.svdvals(factor)
        columns |= {f"{name}_sigma_1": values[..., 0], f"{name}_gap": _ratio(values)}
    columns |= _product_columns(matrices, triplets)
    columns |= _sensitivity_columns(layers, hidden, context, chosen, settings)
    return columns


def _layer_columns(matrices: Tensor, triplets: list[SingularTriplets]) -> dict[str, Tensor]:
    gains = layer_gains(triplets)
    last = torch.full_like(gains.gap[:1], torch.nan)  # nothing to align with above it
    width = matrices.shape[-1]
    return {
        "width": torch.full(matrices.shape[:2], width),
        "sigma_1": torch.stack([one.sigma[..., 0] for one in triplets]),
        "gap": gains.gap,
        "alignment": torch.cat([gains.alignment, last]),
        "gain": torch.cat([gains.gain, last]),
        "converged": torch.stack([one.converged for one in triplets]),
        "unstable": unstable_dimensions(matrices) / width,
        "growing": (symmetric_eigenvalues(matrices) > 1).double().mean(-1),
    }


def _factors(
    layers: list[Layer], hidden: list[Tensor], context: Tensor, chosen: slice
) -> dict[str, Tensor]:
    """The sub-layers' own Jacobians, each (layers, tokens, width, width)."""
    found = [
        sublayer_propagators(layer, h, context, tokens=chosen)
        for layer, h in zip(layers, hidden, strict=True)
    ]
    return {name: torch.cat([getattr(one, name) for one in found]) for name in COMPONENTS}


def _product_columns(matrices: Tensor, triplets: list[SingularTriplets]) -> dict[str, Tensor]:
    """The product of all layers above and with each: its norm, rank-one ratio, and bounds."""
    norms, ratios, bounds = [], [], []
    product = torch.eye(matrices.shape[-1], dtype=matrices.dtype, device=matrices.device)
    for i in reversed(range(len(matrices))):
        product = product @ matrices[i]
        values = torch.linalg.svdvals(product)
        norms.append(values[..., 0])
        ratios.append(_ratio(values))
        bounds.append(_bounds(triplets[i:]))
    return {
        "product_norm": torch.stack(norms[::-1]),
        "product_ratio": torch.stack(ratios[::-1]),
        "ceiling": torch.stack([bound.ceiling for bound in bounds[::-1]]),
        "floor": torch.stack([bound.floor for bound in bounds[::-1]]),
        "rank_one_bound": torch.stack([bound.rank_one_ratio for bound in bounds[::-1]]),
    }


def _bounds(triplets: list[SingularTriplets]) -> ProductBounds:
    sigma = torch.stack([one.sigma for one in triplets])
    return product_bounds(sigma[..., 0], sigma[..., 1], layer_gains(triplets).alignment)


def _sensitivity_columns(
    layers: list[Layer],
    hidden: list[Tensor],
    context: Tensor,
    chosen: slice,
    settings: JacobianSettings,
) -> dict[str, Tensor]:
    """Injections, what arrives of them, J_L, and how much of the total derivative J_L explains."""
    whole = sensitivity(layers, hidden, context, tokens=chosen)
    heads = whole.keys.shape[2] // len(layers)
    arriving = [
        whole.through(slice(i * heads, (i + 1) * heads)).norm()[0] for i in range(len(layers))
    ]
    entering = [
        injection(layer, h, context, tokens=chosen).norm()[0]
        for layer, h in zip(layers, hidden, strict=True)
    ]
    squares = whole.singular_values()[0].square()
    norm = squares.sum(-1).sqrt()
    generator = torch.Generator().manual_seed(settings.seed)
    shape = (context.shape[-1], settings.probes)
    probes = torch.randn(shape, generator=generator, dtype=context.dtype).to(context.device)
    fixed = whole.operator().rmatmat(probes.expand(*whole.shape, *shape))[0]
    total = _totals(layers, hidden[0], context, chosen, probes)
    size = total.square().sum((-2, -1))
    left_over = (total - fixed).square().sum((-2, -1))
    per_token = {
        "sensitivity": norm,
        "rank_one_share": squares[:, 0] / squares.sum(-1),
        "total_sensitivity": (size / settings.probes).sqrt(),
        "explained": 1 - left_over / size,
    }
    repeated = {name: value.expand(len(layers), -1) for name, value in per_token.items()}
    return {"injection": torch.stack(entering), "arriving": torch.stack(arriving)} | repeated


def _totals(
    layers: list[Layer], hidden: Tensor, context: Tensor, chosen: slice, probes: Tensor
) -> Tensor:
    """J' U of the total derivative at every chosen token: (tokens, S C, probes).

    Later tokens, which a decoder does not hear, are left out.
    """
    found = [
        total_sensitivity(layers, hidden[:, : at + 1], context, slice(at, at + 1))
        for at in range(chosen.start, chosen.stop, chosen.step)
    ]
    return torch.cat([one.rmatmat(probes[None]) for one in found])


def _ratio(values: Tensor) -> Tensor:
    return values[..., 1] / values[..., 0]
