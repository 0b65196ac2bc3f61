"""The sixteen claims, in our words, each with the rows that weigh it.

Beyond a null half of what was published would matter; where nothing was published, ``expected`` is
the smallest number that would matter.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from companion.claims import numbers
from companion.claims.numbers import LARGEST, SMALLEST, STRESS, Number, Tables, average, cell
from companion.claims.rules import Part, Row, claim_verdict, reason
from companion.measurement import schemas
from companion.models.capture import COMPONENTS
from companion.results import intervals
from companion.results.effects import FIRST_ROWS, MATCHED, RAW, size_of
from companion.results.intervals import NOTHING, Interval
from companion.results.scale import PREDICTORS
from companion.results.shapes import LEAST_MARGIN, STEP
from companion.results.stresses import ALL_LAYERS, BEYOND, RANDOM, TRAINED
from companion.results.tails import EIGENVALUE, FRACTION, TAIL
from companion.results.transcripts import CONFIDENCES, LEAST_LOG_PROBABILITY, REFERENCES
from companion.results.warnings import BEFORE

_RANK = {numbers.CROSS: -4.70, "self_attention": -2.34, "ffn": -13.59}
"""Published falls of rank in %, of several models the least."""

_SLOPE, _CONTRAST, _INDEX, _RATIO = 0.008, -11.98 + 4.70, 3.87, 1.05
"""Other published sizes: self-attention's slope, Tiny minus Turbo, Small's index, tails."""

_DECADES, _ALPHA = 2.9, 9.0
_FIRST = f"{FIRST_ROWS} of equal number"
_CHANCE, _WARNS = 0.5, 0.6
"""AUC of no warning, and the least of a warning that would matter."""

_MIXED = "there is no stress under which some transcripts are hallucinated"
_AUC = "on stresses of all kinds (AUC)"
_PARTS = {part: part.replace("_", "-") for part in COMPONENTS}
Rows = Iterator[Row]


def _equal(tables: Tables) -> tuple[str, str]:
    """How equal length reads, and which rows it keeps."""
    return f"{(kept := numbers.rows_kept(tables))} of equal number", kept


def _falls(
    tables: Tables, component: str, observable: str = "n_eff", role: str = numbers.EVERY
) -> Rows:
    """That rank falls, or the slope rises: pooled, raw, at equal length, there beyond each null."""
    rank = observable == "n_eff"
    name = f"{_PARTS[component]}'s {'effective rank falls' if rank else 'slope rises'}"
    expected = _RANK[component] if rank else _SLOPE
    ways = {"pooled": numbers.pooled(observable, component=component)}
    for says, way in (("raw", RAW), _equal(tables)):
        ways[says] = numbers.changed(observable, way, component)
    for says, number in ways.items():
        yield Row(f"{name}, {says}", number, 0, expected, role)
    for says, control in (
        ("randomly initialised control", schemas.INITIALISED),
        ("random vectors", schemas.SPECTRUM),
        ("unpaired training", schemas.UNPAIRED),
    ):
        number = numbers.beside_control("remaining", control, observable, component)
        beside = control == schemas.UNPAIRED
        number, says = number.if_known() if beside else number, f"more than with {says}, {_FIRST}"
        yield Row(f"{name} {says}", number, 0, expected / 2, role, beside=beside)
    number = numbers.beyond_speech(observable, component)
    yield Row(f"{name} more than with other speech, {_FIRST}", number, 0, expected / 2, role)


def _signal_loss(tables: Tables) -> Rows:
    yield from _falls(tables, numbers.CROSS)
    says, way = _equal(tables)
    contrast = _smallest_minus_largest(numbers.changed("n_eff", way))
    yield Row(f"the smallest size falls more than the largest, {says}", contrast, 0, _CONTRAST)


def _smallest_minus_largest(change: Number) -> Number:
    """Over seeds; OpenAI's networks are no sample of seeds, and each stands for itself."""

    def names(tables: Tables, role: str) -> list[str]:
        ends = [change.names(tables, end) for end in (SMALLEST, LARGEST)]
        if not all(numbers.is_openai(model) for models in ends for model in models):
            ends = [[size_of(models[0])] for models in ends]
        return [f"{small} minus {large}" for small in ends[0] for large in ends[1]]

    def read(tables: Tables, name: str) -> Interval:
        small, large = name.split(" minus ")
        every: dict[str, list[Interval]] = {}
        for model, number in change.by_model(tables):
            every.setdefault(size_of(model), []).append(number)
        if small in change.names(tables, numbers.EVERY):
            return intervals.difference(*every[small], *every[large])
        return intervals.between(every, small, large)

    return Number(change.table, read, names)


def _compression(tables: Tables) -> Rows:
    yield from _falls(tables, "self_attention", role=LARGEST)
    yield from _falls(tables, "self_attention", "alpha", LARGEST)


def _collapse(tables: Tables) -> Rows:
    return _falls(tables, "ffn", role=numbers.INTERMEDIATE)


def _resistance(tables: Tables) -> Rows:
    """Pooled, by both readings of a change of log10 Kf: the logarithm of the difference, under
    which the published numbers come out again, and the difference of the logarithms."""
    equal, kept = _equal(tables)
    for says, name, way, bound in (
        (
            f"pooled, log10 of its difference is {_DECADES} or more",
            "log10_difference",
            "",
            _DECADES,
        ),
        ("pooled, its log10 rises", "log10_ratio", "", 0.0),
        (f"pooled, its log10 rises by {_DECADES}", "log10_ratio", "", _DECADES),
        ("the padded index rises, raw", "log10_kf", RAW, 0.0),
        (f"it rises, {equal}", "log10_kf", kept, 0.0),
        (f"resolved, it rises, {equal}", "log10_kf_resolved", kept, 0.0),
        (f"the padded index rises by {_DECADES} decades, raw", "log10_kf", RAW, _DECADES),
    ):
        for part, named in _PARTS.items():
            number = numbers.changed(name, way, part)
            if not way:
                number = numbers.pooled(name, component=part)
            yield Row(f"{named}: {says}", number, bound, _INDEX)


def _either_regime(tables: Tables) -> Rows:
    for says, way in (("raw", RAW), _equal(tables)):
        for part, named in _PARTS.items():
            number = numbers.changed("n_eff", way, part)
            yield Row(f"{named}: effective rank falls, {says}", number, 0, _RANK[part])


def _hardening(tables: Tables) -> Rows:
    """Of which component the tail is, is not said: compression is claimed of self-attention alone,
    so its tail counts; the table has the others. Ratios of fractions of the sum are those that
    larger activations, in all modes alike, do not raise."""
    says = f"alpha exceeds {_ALPHA:g} under stress"
    for part, named in _PARTS.items():
        number = numbers.pooled("alpha_stressed", component=part)
        about = f"{named}: {says}, pooled, K = {numbers.MODES}"
        yield Row(about, number, _ALPHA, _ALPHA + 1, LARGEST)
    for part, named in _PARTS.items():
        number = average("phase_diagram", "alpha", side="stressed", component=part)
        yield Row(f"{named}: {says}, mean over K", number, _ALPHA, _ALPHA + 1, LARGEST)
    for way, length, measure in (
        ("raw", RAW, EIGENVALUE),
        (_FIRST, MATCHED, EIGENVALUE),
        (f"as fractions of their sum, {_FIRST}", MATCHED, FRACTION),
    ):
        where = {"component": "self_attention", "length": length, "measure": measure, "part": TAIL}
        says = f"self-attention's tail eigenvalues exceed the clean ones, {way}"
        yield Row(says, cell("tail_eigenvalues", "ratio", **where), 1, _RATIO, LARGEST)


def _early_warning(tables: Tables) -> Rows:
    few = "too few transcripts have beginnings that are still right"
    for part, named in _PARTS.items():
        where = {"observable": "alpha", "modes": numbers.MODES, "component": part}
        auc, adjusted = (average(numbers.WITHIN, name, **where) for name in ("auc", "adjusted"))
        before = numbers.beginnings(BEFORE, part, "alpha")
        says = f"{named}: a hallucinated transcript's alpha is more likely the higher one"
        yield Row(says, auc, _CHANCE, _WARNS, without=_MIXED)
        says = f"{named}: hallucinated transcripts have the higher alpha, at equal length"
        yield Row(says, adjusted, 0, 0.1, without=_MIXED)
        says = f"{named}: alpha is higher before a hallucination, in the same stress"
        yield Row(says, before, _CHANCE, _WARNS, without=few)
        says = f"{named}: alpha tells invented texts from others, {_AUC}"
        yield Row(says, _contested(f"{named}: alpha"), _CHANCE, _WARNS, beside=True)


def _contested(score: str) -> Number:
    """AUC of inventions and loops in the contest, of OpenAI's models alone: stretched, in Hell."""
    where = {"set": "unseen stresses", "prefix": schemas.WHOLE, "confident": False}
    return average("contest", "auroc", **where, contestant=score)


def _unstable(tables: Tables) -> Rows:
    rise = numbers.unstable_rise()
    says = "more unstable dimensions in Hell than on clean speech, mean over layers"
    yield Row(says, rise, 0, 0.01)
    says = "the rise is larger than of the randomly initialised control, mean over layers"
    yield Row(says, rise - numbers.unstable_rise(RANDOM), 0, 0.01)
    more = "under one stress, hallucinated transcripts have more of them"
    controls = "by more than in their randomly initialised controls, at equal length"
    for says, name, network in (
        (f"{more}, raw", "difference", TRAINED),
        (f"{more}, at equal length", "adjusted", TRAINED),
        (controls, "adjusted", BEYOND),
    ):
        number = average("unstable_dimensions", name, layer=ALL_LAYERS, network=network)
        yield Row(says, number, 0, 1.0, without=_MIXED)


def _transition(tables: Tables) -> Rows:
    none = "there is no curve of four points or more"
    for along in ("severity", "depth"):
        yield Row(f"most curves over {along} are a step", _steps(along), 0.5, 0.75, without=none)


def _steps(along: str) -> Number:
    """The fraction of steps, bounded by taking all curves that are not decided for none, or all.

    A curve is decided where the interval of its margin is on one side of the least that leads.
    """

    def read(tables: Tables, model: str) -> Interval:
        columns = ["verdict", *numbers.with_bounds("margin")]
        curves = numbers.chosen(tables, "transitions", columns, along=along, model=model)
        curves = curves[curves.verdict != "too few"]
        if curves.empty:
            return NOTHING
        low = float((curves.margin_low > LEAST_MARGIN).mean())
        high = float((~(curves.margin_high < LEAST_MARGIN)).mean())
        return Interval(float((curves.verdict == STEP).mean()), low, high)

    return numbers.per_model("transitions", read)


def _decay(tables: Tables) -> Rows:
    """Modulo the direction 1, for in the whole space no product can decay; an injection by its
    fraction of the hidden state, and by what the final norm passes on of it."""
    for says, name in (
        ("every gain is below one", "gain_below_one"),
        ("the product of layers decays", "product_decays"),
        ("the first injection decays relative to the hidden state", "relative_injection_decays"),
        ("the first injection decays after the final norm", "normed_injection_decays"),
    ):
        number = numbers.hypothesis(name)
        yield Row(f"{says}, at most tokens", number, 0.5, 0.75, SMALLEST)
    says = "it does so after the final norm oftener than in the randomly initialised control"
    yield Row(says, number - numbers.hypothesis(name, RANDOM), 0, 0.1, SMALLEST)


def _single_direction(tables: Tables) -> Rows:
    first = numbers.hypothesis("rank_one_fraction")
    beyond = first - numbers.hypothesis("rank_one_fraction", RANDOM)
    product = numbers.hypothesis("product_rank_one")
    ratio = average("propagators", "singular_value_ratio", network=TRAINED, condition=STRESS)
    yield Row("most of the sensitivity is in one direction", first, 0.5, 0.75, LARGEST)
    yield Row("more of it than in the randomly initialised control", beyond, 0, 0.1, LARGEST)
    yield Row("the product is of rank one, at most tokens", product, 0.5, 0.75, LARGEST)
    yield Row("gaps are below 0.5, mean over layers", ratio, 0.5, 0.25, LARGEST)


def _attraction(tables: Tables) -> Rows:
    for quantity in (schemas.DISTANCE, schemas.CENTRED_DISTANCE):
        name = quantity.replace("_", " ")
        ratio, change = (numbers.distance(quantity, of) for of in ("ratio_stressed", "change"))
        says = f"{name}: states in Hell are closer at the last layer than at input"
        yield Row(says, ratio, 1, 0.95, LARGEST)
        says = f"{name}: they are closer in Hell than on clean speech (%)"
        yield Row(says, change, 0, -5, LARGEST)
        beyond = change - numbers.distance(quantity, "change", RANDOM)
        says = f"{name}: by more than in the randomly initialised control (%)"
        yield Row(says, beyond, 0, -5, LARGEST)
    alike = numbers.alike(STRESS) - numbers.alike(REFERENCES)
    yield Row("more pairs share their text in Hell than were said alike (%)", alike, 0, 1, LARGEST)


def _subtle(tables: Tables) -> Rows:
    """The least change of clean speech that was tried makes new hallucinations."""
    says = "the least changes of the log-mel make new hallucinations (% of transcripts)"
    for name in ("singular", "random"):
        where = {"condition": "clean", "level_db": max, "direction": name}  # below the log-mel
        number = average("subtle_stress", "new_candidates", **where)
        yield Row(f"{name} direction: {says}", number, 0, 5)
    everyday = average("contest_honest", "invented", condition=schemas.EVERYDAY_CHANGES)
    says = "room tone, a low level, clipping or a telephone line make inventions of 5 % or more"
    yield Row(says, everyday, 5, 10, beside=True)


def _forecast(tables: Tables) -> Rows:
    none = "there is no target with enough models"
    for rival, name in (("mean", "the mean of the others"), ("size", "size alone")):
        for predictor in PREDICTORS:
            says = f"{predictor} forecasts better than {name} (skill)"
            yield Row(says, _skill(predictor, rival), 0, 0.2, without=none)


def _skill(predictor: str, rival: str) -> Number:
    """Targets stand in the place of models, which a skill is over."""

    def rows(tables: Tables, **where: str) -> pd.DataFrame:
        if not tables.path("forecast").exists():
            raise numbers.NotMeasured("there is no forecast.csv; it takes more sizes than two")
        where |= {"predictor": predictor, "rival": rival}
        return numbers.chosen(
            tables, "forecast", ["target", *numbers.with_bounds("skill")], **where
        )

    return Number(
        "forecast",
        lambda tables, target: numbers.of(rows(tables, target=target).iloc[0], "skill"),
        lambda tables, role: list(rows(tables).target),
    )


def _fluency(tables: Tables) -> Rows:
    for role, says, kinds in (
        (SMALLEST, "incoherent", ["loop", "fragment", "gibberish"]),
        (LARGEST, "fluent inventions", ["invention"]),
    ):
        says = f"most transcripts of the {role} size are {says} (%)"
        yield Row(says, _kinds(kinds), 50, 75, role)


def _kinds(kinds: list[str]) -> Number:
    """Fractions of kinds add up, speaker by speaker; of none or all it is exact."""

    def read(tables: Tables, model: str) -> Interval:
        columns = ["outcome", "n", *numbers.with_bounds("fraction")]
        where = {"condition": STRESS, "model": model}
        rows = numbers.chosen(tables, "outcome_confidence", columns, **where)
        of_kinds = rows[rows.outcome.isin(kinds) & (rows.n > 0)]
        count, total = int(of_kinds.n.sum()), int(rows.n.sum())
        if not 0 < count < total:
            return intervals.exact(count, total)
        fractions = [numbers.of(row, "fraction") for _, row in of_kinds.iterrows()]
        return intervals.scaled(intervals.mean(fractions), len(fractions))

    return numbers.per_model("outcome_confidence", read)


def _confidence(tables: Tables) -> Rows:
    """The threshold is one per word piece. An AUC is the probability that of a right transcript and
    an invention the right one is the more confident, so its unit does not matter within a model;
    under one stress it is that of other transcripts and candidates."""
    says = "most inventions in Hell have a log-probability per word piece above"
    other = "Whisper's threshold is per word piece, and these models write characters"
    passing = numbers.outcome("invention", "passing").if_known()
    yield Row(f"{says} {LEAST_LOG_PROBABILITY:g} (%)", passing, 50, 75, without=other)
    tell = "the log-probability does not tell"
    says = f"{tell} inventions from right transcripts, on clean speech and in Hell (AUC)"
    yield Row(says, _separation(), _WARNS, _CHANCE)
    within = average(numbers.WITHIN, "auc", observable=list(CONFIDENCES))
    says = f"{tell} candidates from other transcripts under one stress (AUC)"
    yield Row(says, within.then(intervals.complement), _WARNS, _CHANCE, without=_MIXED)
    says = f"{tell} invented texts from others, {_AUC}"
    yield Row(says, _contested("log-probability"), _WARNS, _CHANCE, beside=True)


def _separation() -> Number:
    """By the log-probability of the model's own tokens, word pieces or characters."""
    units = [cell("confidence", f"auc_{name}").if_known() for name in CONFIDENCES]

    def read(tables: Tables, model: str) -> Interval:
        both = (unit.read(tables, model) for unit in units)
        return next((number for number in both if number is not NOTHING), NOTHING)

    return numbers.per_model("confidence", read)


PAPER, ARTICLE, BOTH = "paper", "article", "paper, article"


@dataclass(frozen=True)
class Claim:
    """What is claimed, by whom, and the rows that weigh it, which depend on what was measured."""

    number: int
    source: str
    text: str
    rows: Callable[[Tables], Rows]

    def weigh(self, tables: Tables) -> "Weighed":
        """The claim with its parts; parts whose table is not there are not measured."""
        parts = [(row, row.weigh(tables)) for row in self.rows(tables)]
        return Weighed(self, [part for row, part in parts if part.statements or not row.beside])


@dataclass(frozen=True)
class Weighed:
    """A claim with its parts."""

    claim: Claim
    parts: Sequence[Part]

    @property
    def verdict(self) -> str:
        """The verdict on the claim."""
        return claim_verdict([part.verdict for part in self.parts])

    @property
    def by_votes(self) -> str:
        """What it would be if the intervals of all models had to agree."""
        return claim_verdict([part.by_votes for part in self.parts])

    @property
    def reason(self) -> str:
        """Which parts decided."""
        return reason(self.parts)


CLAIMS = (
    Claim(1, BOTH, "Stress lowers the effective rank of cross-attention, most in small models: "
          "they lose the signal.", _signal_loss),
    Claim(2, BOTH, "Large models compress: the effective rank of self-attention falls and its "
          "slope rises.", _compression),
    Claim(3, PAPER, "In models of intermediate size the FFN loses effective rank.", _collapse),
    Claim(4, BOTH, "Stress raises the Kirchhoff index in both regimes, by 2.9 decades or more.",
          _resistance),
    Claim(5, ARTICLE, "Effective rank falls on entering either regime.", _either_regime),
    Claim(6, BOTH, "In large models the slope exceeds nine, and tail eigenvalues the clean ones.",
          _hardening),
    Claim(7, ARTICLE, "A high slope goes with failures, and comes before them.", _early_warning),
    Claim(8, ARTICLE, "The more unstable dimensions the Jacobian has, the more is hallucinated.",
          _unstable),
    Claim(9, BOTH, "The passage into hallucination is a distinct step, not a gradual drift.",
          _transition),
    Claim(10, PAPER, "In small models gains are below one, and what early layers inject decays.",
          _decay),
    Claim(11, PAPER, "In large models the sensitivity to the audio is of rank one, and gaps "
          "are small.", _single_direction),
    Claim(12, ARTICLE, "Large models are drawn to a few states, whatever they hear.", _attraction),
    Claim(13, ARTICLE, "Even subtle perturbations make models hallucinate.", _subtle),
    Claim(14, ARTICLE, "Spectra forecast how prone a model is; its size alone does not.",
          _forecast),
    Claim(15, BOTH, "Small models answer incoherently, large ones with fluent inventions.",
          _fluency),
    Claim(16, PAPER, "Log-probabilities stay high in hallucinations: confidence does not warn.",
          _confidence),
)  # fmt: skip


def weigh(tables: Tables) -> list[Weighed]:
    """All claims by the tables of a group."""
    return [claim.weigh(tables) for claim in CLAIMS]
