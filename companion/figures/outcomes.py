"""What models say: word error by scale, kinds of answers, and how training went."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from companion.figures.style import (
    CONDITION_COLOURS,
    PAGE,
    legend_labels,
    model_colours,
    model_label,
    model_order,
)
from companion.stress.scoring import Outcome

_OUTCOME_COLOURS = {
    Outcome.CORRECT: "#009E73",
    Outcome.INTERFERER: "#56B4E9",
    Outcome.FRAGMENT: "#F0E442",
    Outcome.INVENTION: "#D55E00",
    Outcome.LOOP: "#CC79A7",
    Outcome.GIBBERISH: "#666666",
    Outcome.EMPTY: "#DDDDDD",
    Outcome.ANNOTATION: "#0072B2",
}


def draw_word_errors(table: pd.DataFrame, shares: pd.DataFrame) -> Figure:
    """Word error by scale and condition with intervals, and the kinds of answers under stress."""
    models = model_order(table)
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(PAGE, 2.6), layout="constrained", width_ratios=[1, 1.2]
    )
    for condition, side in table.groupby("condition", sort=True):
        colour = CONDITION_COLOURS.get(str(condition), "black")
        _draw_by_size(left, side, "word_error", colour, str(condition).capitalize())
    left.set(xscale="log", xlabel="parameters (millions)", ylabel="word error (%)", ylim=(0, None))
    sizes = sorted(table.parameters.unique() / 1e6)
    left.set_xticks(sizes, [f"{size:.2g}" for size in sizes])
    left.set_xticks([], minor=True)
    left.legend()
    stressed = shares[shares.condition != "clean"]
    draw_kinds(right, stressed, models)
    right.set_yticks(range(len(models)), [model_label(table, model) for model in models])
    right.invert_yaxis()
    right.set_xlabel(f"answers in {stressed.condition.iloc[0].capitalize()} (%)")
    right.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4)
    return figure


def draw_novelty(table: pd.DataFrame) -> Figure:
    """Clean word error on familiar and on unseen material, a colour per model."""
    models = model_order(table)
    colours, labels = model_colours(models), legend_labels(table)
    kinds = list(dict.fromkeys(table.material))
    figure, ax = plt.subplots(figsize=(PAGE, 2.4), layout="constrained")
    for i, model in enumerate(models):
        side = table[table.model == model].set_index("material").reindex(kinds)
        place = np.arange(len(kinds)) + (i - (len(models) - 1) / 2) * 0.8 / len(models)
        errors = np.abs(
            side[["word_error_low", "word_error_high"]].to_numpy().T - side.word_error.to_numpy()
        )
        ax.errorbar(
            place, side.word_error, yerr=errors, fmt="o", color=colours[model], capsize=1.5,
            label=labels[model],
        )  # fmt: skip
    counts = table[table.model == models[0]].set_index("material").reindex(kinds).n
    ax.set_xticks(range(len(kinds)), [f"{kind}\n($n$ = {counts[kind]})" for kind in kinds])
    ax.set(ylabel="clean word error (%)", ylim=(0, None))
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=min(4, len(models)))
    return figure


def draw_kinds(ax: Axes, shares: pd.DataFrame, models: list[str]) -> None:
    """Stacked bars, one per model from the top, of the share of each kind of answer in %."""
    table = shares.set_index("model").reindex(models)
    start = np.zeros(len(models))
    for kind, colour in _OUTCOME_COLOURS.items():
        if kind in table and table[kind].any():
            width = table[kind].to_numpy()
            ax.barh(range(len(models)), width, left=start, color=colour, label=kind, height=0.7)
            start += width
    ax.set_xlim(0, 100)


def draw_training(record: pd.DataFrame) -> Figure:
    """Loss and development word error over training, a colour per model, stages end to end."""
    models = model_order(record)
    colours, labels = model_colours(models), legend_labels(record)
    figure, axes = plt.subplots(1, 2, figsize=(PAGE, 2.4), layout="constrained")
    for model in models:
        run = record[record.model == model]
        for ax, column in zip(axes, ("loss", "word_error"), strict=True):
            for i, (_, stage) in enumerate(run.groupby("stage", sort=False)):
                scale = 100 if column == "word_error" else 1
                ax.plot(
                    stage.total_step, scale * stage[column], ":" if i == 0 else "-",
                    color=colours[model], label=labels[model] if i == 1 else None,
                )  # fmt: skip
    axes[0].set(xlabel="training step", ylabel="loss (nats per token)", yscale="log")
    axes[0].set_yticks([0.2, 0.5, 1, 2, 4], ["0.2", "0.5", "1", "2", "4"])
    axes[0].set_yticks([], minor=True)
    axes[1].set(xlabel="training step", ylabel="development word error (%)", ylim=(0, None))
    axes[1].plot([], [], ":", color="black", label="first stage: words")
    axes[1].legend()
    return figure


def _draw_by_size(ax: Axes, table: pd.DataFrame, name: str, colour: str, label: str) -> None:
    table = table.sort_values("parameters")
    errors = np.abs(table[[f"{name}_low", f"{name}_high"]].to_numpy().T - table[name].to_numpy())
    ax.errorbar(
        table.parameters / 1e6, table[name], yerr=errors, fmt="o-", color=colour, label=label,
        capsize=2,
    )  # fmt: skip
