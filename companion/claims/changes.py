"""Claims 1 to 6: how spectra change under stress.

Pooled numbers follow the paper's convention, of all utterances but those that loop on either side.
Changes per utterance leave those out too: a loop adds many nearly equal rows to one side. At equal
length they are of random rows of the longer text; of its first rows, which are no random part of
it, where no other were measured, and of what is compared with controls that were cut so. Each part
says which.
"""

from collections.abc import Callable, Iterator

import pandas as pd

from companion.claims.numbers import (
    POOLED,
    NotMeasured,
    Tables,
    by_model,
    of,
    only,
    with_bounds,
)
from companion.claims.roles import (
    INTERMEDIATE,
    LARGEST,
    SMALLEST,
    every_model,
    is_openai,
    models_of,
    sizes,
)
from companion.claims.rules import ABOVE, BELOW, Part, Statement, part
from companion.measurement.pooling import ALL, UNSEEN
from companion.measurement.schemas import INITIALISED, SPECTRUM, SWAPPED, UNPAIRED
from companion.models.capture import COMPONENTS
from companion.models.rules import OPENAI, UNRESTRICTED
from companion.results.effects import FIRST_ROWS, MATCHED, RANDOM_ROWS, RAW, WITHOUT_LOOPS, size_of
from companion.results.evidence import MODEL
from companion.results.intervals import Interval, between, difference
from companion.results.tails import EIGENVALUE, FRACTION, TAIL

_MODES = 50
_EVIDENCE = f"evidence_k{_MODES}"
_OUTCOMES, _CONTROLS, _EQUAL = "by_outcome", "controls", "equal_length"
_ALPHA = 9.0
_DECADES = 2.9
_FIRST = f"{FIRST_ROWS} of equal number"
_NETWORKS = {"randomly initialised control": INITIALISED, "random vectors": SPECTRUM}
_NAMES = {"n_eff": "effective rank", "alpha": "slope"}
_RANK = {"cross_attention": -4.70, "self_attention": -2.34, "ffn": -13.59}
"""Published falls of rank in %, of several models the least; what power is stated for."""

_SLOPE, _CONTRAST, _INDEX, _RATIO = 0.008, -11.98 + 4.70, 3.87, 1.05
"""Other published sizes: self-attention's slope, Tiny minus Turbo, Small's index, tails."""

Models = Callable[[pd.DataFrame], list[str]]
"""The models of a table that a claim is about."""


def signal_loss(tables: Tables) -> list[Part]:
    """Claim 1: cross-attention's rank falls, beyond the controls, most in the smallest size."""
    return [
        *_falls(tables, "cross_attention", "n_eff", every_model, BELOW),
        part(
            f"the smallest size falls more than the largest, {_equal(tables)}",
            _table(tables),
            _contrast(tables),
            _CONTRAST,
        ),
    ]


def compression(tables: Tables) -> list[Part]:
    """Claim 2: in the largest size self-attention's rank falls and its slope rises."""
    return [
        *_falls(tables, "self_attention", "n_eff", _role(LARGEST), BELOW),
        *_falls(tables, "self_attention", "alpha", _role(LARGEST), ABOVE),
    ]


def collapse(tables: Tables) -> list[Part]:
    """Claim 3: the FFN's rank falls in sizes that are neither the smallest nor the largest."""
    return _falls(tables, "ffn", "n_eff", _role(INTERMEDIATE), BELOW)


def resistance(tables: Tables) -> list[Part]:
    """Claim 4: the Kirchhoff index rises, by the decades published, in every component.

    Pooled, by both readings of a change of log10 Kf: the logarithm of the difference, under which
    the published numbers come out again, and the difference of the logarithms.
    """
    pooled = [
        (f"pooled, log10 of its difference is {_DECADES} or more", "log10_difference", _DECADES),
        ("pooled, its log10 rises", "log10_ratio", 0.0),
        (f"pooled, its log10 rises by {_DECADES}", "log10_ratio", _DECADES),
    ]
    rows = rows_kept(tables)
    changes = [
        ("the padded index rises, raw", "log10_kf", RAW, 0.0),
        (f"it rises, {_equal(tables)}", "log10_kf", rows, 0.0),
        (f"resolved, it rises, {_equal(tables)}", "log10_kf_resolved", rows, 0.0),
        (f"the padded index rises by {_DECADES} decades, raw", "log10_kf", RAW, _DECADES),
    ]
    return [
        part(f"{_said(component)}: {says}", tables.pooled.stem,
             _pooled(tables, component, name, every_model, ABOVE, bound), _INDEX)
        for says, name, bound in pooled
        for component in COMPONENTS
    ] + [
        part(f"{_said(component)}: {says}", _table(tables, way),
             _changed(tables, component, name, way, every_model, ABOVE, bound), _INDEX)
        for says, name, way, bound in changes
        for component in COMPONENTS
    ]  # fmt: skip


def either_regime(tables: Tables) -> list[Part]:
    """Claim 5: effective rank falls in every component of every size."""
    return [
        part(
            f"{_said(component)}: effective rank falls, {says}", _table(tables, way),
            _changed(tables, component, "n_eff", way, every_model, BELOW, 0), _RANK[component],
        )
        for says, way in _ways(tables).items()
        for component in COMPONENTS
    ]  # fmt: skip


def hardening(tables: Tables) -> list[Part]:
    """Claim 6: in the largest size slopes exceed nine under stress, tail eigenvalues clean ones.

    Of which component the tail is, is not said: compression is claimed of self-attention alone, so
    its tail counts; the table has the others. Ratios of fractions of the sum are those that larger
    activations, in all modes alike, do not raise.
    """
    return [
        *(
            part(
                f"{_said(component)}: alpha exceeds {_ALPHA:g} under stress, pooled, K = {_MODES}",
                tables.pooled.stem,
                _pooled(tables, component, "alpha_stressed", _role(LARGEST), ABOVE, _ALPHA),
                _ALPHA + 1,
            )
            for component in COMPONENTS
        ),
        *(
            part(f"{_said(component)}: alpha exceeds {_ALPHA:g} under stress, mean over K",
                 "phase_diagram", _slopes(tables, component), _ALPHA + 1)
            for component in COMPONENTS
        ),
        *_tails(tables),
    ]  # fmt: skip


def _slopes(tables: Tables, component: str) -> Iterator[Statement]:
    keys = ["parameters", "model", "component", "side"]
    table = tables.read("phase_diagram", [*keys, *with_bounds("alpha")])
    large = table.model.isin(models_of(table, LARGEST))
    own = table[large & (table.side == "stressed") & (table.component == component)]
    for model, found in by_model(own, "alpha"):
        yield Statement(model, found, ABOVE, _ALPHA)


def _tails(tables: Tables) -> list[Part]:
    says = "self-attention's tail eigenvalues exceed the clean ones"
    ways = (
        ("raw", RAW, EIGENVALUE),
        (_FIRST, MATCHED, EIGENVALUE),
        (f"as fractions of their sum, {_FIRST}", MATCHED, FRACTION),
    )
    return [
        part(f"{says}, {way}", "tail_eigenvalues", _tail(tables, length, measure), _RATIO)
        for way, length, measure in ways
    ]


def _tail(tables: Tables, length: str, measure: str) -> Iterator[Statement]:
    keys = ["parameters", "model", "component", "length", "measure", "part"]
    table = tables.read("tail_eigenvalues", [*keys, *with_bounds("ratio")])
    for model in models_of(table, LARGEST):
        chosen = {"model": model, "component": "self_attention", "length": length}
        row = only(table, chosen | {"measure": measure, "part": TAIL})
        yield Statement(model, of(row, "ratio"), ABOVE, 1)


def _falls(
    tables: Tables, component: str, observable: str, models: Models, side: str
) -> list[Part]:
    """That a change has a side: pooled, raw, at equal length, and there beyond each null.

    Beyond a null half of what was published would matter.
    """
    name = f"{_said(component)}'s {_NAMES[observable]}"
    verb = {BELOW: "falls", ABOVE: "rises"}[side]
    expected = _RANK[component] if observable == "n_eff" else _SLOPE
    pooled = _pooled(tables, component, observable, models, side, 0)
    parts = [part(f"{name} {verb}, pooled", tables.pooled.stem, pooled, expected)]
    for says, way in _ways(tables).items():
        changed = _changed(tables, component, observable, way, models, side, 0)
        parts.append(part(f"{name} {verb}, {says}", _table(tables, way), changed, expected))
    more = f"{name} {verb} more than with"
    for says, control in _NETWORKS.items():
        beyond = _beyond_control(tables, component, observable, control, models, side)
        parts.append(part(f"{more} {says}, {_FIRST}", _CONTROLS, beyond, expected / 2))
    if some := _with_unpaired(tables, models):
        beyond = _beyond_control(tables, component, observable, UNPAIRED, lambda _: some, side)
        says = f"{more} unpaired training, {_FIRST}"
        parts.append(part(says, _CONTROLS, beyond, expected / 2))
    beyond = _beyond_speech(tables, component, observable, models, side)
    return [*parts, part(f"{more} other speech, {_FIRST}", _EVIDENCE, beyond, expected / 2)]


def pooled_row(tables: Tables, name: str, **where: object) -> "pd.Series[float]":
    """The row of the pooled table with a number: as ``where`` says, else at its defaults.

    These are what was measured, cross-attention, loops dropped, K = 50, by openai-whisper's rule
    and of the unseen utterances; of models on which nothing was searched, of all utterances, by the
    rule that they were measured by.
    """
    keys = ["of", "model", "decoding", "sample", "loops", "component", "modes"]
    table = tables.read(POOLED, [*keys, *with_bounds(name)])
    rules, samples = set(table.decoding), set(table["sample"])
    chosen: dict[str, object] = {
        "of": "measured", "loops": "dropped", "component": "cross_attention", "modes": _MODES,
        "decoding": OPENAI.name if OPENAI.name in rules else UNRESTRICTED.name,
        "sample": UNSEEN if UNSEEN in samples else ALL,
    }  # fmt: skip
    return only(table, chosen | where)


def rows_kept(tables: Tables) -> str:
    """Which rows equal length keeps: random ones where every model has them, else the first."""
    try:
        known = tables.read(_EQUAL, ["model", "rows"])
        models = set(tables.read(_OUTCOMES, ["model"]).model)
    except NotMeasured:
        return FIRST_ROWS
    return RANDOM_ROWS if models <= set(known.model[known["rows"] == RANDOM_ROWS]) else FIRST_ROWS


def changed_row(
    tables: Tables, model: str, component: str, observable: str, way: str
) -> "pd.Series[float]":
    """The row of a change per utterance, K = 50, of the transcripts without loops.

    ``way`` is raw, or which rows equal length keeps. Random rows have a table of their own, of
    fewer utterances.
    """
    chosen: dict[str, object] = {"model": model, "component": component, "modes": _MODES}
    name = _table(tables, way)
    if name == _EQUAL:
        chosen |= {"rows": RANDOM_ROWS}
    else:
        chosen |= {"outcome": WITHOUT_LOOPS, "length": RAW if way == RAW else MATCHED}
    return only(tables.read(name, [*chosen, *with_bounds(f"delta_{observable}")]), chosen)


def control_row(
    tables: Tables, model: str, component: str, observable: str, control: str
) -> "pd.Series[float]":
    """The row of what is left of a change, length-matched, beside random networks, K = 50."""
    keys = ["model", "component", "observable", "control", "length", "modes"]
    table = tables.read(_CONTROLS, [*keys, *with_bounds("remaining", "fraction")])
    chosen = {"model": model, "component": component, "observable": observable}
    return only(table, chosen | {"control": control, "length": MATCHED, "modes": _MODES})


def _pooled(
    tables: Tables, component: str, name: str, models: Models, side: str, bound: float
) -> Iterator[Statement]:
    measured = tables.read(POOLED, ["of", "parameters", "model"])
    for model in models(measured[measured.of == "measured"]):
        row = pooled_row(tables, name, model=model, component=component)
        yield Statement(model, of(row, name), side, bound)


def _changed(
    tables: Tables, component: str, observable: str, way: str, models: Models, side: str,
    bound: float,
) -> Iterator[Statement]:  # fmt: skip
    for model in models(tables.read(_OUTCOMES, ["parameters", "model"])):
        row = changed_row(tables, model, component, observable, way)
        yield Statement(model, of(row, f"delta_{observable}"), side, bound)


def _beyond_control(
    tables: Tables, component: str, observable: str, control: str, models: Models, side: str
) -> Iterator[Statement]:
    for model in models(tables.read(_CONTROLS, ["parameters", "model"])):
        row = control_row(tables, model, component, observable, control)
        yield Statement(model, of(row, "remaining"), side, 0)


def _with_unpaired(tables: Tables, models: Models) -> list[str]:
    """The models beside which networks trained on unpaired audio and text were measured."""
    try:
        table = tables.read(_CONTROLS, ["parameters", "model", "control"])
        having = set(table.model[table.control == UNPAIRED])
        return [model for model in models(table) if model in having]
    except NotMeasured:
        return []


def _beyond_speech(
    tables: Tables, component: str, observable: str, models: Models, side: str
) -> Iterator[Statement]:
    """Loops and all: what other speech does is known of all transcripts together alone."""
    keys = ["parameters", "model", "component", "modes", "source", "length", "observable"]
    table = tables.read(_EVIDENCE, [*keys, "change", "low", "high"])
    for model in models(table):
        chosen = {"model": model, "component": component, "observable": observable}
        own, other = (
            only(table, chosen | {"modes": _MODES, "length": MATCHED, "source": source})
            for source in (MODEL, SWAPPED)
        )
        both = (of(row, "change", ("change", "low", "high")) for row in (own, other))
        yield Statement(model, difference(*both), side, 0)


def _contrast(tables: Tables) -> Iterator[Statement]:
    """Over seeds; OpenAI's networks are no sample of seeds, and each stands for itself."""
    table = tables.read(_OUTCOMES, ["parameters", "model"])
    small, large = (models_of(table, role) for role in (SMALLEST, LARGEST))

    def change(model: str) -> Interval:
        row = changed_row(tables, model, "cross_attention", "n_eff", rows_kept(tables))
        return of(row, "delta_n_eff")

    if all(map(is_openai, [*small, *large])):
        for one in small:
            for other in large:
                found = difference(change(one), change(other))
                yield Statement(f"{one} minus {other}", found, BELOW, 0)
        return
    one, other = (size_of(group[0]) for group in (small, large))
    every = {size_of(group[0]): list(map(change, group)) for group in sizes(table)}
    yield Statement(f"{one} minus {other}", between(every, one, other), BELOW, 0)


def _role(role: str) -> Models:
    return lambda table: models_of(table, role)


def _ways(tables: Tables) -> dict[str, str]:
    return {"raw": RAW, _equal(tables): rows_kept(tables)}


def _equal(tables: Tables) -> str:
    return f"{rows_kept(tables)} of equal number"


def _table(tables: Tables, way: str = "") -> str:
    return _EQUAL if (way or rows_kept(tables)) == RANDOM_ROWS else _OUTCOMES


def _said(component: str) -> str:
    return component.replace("_", "-")
