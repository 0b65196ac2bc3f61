"""Dose and response, factorial effects, and hallucinated answers against others."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from companion.figures.style import (
    COMPONENT_NAMES,
    PAGE,
    legend_labels,
    model_colours,
    model_markers,
    model_order,
)
from companion.results.confidence import CONFIDENCES, PER_CHARACTER, PER_WORD_PIECE
from companion.results.factorial import EFFECTS
from companion.results.within import DIFFERS, TOO_FEW
from companion.stress.conditions import split_severity

"""A shape per model, beside its colour."""

_ANSWERS = {
    "word_error": "word error (%)",
    "candidates": "candidates (%)",
    PER_WORD_PIECE: "mean log-probability\n(nats per word piece)",
    PER_CHARACTER: "mean log-probability\n(nats per character)",
}
_EFFECT_LABELS = {
    "word_error": "word error\n(points of %)",
    "candidate_share": "candidates\n(points of %)",
    PER_WORD_PIECE: "log-probability\n(nats per word piece)",
    PER_CHARACTER: "log-probability\n(nats per character)",
}
_SHORT = {
    "n_eff": "$N_{\\mathrm{eff}}$",
    "alpha": "$\\alpha$",
    "log10_kf": r"$\log_{10}$ Kf, padded",
    "log10_kf_resolved": r"$\log_{10}$ Kf, resolved",
    **CONFIDENCES,
    "tokens": "tokens $T$",
}
_SHADE = "#f2f2f2"


def draw_answer_response(table: pd.DataFrame) -> Figure:
    """Word error, candidates and log-probability by severity; a column per family of stresses."""
    families = list(table.family.unique())
    labels = {name: label for name, label in _ANSWERS.items() if table[name].notna().any()}
    if PER_WORD_PIECE in labels:  # per character it is the same once more
        labels.pop(PER_CHARACTER)
    figure, axes = plt.subplots(
        len(labels), len(families), sharex=True, sharey="row", squeeze=False,
        figsize=(PAGE, 1.5 * len(labels) + 0.5), layout="constrained",
    )  # fmt: skip
    for column, family in zip(axes.T, families, strict=True):
        own = table[table.family == family]
        for ax, name in zip(column, labels, strict=True):
            named = {name: "change", f"{name}_low": "low", f"{name}_high": "high"}
            _draw_doses(ax, own[["model", "parameters", "severity", *named]].rename(columns=named))
        column[0].set_title(family.capitalize())
        column[-1].set_xlabel("severity (0: clean)")
    for ax, label in zip(axes[:, 0], labels.values(), strict=True):
        ax.set_ylabel(label)
    figure.legend(handles=_models(table), loc="outside lower center", ncols=3)
    return figure


def draw_dose_response(table: pd.DataFrame, observables: list[str]) -> Figure:
    """Changes from clean by severity: a row per observable, a column per component.

    ``table`` holds rows of ``dose_response`` of one family and one K per observable. Solid and
    filled is at equal length, dashed and open raw; bars are 95 % intervals.
    """
    figure, axes = plt.subplots(
        len(observables), len(COMPONENT_NAMES), sharex=True, sharey="row", squeeze=False,
        figsize=(PAGE, 1.5 * len(observables) + 0.6), layout="constrained",
    )  # fmt: skip
    for row, observable in zip(axes, observables, strict=True):
        for ax, component in zip(row, COMPONENT_NAMES, strict=True):
            part = table[(table.component == component) & (table.observable == observable)]
            for length, own in part.groupby("length", sort=True):
                _draw_doses(ax, own, raw=length == "raw")
            ax.axhline(0, color="black", lw=0.5)
        row[0].set_ylabel(_change_label(table, observable, "\n"))
    for ax, title in zip(axes[0], COMPONENT_NAMES.values(), strict=True):
        ax.set_title(title)
    axes[-1, 1].set_xlabel(f"severity of {table.family.iloc[0].capitalize()} (0: clean)")
    handles = [*_models(table), *_fillings("equal length (first rows)", "raw", lines=True)]
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
    return figure


def draw_factorial(table: pd.DataFrame, observables: list[str]) -> Figure:
    """Main effects and interactions: a row of panels per observable, a column per component.

    ``table`` holds rows of ``factorial`` of one K per observable; filled is at equal length,
    open raw.
    """
    known = table.groupby("observable").change.apply(lambda change: change.notna().any())
    observables = [name for name in observables if known.get(name, False)]  # no slope: no row
    return _effect_panels(
        table,
        [[(component, name) for component in COMPONENT_NAMES] for name in observables],
        [_change_label(table, name, " ") for name in observables],
        list(COMPONENT_NAMES.values()),
        _fillings("equal length (first rows)", "raw"),
    )


def draw_answer_effects(table: pd.DataFrame) -> Figure:
    """Main effects and interactions on word error, candidates and log-probability."""
    labels = {name: said for name, said in _EFFECT_LABELS.items() if name in set(table.observable)}
    panels = [[("answer", name) for name in labels]]
    titles = list(labels.values())
    return _effect_panels(table, panels, ["change under stress"], titles, [])


def _two_lines(condition: str) -> str:
    """A condition's name over its severity."""
    base, severity = split_severity(condition)
    return base if severity == 1 else f"{base}\n{severity:g}"


def draw_within(table: pd.DataFrame) -> Figure:
    """Candidates against others under one stress: a panel per condition that has both.

    ``table`` holds rows of ``within_conditions`` of one K per observable, and the answers' own.
    Filled marks differ at equal length too, open ones do not.
    """
    table = table[table.verdict != TOO_FEW]
    conditions = sorted(set(table.condition), key=split_severity)
    lines = list(dict.fromkeys(zip(table.component, table.observable, strict=True)))
    order = ["answer", *COMPONENT_NAMES]
    lines.sort(key=lambda line: (order.index(line[0]), list(_SHORT).index(line[1])))
    models = model_order(table)
    columns = min(5, len(conditions))
    height = -(-len(conditions) // columns)
    per_line = max(0.2, 0.06 + 0.03 * len(models))  # inches
    figure, axes = plt.subplots(
        height, columns, sharex=True, sharey=True, squeeze=False,
        figsize=(PAGE, (per_line * len(lines) + 0.4) * height + 0.6), layout="constrained",
    )  # fmt: skip
    for ax in axes.flat[len(conditions) :]:
        ax.set_visible(False)
    for ax, condition in zip(axes.flat, conditions, strict=False):
        own = table[table.condition == condition].set_index(["model", "component", "observable"])
        for model in models:
            at = own.reindex([(model, *line) for line in lines])
            for filled in (True, False):
                marked = at[["auc", "auc_low", "auc_high"]].where(
                    (at.verdict == DIFFERS) == filled, axis=0
                )
                _marks(ax, marked.to_numpy().T, models, model, filled)
        _rows(ax, len(lines))
        ax.axvline(0.5, color="black", lw=0.5)
        ax.set_title(_two_lines(condition))
        ax.set_xlim(-0.03, 1.03)
        ax.set_xticks([0, 0.5, 1])
    names = [f"{COMPONENT_NAMES.get(part, part)}: {_SHORT[name]}" for part, name in lines]
    axes[0, 0].set_yticks(range(len(lines)), names)
    axes[-1, columns // 2].set_xlabel("probability that a candidate's value is the larger")
    handles = [*_models(table), *_fillings("differs at equal length", "does not")]
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
    return figure


def _effect_panels(
    table: pd.DataFrame,
    panels: list[list[tuple[str, str]]],
    labels: list[str],
    titles: list[str],
    handles: list[Line2D],
) -> Figure:
    models = model_order(table)
    figure, axes = plt.subplots(
        len(panels), len(panels[0]), sharey=True, squeeze=False, layout="constrained",
        sharex="row" if len(panels) > 1 else False,
        figsize=(PAGE, max(1.7, 0.22 * len(models)) * len(panels) + 0.7),
    )  # fmt: skip
    for row, keys, label in zip(axes, panels, labels, strict=True):
        for ax, (component, observable) in zip(row, keys, strict=True):
            part = table[(table.component == component) & (table.observable == observable)]
            for (model, length), own in part.groupby(["model", "length"], sort=True):
                own = own.set_index("effect").reindex(EFFECTS)
                raw = length == "raw" and bool(handles)
                values = own[["change", "low", "high"]].to_numpy().T
                _marks(ax, values, models, model, not raw, 0.06 if raw else -0.06)
            _rows(ax, len(EFFECTS))
            ax.axvline(0, color="black", lw=0.5)
        row[0].set_yticks(
            range(len(EFFECTS)), [name.replace(" x ", " \u00d7 ") for name in EFFECTS]
        )
        row[len(row) // 2].set_xlabel(label)
    for ax, title in zip(axes[0], titles, strict=True):
        ax.set_title(title)
    figure.legend(handles=[*_models(table), *handles], loc="outside lower center", ncols=4)
    return figure


def _draw_doses(ax: Axes, table: pd.DataFrame, raw: bool = False) -> None:
    models = model_order(table)
    colours, markers = model_colours(models), model_markers(models)
    for i, model in enumerate(models):
        own = table[table.model == model].sort_values("severity")
        errors = np.abs(own[["low", "high"]].to_numpy().T - own.change.to_numpy())
        ax.errorbar(
            own.severity + 0.008 * (i - (len(models) - 1) / 2), own.change, yerr=errors,
            fmt=markers[model] + ("--" if raw else "-"), color=colours[model], ms=3,
            lw=0.6 if raw else 1.0, mfc="white" if raw else colours[model],
        )  # fmt: skip


def _marks(
    ax: Axes,
    values: np.ndarray,
    models: list[str],
    model: str,
    filled: bool,
    shift: float = 0.0,
) -> None:
    """A mark per line: ``values``, ``(3, lines)``, are where it is and its interval's ends."""
    value, low, high = values
    colour = model_colours(models)[model]
    places = np.arange(len(value)) + _offsets(models)[models.index(model)] + shift
    ax.errorbar(
        value, places, xerr=[value - low, high - value], ms=3, lw=0.8, color=colour,
        fmt=model_markers(models)[model], mfc=colour if filled else "white",
    )  # fmt: skip


def _rows(ax: Axes, count: int) -> None:
    for i in range(0, count, 2):
        ax.axhspan(i - 0.5, i + 0.5, color=_SHADE, zorder=0)
    ax.set_ylim(count - 0.5, -0.5)


def _offsets(models: list[str]) -> np.ndarray:
    reach = 0.3 * (1 - 1 / len(models))
    return np.linspace(-reach, reach, len(models))


def _change_label(table: pd.DataFrame, observable: str, gap: str) -> str:
    modes = table[table.observable == observable].modes.iloc[0]
    unit = " (%)" if observable == "n_eff" else ""
    return f"change of{gap}{_SHORT[observable]}{unit}{',' if gap == ' ' else gap} $K$ = {modes}"


def _models(table: pd.DataFrame) -> list[Line2D]:
    models = model_order(table)
    colours, markers = model_colours(models), model_markers(models)
    return [
        Line2D([], [], ls="", marker=markers[model], color=colours[model], label=label)
        for model, label in legend_labels(table).items()
        if not label.startswith("_")
    ]


def _fillings(filled: str, open_: str, lines: bool = False) -> list[Line2D]:
    return [
        Line2D(
            [], [], color="black", marker="o", label=label, mfc=filling,
            ls=style if lines else "",
        )
        for label, filling, style in ((filled, "black", "-"), (open_, "white", "--"))
    ]  # fmt: skip
