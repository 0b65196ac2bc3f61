"""Claims 15 and 16: what models write in Hell, and how sure they are of it."""

from pathlib import Path

from spectral.claims.numbers import difference, of, read_table, share, sizes
from spectral.claims.rules import ABOVE, Part, Statement

_STRESS = "hell"
_MOST = 50.0
_FLUENT = ("invention",)
_INCOHERENT = ("loop", "fragment", "gibberish")
_KEYS = ["parameters", "model", "condition"]
_HIGH = -1.0
"""Below this average log-probability Whisper's own decoding distrusts a transcript."""


def fluency(tables: Path) -> list[Part]:
    """Claim 15: most answers of the smallest size are incoherent, of the largest inventions."""
    table = read_table(tables, "outcomes", _KEYS)
    answers = read_table(tables, "word_error", [*_KEYS, "n"]).set_index(["model", "condition"])
    small, *_, large = sizes(table)
    rows = table[table.condition == _STRESS].set_index("model")
    parts = []
    for says, models, named in (
        ("most answers of the smallest size are incoherent", small, _INCOHERENT),
        ("most answers of the largest size are fluent inventions", large, _FLUENT),
    ):
        statements = []
        for model in models:
            n = int(answers.loc[(model, _STRESS), "n"])
            shares = rows.loc[model].reindex([*named]).fillna(0.0)  # kinds nobody wrote lack
            count = round(float(shares.sum()) / 100 * n)
            statements.append(Statement(model, share(count, n), ABOVE, _MOST))
        parts.append(Part(f"{says} (%)", "outcomes", statements))
    return parts


def confidence(tables: Path) -> list[Part]:
    """Claim 16: log-probability stays high in hallucinations, and does not fall to warn of them."""
    name = "log_probability"
    table = read_table(tables, "word_error", [*_KEYS, name, f"{name}_low", f"{name}_high"])
    rows = table.set_index(["model", "condition"])
    models = [model for group in sizes(table) for model in group]
    high = [Statement(m, of(rows.loc[m, _STRESS], name), ABOVE, _HIGH) for m in models]
    changes = [
        Statement(
            m, difference(of(rows.loc[m, _STRESS], name), of(rows.loc[m, "clean"], name)), ABOVE, 0
        )
        for m in models
    ]
    return [
        Part(f"the average log-probability in Hell is above {_HIGH:g}", "word_error", high),
        Part("it is no lower than on clean speech", "word_error", changes),
    ]
