"""What must hold of measured rows whatever the model, kind by kind; a violation is a bug.

Every check raises AssertionError, or returns one line that says what holds.
"""

import numpy as np
import pandas as pd

from companion.measurement.choices import FORCED, POOLED, TEXT, WHOLE
from companion.measurement.pooling import MATCHED
from companion.measurement.schemas import REFERENCE_CONDITION
from companion.measurement.schemas import WHOLE as WHOLE_TEXT

_ROUNDING = 1e-9


def spectra(rows: pd.DataFrame) -> str:
    """One mode at least, no more than there are, and matched rows as many on both sides."""
    resolved = rows[rows.resolved > 0]
    limit = resolved[["resolved", "modes"]].min(axis=1)
    assert (resolved.n_eff >= 1 - _ROUNDING).all()
    assert (resolved.n_eff <= limit + _ROUNDING).all()
    assert (rows.resolved <= (rows.tokens - 1).clip(lower=0)).all()
    matched = rows[rows.matched_with != ""].groupby(["utterance", "layer", "component", "modes"])
    assert (matched.tokens.nunique() == 1).all()
    texts, conditions = rows.utterance.nunique(), rows.condition.nunique()
    return f"{texts} utterances, {conditions} conditions: bounds hold"


def pooling(rows: pd.DataFrame) -> str:
    """Ranks within K, an index of fractions of at least K^2, matched sides of equally many rows."""
    long = rows[rows.resolved >= rows.modes]
    assert long.n_eff.between(1 - _ROUNDING, long.modes + _ROUNDING).all()
    assert (long.kirchhoff_of_fractions >= long.modes**2 * (1 - _ROUNDING)).all()
    whole = rows[(rows.without == "") & (rows.layer > 0)]
    matched = whole[whole.loops == MATCHED].groupby(["sample", "decoding"])
    assert (matched.tokens.nunique() == 1).all()
    return f"{whole.loops.nunique()} treatments of loops: ranks within K, matched sides equal"


def listening(rows: pd.DataFrame) -> str:
    """Losses above zero and errors that are fractions; clips without speech have no reference."""
    scored = rows[rows.forced_loss.notna()]
    assert (scored.forced_loss > 0).all()
    assert scored.forced_token_error.between(0, 1).all()
    best = scored.groupby("condition").forced_loss.mean()
    return f"{len(best)} conditions; what predicts the reference best: {best.idxmin()}"


def nulls(rows: pd.DataFrame) -> str:
    """Cut rows as many on both sides, a forced text as long as the clean one, orders alike."""
    keys = ["utterance", "component", "layer", "modes", "condition"]
    _equally_cut(rows, ["null", "draw", "utterance"])
    raw = rows[rows.matched_with == ""].set_index(keys)
    forced = raw[raw.null == "forced"].tokens.unstack()
    assert (forced.nunique(axis=1) == 1).all()
    clean = raw.xs(REFERENCE_CONDITION, level="condition")
    shuffled, swapped = (clean.n_eff[clean.null == name] for name in ("shuffled", "swapped"))
    assert (abs(shuffled / swapped - 1) < 1e-6).all()
    return f"{rows.null.nunique()} nulls: lengths agree, no order of rows changes a whole spectrum"


def stresses(rows: pd.DataFrame) -> str:
    """Every utterance under every condition, and cut rows as many on both sides of a pair."""
    conditions = rows.condition.nunique()
    assert (rows.groupby("utterance").condition.nunique() == conditions).all()
    pairs = _equally_cut(rows, ["utterance"])
    assert pairs == rows.utterance.nunique() * (conditions - 1)
    return f"{conditions} conditions: every utterance under each, lengths agree"


def choices(rows: pd.DataFrame) -> str:
    """Rows that add up over a speaker, forced texts of one length, eight crossed choices."""
    raw = rows[rows.matched_with == ""]
    number = "n_eff, 50, eigenvalues"
    factors = ["forcing", "positions", "centred"]
    keys = ["speaker", "condition", *factors, "component"]
    stressed = next(name for name in raw.condition.unique() if name != REFERENCE_CONDITION)
    pair = raw[raw.condition.isin([REFERENCE_CONDITION, stressed])]
    alone = pair[pair.pooling != POOLED].groupby(keys)
    speakers = pair[pair.pooling == POOLED].set_index(keys).sort_index()
    assert (alone.tokens.sum() == speakers.tokens).all()
    single = alone.size() == 1
    kept = speakers[number].loc[single[single].index]  # a text of one token has no spectrum: NaN
    first = alone[number].first().loc[kept.index]
    assert np.allclose(first, kept, rtol=1e-5, atol=0, equal_nan=True)
    forced = pair[(pair.forcing == FORCED) & (pair.pooling != POOLED)]
    lengths = forced.groupby(["utterance", "positions", "condition"]).tokens.first().unstack()
    assert (lengths[REFERENCE_CONDITION] == lengths[stressed]).all()
    more = lengths[REFERENCE_CONDITION].unstack("positions").eval(f"`{WHOLE}` - `{TEXT}`")
    assert more.between(1, 4).all()  # the prompt before its last token, and the end
    means = speakers.xs(stressed, level="condition").groupby(factors)[number].mean()
    assert means.nunique() == len(means) == 8
    return f"{len(means)} crossed choices, each with its own effective rank; rows add up"


def jacobians(rows: pd.DataFrame) -> str:
    """Gaps and alignments within their bounds, products within those of the layers."""
    inner = rows[rows.layer < rows.layer.max()]
    assert rows.singular_value_ratio.between(0, 1).all()
    assert (inner.alignment.abs() <= 1 + _ROUNDING).all()
    assert (rows.product_norm <= rows.ceiling * (1 + _ROUNDING)).all()
    assert (rows.product_norm >= rows.floor * (1 - _ROUNDING)).all()
    assert (rows.product_ratio <= rows.rank_one_bound + _ROUNDING).all()
    assert (rows.explained <= 1).all()
    left = (~rows.converged).sum()
    return f"bounds hold; {left} of {len(rows)} singular values not converged"


def dynamics(rows: pd.DataFrame) -> str:
    """Distances of unit vectors, one partner each, ranks of so many states, fractions."""
    distances = rows[rows.quantity.str.endswith("distance") & (rows.step == 0)]
    assert distances.value.between(0, 2).all()
    assert (distances.groupby("utterance").partner.nunique() == 1).all()
    ranks = rows[rows.quantity == "effective_rank"]
    assert ranks.value.between(1, ranks["count"] - 1).all()
    assert rows[rows.quantity == "linear_probe"].value.between(0, 1).all()
    return f"{rows.quantity.nunique()} quantities within their bounds"


def subtle(rows: pd.DataFrame) -> str:
    """A text is unchanged just where nothing is to edit, and its word error is then the same."""
    assert (rows.unchanged == (rows.character_edits == 0)).all()
    same = rows[rows.unchanged]
    assert same.wer.equals(same.wer_before)
    grown = rows.groupby("direction").growth.agg(lambda lists: lists.map(max).mean())
    return f"{len(grown)} kinds of direction; what grows most: {grown.idxmax()}"


def warnings(rows: pd.DataFrame) -> str:
    """A text has rows of n tokens just where it is longer, and a slope is missing for a reason."""
    texts = rows.drop_duplicates(["utterance", "condition"])
    prefixes = rows.prefix.unique()
    assert len(rows) == sum((texts.tokens > prefix).sum() * 3 for prefix in prefixes)
    assert (rows.alpha.isna() == (rows.alpha_reason != "")).all()
    assert (rows.least_log_probability <= rows.log_probability).all()
    assert (rows.first_wrong.isna() | (rows.first_wrong < rows.tokens)).all()
    return f"{len(prefixes)} lengths, {rows.condition.nunique()} conditions: rows are complete"


def contest(rows: pd.DataFrame) -> str:
    """Confidences and sizes of every text with a token, beginnings shorter than their texts."""
    whole = rows[rows.prefix == WHOLE_TEXT]
    assert not whole.duplicated(["utterance", "condition"]).any()
    begun = rows[rows.prefix != WHOLE_TEXT]
    assert (begun.prefix < begun.tokens).all()
    written = rows[rows.tokens > 0]
    always = ["log_probability", "entropy", "cross_attention_window_log10_size", "ffn_window_n_eff"]
    assert written[always].notna().all(axis=None)
    assert (written.entropy >= 0).all()
    assert written.forbidden_mean.between(0, 1).all()
    assert (written.least_log_probability <= written.log_probability + _ROUNDING).all()
    assert (rows.invented <= rows.transcript_words).all()
    assert (rows.deleted <= rows.reference_words).all()
    return f"{rows.condition.nunique()} conditions, {whole.kind.nunique()} kinds of transcripts"


def guards(rows: pd.DataFrame) -> str:
    """Every sound in every way, and what is weighed of every text of the first that has tokens."""
    ways = rows.rule.nunique()
    assert (rows.groupby(["utterance", "condition"]).rule.nunique() == ways).all()
    assert not rows.duplicated(["utterance", "condition", "rule"]).any()
    weighed = rows[rows.rule.isin([rows.rule.iloc[0]]) & (rows.tokens > 0)]
    assert weighed[["entropy", "cross_attention_window_n_eff"]].notna().all(axis=None)
    assert (weighed.entropy >= 0).all()
    assert weighed.forbidden_first.between(0, 1).all()
    assert (rows.invented <= rows.transcript_words).all()
    assert (rows.deleted <= rows.reference_words).all()
    return f"{ways} ways to decode, {rows.condition.nunique()} conditions: every sound in each"


def _equally_cut(rows: pd.DataFrame, text: list[str]) -> int:
    """How many pairs of a clean and a stressed side, of equally many rows, were cut."""
    cut = rows[rows.matched_with != ""].groupby([*text, "matched_with", "condition"])
    tokens = cut.tokens.first().reset_index()
    pairs = tokens[tokens.condition == REFERENCE_CONDITION].merge(
        tokens, left_on=[*text, "matched_with"], right_on=[*text, "condition"]
    )
    assert (pairs.tokens_x == pairs.tokens_y).all()
    return len(pairs)
