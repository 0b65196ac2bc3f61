"""Distances, ranks and readouts through the network, clean and stressed, trained and random."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from companion.figures.style import (
    CONDITION_COLOURS,
    PAGE,
    add_legend,
    model_label,
    model_order,
    models_by_size,
)
from companion.measurement.dynamics_schemas import (
    CENTRED_DISTANCE,
    CROSS_ATTENTION,
    DECODER,
    DISTANCE,
    ENCODER,
    INPUT,
)

_NETWORKS = {"trained": ("o", "-"), "random": ("s", ":")}
_SHIFT = 0.06
_UNRELATED = 2**0.5  # the distance of orthogonal states


def draw_distances(distances: pd.DataFrame) -> Figure:
    """Distance of two utterances through depth (two rows of panels) and through steps (one).

    A column per size, its seeds alike. Dotted horizontal line: states that are orthogonal.
    """
    figure, axes = _panels(distances, 3)
    for column, models in enumerate(models_by_size(distances).values()):
        for _, table in distances[distances.model.isin(models)].groupby("model"):
            for row, quantity in enumerate((DISTANCE, CENTRED_DISTANCE)):
                deep = table[(table.quantity == quantity) & (table.step == 0)]
                _lines(axes[row, column], _placed(deep), "place", "distance")
                _name_places(axes[row, column], deep)
            last = _of_last_layer(table[table.quantity == DISTANCE])
            _lines(axes[2, column], last, "step", "distance", log=True)
        axes[2, column].set_xlabel("step (token)")
        for ax in axes[:, column]:
            ax.axhline(_UNRELATED, color="black", lw=0.6, ls=(0, (1, 2)))
    _from_zero(axes)
    for ax, label in zip(axes[:, 0], ("distance", "distance, centred", "distance, last layer"),
                         strict=True):  # fmt: skip
        ax.set_ylabel(label)
    return _with_legend(figure, axes)


def draw_ranks(ranks: pd.DataFrame, condition: str) -> Figure:
    """Effective rank across utterances: of mean states through depth, of the last layer by step."""
    sides = pd.concat(
        ranks.assign(
            condition=name,
            **{f"rank{end}": ranks[f"rank_{side}{end}"] for end in ("", "_low", "_high")},
        )
        for side, name in (("clean", "clean"), ("stressed", condition))
    )
    figure, axes = _panels(ranks, 2)
    for column, models in enumerate(models_by_size(ranks).values()):
        for _, table in sides[sides.model.isin(models)].groupby("model"):
            deep = table[table.step == 0]
            _lines(axes[0, column], _placed(deep), "place", "rank")
            _name_places(axes[0, column], deep)
            _lines(axes[1, column], _of_last_layer(table), "step", "rank", log=True)
        axes[1, column].set_xlabel("step (token)")
    _from_zero(axes)
    axes[0, 0].set_ylabel(r"$N_{\mathrm{eff}}$ of mean states")
    axes[1, 0].set_ylabel(r"$N_{\mathrm{eff}}$, last layer")
    return _with_legend(figure, axes)


def draw_readouts(readouts: pd.DataFrame) -> Figure:
    """What a linear readout finds, by layer: with the own audio, and what that adds to the text."""
    rows = {
        (DECODER, "own"): "hidden state:\nright (%)",
        (DECODER, "added"): "hidden state:\naudio adds (points)",
        (CROSS_ATTENTION, "own"): "cross-attention:\nright (%)",
        (CROSS_ATTENTION, "added"): "cross-attention:\naudio adds (points)",
    }
    figure, axes = _panels(readouts, len(rows))
    for column, models in enumerate(models_by_size(readouts).values()):
        table = readouts[readouts.model.isin(models)]
        for row, (source, name) in enumerate(rows):
            ax = axes[row, column]
            for _, own in table[table.stage == source].groupby("model"):
                _lines(ax, own, "layer", name)
            ax.axhline(
                table.chance.mean() if name == "own" else 0, color="black", lw=0.6, ls=(0, (1, 2))
            )
            ax.set_xticks(sorted(table.layer.unique()))
        axes[-1, column].set_xlabel("decoder layer")
    for ax, label in zip(axes[:, 0], rows.values(), strict=True):
        ax.set_ylabel(label)
    return _with_legend(figure, axes)


def draw_distinct(table: pd.DataFrame, prefixes: dict[int, str]) -> Figure:
    """Share of distinct texts among all, by model: said, written clean, written under stress."""
    models = model_order(table)
    figure, axes = plt.subplots(
        1, len(prefixes), sharey=True, figsize=(PAGE, 0.28 * len(models) + 1.2),
        layout="constrained",
    )  # fmt: skip
    sides = list(dict.fromkeys(table.side))
    styles = dict(zip(sides, (("|", "black"), ("o", CONDITION_COLOURS["clean"]),
                              ("D", CONDITION_COLOURS["hell"])), strict=True))  # fmt: skip
    for ax, (words, label) in zip(axes, prefixes.items(), strict=True):
        for i, (side, (marker, colour)) in enumerate(styles.items()):
            part = table[(table.words == words) & (table.side == side)].set_index("model")
            ax.plot(
                part.distinct.reindex(models), np.arange(len(models)) + 0.2 * (i - 1), marker,
                color=colour, label=side, ms=7 if marker == "|" else 4, mew=1.2,
            )  # fmt: skip
        ax.set(title=label, xlabel="distinct texts (%)", xlim=(0, 104))
    axes[0].set_yticks(range(len(models)), [model_label(table, model) for model in models])
    axes[0].set_ylim(len(models) - 0.5, -0.5)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def _panels(table: pd.DataFrame, rows: int) -> tuple[Figure, np.ndarray]:
    sizes = models_by_size(table)
    figure, axes = plt.subplots(
        rows, len(sizes), sharey="row", squeeze=False, figsize=(PAGE, 1.45 * rows + 0.6),
        layout="constrained",
    )  # fmt: skip
    for ax, label in zip(axes[0], sizes, strict=True):
        ax.set_title(label)
    return figure, axes


def _with_legend(figure: Figure, axes: np.ndarray) -> Figure:
    add_legend(figure, axes[0, 0])
    return figure


def _lines(ax: Axes, table: pd.DataFrame, x: str, name: str, log: bool = False) -> None:
    """A line with 95 % intervals per network and condition; open markers are random networks."""
    shift = -1.5
    for network, (marker, style) in _NETWORKS.items():
        for condition, colour in CONDITION_COLOURS.items():
            part = table[(table.network == network) & (table.condition == condition)]
            part = part.sort_values(x)
            ends = part[[f"{name}_low", f"{name}_high"]].to_numpy().T
            errors = np.abs(ends - part[name].to_numpy())
            places = part[x] * (1 + _SHIFT * shift) if log else part[x] + _SHIFT * shift
            ax.errorbar(
                places, part[name], yerr=errors, fmt=marker, ls=style, color=colour, lw=0.8, ms=3,
                mfc=colour if network == "trained" else "white",
                label=f"{condition}, {network}",
            )  # fmt: skip
            shift += 1
    if log:
        ax.set_xscale("log", base=2)
        ax.set_xticks(sorted(table[x].unique()), sorted(table[x].unique()))
        ax.minorticks_off()


def _placed(table: pd.DataFrame) -> pd.DataFrame:
    """Stages one after the other: input, encoder layers, decoder layers."""
    depth = table.loc[table.stage == ENCODER, "layer"].max()
    after = table.stage.map({INPUT: 0, ENCODER: 0, DECODER: depth})
    return table.assign(place=table.layer + after)


def _name_places(ax: Axes, table: pd.DataFrame) -> None:
    placed = _placed(table).drop_duplicates("place").sort_values("place")
    initial = {INPUT: "in", ENCODER: "e", DECODER: "d"}
    names = [
        initial[stage] + (str(layer) if stage != INPUT else "")
        for stage, layer in zip(placed.stage, placed.layer, strict=True)
    ]
    every = -(-len(names) // 6)
    ax.set_xticks(placed.place.to_numpy()[::every], names[::every])


def _of_last_layer(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of the decoder's last layer, step by step."""
    decoder = table[(table.stage == DECODER) & (table.step > 0)]
    return decoder[decoder.layer == decoder.layer.max()]


def _from_zero(axes: np.ndarray) -> None:
    """Let every row of panels begin at zero; once all is drawn, or the first panel sets the top."""
    for ax in axes[:, 0]:
        ax.set_ylim(0, None)
