"""docs/results.md says what the tables that it names say."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from companion.claims.findings import _CONTROLS
from companion.measurement.schemas import INITIALISED, SPECTRUM, UNPAIRED

ROOT = Path(__file__).parents[1]
WHISPER = ROOT / "figures" / "whisper"
PROSE = " ".join((ROOT / "docs" / "results.md").read_text(encoding="utf-8").split())
MODELS = ("tiny.en", "base")


def _of(table: str, **chosen: object) -> tuple[pd.Series, pd.Series]:
    """The one row of tiny.en and that of base in a table of Whisper's."""
    rows = pd.read_csv(WHISPER / f"{table}.csv")
    for name, value in chosen.items():
        rows = rows[rows[name] == value]
    tiny, base = (rows[rows.model == model] for model in MODELS)
    assert len(tiny) == len(base) == 1, (table, chosen)
    return tiny.iloc[0], base.iloc[0]


def _interval(row: pd.Series, name: str, unit: float = 1) -> str:
    low, high = sorted(unit * row[f"{name}_{end}"] for end in ("low", "high"))
    return f"[{low:.0f}, {high:.0f}]"


def _outcomes() -> str:
    tiny, base = _of("outcomes", condition="hell")
    return (
        f"tiny.en writes inventions in {tiny.invention:.0f} % of transcripts and loops in "
        f"{tiny.loop:.0f}, base in {base.invention:.0f} and {base.loop:.0f}"
    )


def _nothing() -> str:
    rows = pd.read_csv(WHISPER / "nonspeech_transcripts.csv")
    said, chance = rows.invention, rows.no_speech_probability
    return (
        f"{said.min():.0f} to {said.max():.0f} % are inventions, though the no-speech probability "
        f"is {chance.min():.2f} to {chance.max():.2f} on average"
    )


def _transcribed() -> str:
    rows = pd.read_csv(WHISPER / "what_whisper_writes_kinds.csv")
    rows = rows[rows.inputs == "no speech"]
    names = [f"{model}: transcribe" for model in MODELS]
    tiny, base = (rows.loc[rows.outcome == "correct", name].item() for name in names)
    return f"of {rows[names[0]].sum()} such inputs tiny.en then gets {tiny} right, base {base}"


def _controls() -> str:
    where = {"component": "cross_attention", "modes": 50, "length": "length-matched"}
    tiny, base = _of("controls", **where, observable="n_eff", control=SPECTRUM)
    assert tiny.draws == base.draws == 20
    return (
        f"effective rank (K = 50) falls by {-tiny.trained:.0f} % and {-base.trained:.0f} %; twenty "
        f"random networks with the trained weights' singular values, fed the same, show "
        f"{-tiny.random:.0f} and {-base.random:.0f} %"
    )


def _forced() -> str:
    changes = [
        -each.change + 0.0
        for component in ("self_attention", "ffn", "cross_attention")
        for each in _of("evidence_k50", source="forced", observable="n_eff", component=component)
    ]
    return (
        "self-attention loses {:.0f} % (tiny.en) and {:.0f} (base), the FFN {:.0f} and {:.0f}, "
        "cross-attention {:.0f} and {:.0f}.".format(*changes)
    )


def _doses() -> str:
    rows = pd.read_csv(WHISPER / "dose_transcripts.csv")
    rows = rows[(rows.family == "hell-resampled") & rows.severity.between(0, 1, "neither")]
    (low, high), (other, most) = (
        (own.candidates.min(), own.candidates.max())
        for own in (rows[rows.model == model] for model in MODELS)
    )
    assert rows.severity.nunique() == 5
    return f"{low:.0f} to {high:.0f} % of candidates (tiny.en; base {other:.0f} to {most:.0f})"


def _beginnings() -> str:
    first, third, whole = (_of("attraction_texts", side="hell", words=n) for n in (1, 3, 0))
    clean, same = (_of("attraction_texts", side="clean", words=n)[0] for n in (1, 3))
    tiny, base = first
    return (
        f"In Hell {tiny.alike:.0f} % of pairs of tiny.en's transcripts have the same first word "
        f"{_interval(tiny, 'alike')}, {base.alike:.0f} % of base's {_interval(base, 'alike')}, and "
        f"{third[0].alike:.0f} and {third[1].alike:.0f} % the same first three; on clean speech "
        f"{clean.alike:.1f} and {same.alike:.0f} %; whole transcripts recur in "
        f"{max(row.alike for row in whole):.1f} % at most"
    )


def _distances() -> str:
    tiny, base = _of("attraction_distances", network="trained", quantity="distance")
    random, _ = _of("attraction_distances", network="random", quantity="distance")

    def nearer(row: pd.Series) -> str:
        low, high = -row.change_high, -row.change_low
        return f"[{low:.0f}, {high:.0f}]"

    return (
        f"{-tiny.change:.0f} % nearer in Hell {nearer(tiny)} in tiny.en, as in its random network "
        f"({-random.change:.0f} % {nearer(random)}), and {-base.change:.0f} % {nearer(base)} in"
    )


def _decays() -> str:
    name = "normed_product_decays"
    clean, hell = (
        _of("hypotheses", network="trained", condition=side) for side in ("clean", "hell")
    )
    (tiny, base), (other, worse) = clean, hell
    return (
        f"at {100 * base[name]:.0f} % of tokens on clean speech {_interval(base, name, 100)} and "
        f"at {100 * worse[name]:.0f} % in Hell {_interval(worse, name, 100)}, so less where "
        f"Whisper fails, and in tiny.en at {100 * tiny[name]:.0f} % and {100 * other[name]:.0f}"
    )


def _sensitivity() -> str:
    name = "rank_one_fraction"
    (tiny, base), clean, random = (
        _of("hypotheses", network=network, condition=side)
        for network, side in (("trained", "hell"), ("trained", "clean"), ("random", "hell"))
    )
    assert f"{100 * random[0][name]:.0f}" == f"{100 * random[1][name]:.0f}"
    return (
        f"has {100 * tiny[name]:.0f} % of its square in its first direction in tiny.en "
        f"{_interval(tiny, name, 100)} and {100 * base[name]:.0f} % in base "
        f"{_interval(base, name, 100)}, on clean speech {100 * clean[0][name]:.0f} and "
        f"{100 * clean[1][name]:.0f} %, in random networks {100 * random[0][name]:.0f} %"
    )


def _subtle() -> str:
    (tiny, base), (near, close), (blind, _), (vague, dim) = (
        _of("subtle_stress", condition="clean", direction=direction, level_db=level)
        for direction in ("singular", "random")
        for level in (40, 20)
    )
    return (
        f"a change 40 dB below the speech alters {tiny.changed:.0f} % of clean transcripts in "
        f"tiny.en {_interval(tiny, 'changed')} and in base {_interval(base, 'changed')}, in a "
        f"random direction {blind.changed:.0f} % {_interval(blind, 'changed')} in both; 20 dB "
        f"below {near.changed:.0f} % {_interval(near, 'changed')} and {close.changed:.0f} "
        f"{_interval(close, 'changed')} against {vague.changed:.0f} and {dim.changed:.0f}, which "
        f"adds {near.added_error:.0f} points of"
    )


def _ways() -> str:
    (tiny, base), (low, high) = (
        _of("specifications", component="cross_attention", observable=name)
        for name in ("n_eff", "log10_kf")
    )
    return (
        f"Of {tiny.specifications} ways to compute the change of cross-attention's effective rank "
        f"in tiny.en it falls in {tiny.agree:.0f} %, surely in {tiny.certain:.0f}, and surely "
        f"rises in {tiny.opposite:.1f}; of {base.specifications} in base in {base.agree:.0f}, "
        f"{base.certain:.0f} and {base.opposite:.1f}. Of {low.specifications} and "
        f"{high.specifications} for the Kirchhoff index it rises in {low.agree:.0f} and "
        f"{high.agree:.0f} %, surely in {low.certain:.0f} and {high.certain:.0f}"
    )


def _ladder(control: str, component: str) -> tuple[int, int]:
    """How much the control and the trained networks lose, as figures/findings.csv says."""
    rows = pd.read_csv(ROOT / "figures" / "findings.csv").set_index("measured").ladder
    line = rows.index.str.startswith(f"{component}: ")
    line &= rows.index.str.endswith(f"mean over networks: {_CONTROLS[control]}")
    random, trained = rows[line].item().split(", trained ")
    return -int(random), -int(trained)


def _plain() -> str:
    return (
        f"of plain weights (five draws: {_ladder(INITIALISED, 'cross-attention')[0]} % on average)"
    )


def _vectors() -> str:
    return f"(twenty: {_ladder(SPECTRUM, 'cross-attention')[0]} %;"


def _unpaired() -> str:
    return f"cannot have learned to listen, lose {_ladder(UNPAIRED, 'cross-attention')[0]} % of it"


def _language() -> str:
    random, trained = _ladder(UNPAIRED, "FFN")
    return f"{random} of the {trained} % that the FFN loses there"


PHRASES = (
    _outcomes, _nothing, _transcribed, _controls, _forced, _doses, _beginnings, _distances,
    _decays, _sensitivity, _subtle, _ways, _plain, _vectors, _unpaired, _language,
)  # fmt: skip


@pytest.mark.parametrize("phrase", PHRASES, ids=lambda phrase: phrase.__name__)
def test_the_page_says_what_its_table_says(phrase: Callable[[], str]) -> None:
    assert phrase() in PROSE


GUARDS = {  # what a line of the guard's page begins with, and the rules that it is of
    "`openai`": ("openai",),
    "`transcribe`": ("transcribe",),
    "the same with": ("transcribe, silence threshold",),
    "its two thresholds": ("transcribe's fallback",),
    "`no_repeat_ngram_size`": ("no-repeat-ngram",),
    "silero-vad": ("silero-vad",),
    "every text without": ("unrestricted",),
    "guard: `drop`, `draw`": ("guard: drop", "guard: draw"),
    "guard: `annotate`": ("guard: annotate",),
    "guard: `confirm`": ("guard: confirm",),
}


@pytest.mark.parametrize("begin", GUARDS)
def test_the_guards_page_says_what_its_table_says(begin: str) -> None:
    lines = (ROOT / "docs" / "guard.md").read_text(encoding="utf-8").split("\n")
    (line,) = (line for line in lines if line.startswith(f"| {begin}"))
    clips, hell, noise, clean = (cell.strip() for cell in line.split("|")[2:6])
    table = pd.read_csv(WHISPER / "guard.csv").set_index(["rule", "condition"])
    for rule in GUARDS[begin]:
        row = table.loc[(rule, "nonspeech")]
        shown = (row.invented, row.invented_low, row.invented_high)
        assert clips == "{:.1f} [{:.1f}, {:.1f}]".format(*shown)
        assert hell == f"{table.invented[rule, 'hell']:.0f} " + _interval(
            table.loc[(rule, "hell")], "invented"
        )
        assert noise == f"{table.wer[rule, 'noise']:.0f} " + _interval(
            table.loc[(rule, "noise")], "wer"
        )
        change = table.wer_change[rule, "clean"]
        assert clean.split(" ")[0] in ("", "0" if change == 0 else f"{change:+.1f}")
