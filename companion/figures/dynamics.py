"""How far states of different utterances and of near ones are apart, and what a probe finds."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from companion.figures.jacobians import draw_networks, size_panels
from companion.figures.style import (
    CHANCE_LINE,
    CONDITION_COLOURS,
    add_legend,
    draw_intervals,
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

_UNRELATED = 2**0.5  # the distance of orthogonal states
_TEXT_PANELS = {
    "changed": "changed texts (%)",
    "added_error": "added WER\n(points)",
    "candidates": "candidates (%)",
}


def draw_distances(distances: pd.DataFrame) -> Figure:
    """Distance of two utterances through depth (two rows of panels) and through steps (one).

    A column per size, its seeds alike. Dotted horizontal line: states that are orthogonal.
    """
    figure, axes = size_panels(distances, ["distance", "distance, centred", "distance, last layer"])
    for column, models in zip(axes.T, models_by_size(distances).values(), strict=True):
        for _, table in distances[distances.model.isin(models)].groupby("model"):
            for ax, quantity in zip(column, (DISTANCE, CENTRED_DISTANCE), strict=False):
                _draw_depth(ax, table[(table.quantity == quantity) & (table.step == 0)], "distance")
            _draw_steps(column[2], table[table.quantity == DISTANCE], "distance")
        for ax in column:
            ax.axhline(_UNRELATED, **CHANCE_LINE)
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
    rank = r"$N_{\mathrm{eff}}$"
    figure, axes = size_panels(ranks, [f"{rank} of mean states", f"{rank}, last layer"])
    for column, models in zip(axes.T, models_by_size(ranks).values(), strict=True):
        for _, table in sides[sides.model.isin(models)].groupby("model"):
            _draw_depth(column[0], table[table.step == 0], "rank")
            _draw_steps(column[1], table, "rank")
    return _with_legend(figure, axes)


def draw_linear_probes(linear_probes: pd.DataFrame) -> Figure:
    """What a linear probe finds, by layer: with the own audio, and what that adds to the text."""
    rows = {
        (DECODER, "own"): "hidden state:\nright (%)",
        (DECODER, "added"): "hidden state:\naudio adds (points)",
        (CROSS_ATTENTION, "own"): "cross-attention:\nright (%)",
        (CROSS_ATTENTION, "added"): "cross-attention:\naudio adds (points)",
    }
    figure, axes = size_panels(linear_probes, list(rows.values()))
    for column, models in zip(axes.T, models_by_size(linear_probes).values(), strict=True):
        table = linear_probes[linear_probes.model.isin(models)]
        for ax, (source, name) in zip(column, rows, strict=True):
            for _, own in table[table.stage == source].groupby("model"):
                draw_networks(ax, own, "layer", name)
            ax.axhline(table.chance.mean() if name == "own" else 0, **CHANCE_LINE)
            ax.set_xticks(sorted(table.layer.unique()))
        column[-1].set_xlabel("decoder layer")
    return _with_legend(figure, axes, zero=False)


def draw_subtle(texts: pd.DataFrame) -> Figure:
    """A column per size, a row per number, over the level of the change below the signal."""
    figure, axes = size_panels(texts, list(_TEXT_PANELS.values()))
    for column, models in zip(axes.T, models_by_size(texts).values(), strict=True):
        for ax, name in zip(column, _TEXT_PANELS, strict=True):
            for _, table in texts[texts.model.isin(models)].groupby("model"):
                _draw_directions(ax, table.assign(place=-table.level_db), name, 0.5)
            ax.set_xticks([-level for level in sorted(texts.level_db.unique())])
        column[-1].set_xlabel("change (dB)")
    return _with_legend(figure, axes, zero=False)


def draw_growths(growths: pd.DataFrame, level: float) -> Figure:
    """Growth of the change from layer to layer at one level; grey: random networks, clean."""
    figure, axes = size_panels(growths, [r"$\log_{10}$ growth"])
    for ax, models in zip(axes[0], models_by_size(growths).values(), strict=True):
        table = growths[growths.model.isin(models) & (growths.level_db == level)]
        table = table.assign(place=table.layer)
        for (network, _), own in table.groupby(["network", "model"], sort=False):
            _draw_directions(ax, own, "growth", 0.0, random=network == "random")
        ax.axhline(0, **CHANCE_LINE)
        ax.set_xlabel("decoder layer")
        ax.set_xticks(sorted(table.layer.unique()))
    return _with_legend(figure, axes, zero=False)


def _with_legend(figure: Figure, axes: np.ndarray, zero: bool = True) -> Figure:
    """With rows that begin at zero, once all is drawn, or the first panel would set the top."""
    for ax in axes[:, 0] if zero else ():
        ax.set_ylim(0, None)
    figure.align_ylabels()
    add_legend(figure, axes[0, 0], columns=2)
    return figure


def _draw_directions(
    ax: Axes, table: pd.DataFrame, name: str, shift: float, random: bool = False
) -> None:
    for i, direction in enumerate(("random", "singular")):
        for condition, colour in CONDITION_COLOURS.items():
            part = table[(table.direction == direction) & (table.condition == condition)]
            if random and condition != "clean":
                continue
            part = part.sort_values("place")
            label = f"{condition.capitalize()}, {direction}" + (" (random network)" * random)
            draw_intervals(
                ax, part, name, part.place + shift * (2 * i - 1), line="-", label=label,
                colour="#999999" if random else colour, control=direction == "random",
            )  # fmt: skip


def _draw_depth(ax: Axes, table: pd.DataFrame, name: str) -> None:
    """Stages one after the other: input, encoder layers, decoder layers."""
    depth = table.loc[table.stage == ENCODER, "layer"].max()
    after = table.stage.map({INPUT: 0, ENCODER: 0, DECODER: depth})
    placed = table.assign(place=table.layer + after)
    draw_networks(ax, placed, "place", name)
    placed = placed.drop_duplicates("place").sort_values("place")
    initial = {INPUT: "in", ENCODER: "e", DECODER: "d"}
    names = [
        initial[stage] + (str(layer) if stage != INPUT else "")
        for stage, layer in zip(placed.stage, placed.layer, strict=True)
    ]
    every = -(-len(names) // 6)
    ax.set_xticks(placed.place.to_numpy()[::every], names[::every])


def _draw_steps(ax: Axes, table: pd.DataFrame, name: str) -> None:
    """The decoder's last layer, step by step."""
    decoder = table[(table.stage == DECODER) & (table.step > 0)]
    last = decoder[decoder.layer == decoder.layer.max()]
    draw_networks(ax, last, "step", name, log=True)
    ax.set_xscale("log", base=2)
    ax.set_xticks(sorted(last.step.unique()), sorted(last.step.unique()))
    ax.minorticks_off()
    ax.set_xlabel("step (token)")
