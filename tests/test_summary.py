"""The summary names each model's own number, and never another rule's, sample's or component's."""

from pathlib import Path

import pandas as pd
from planted import number

from companion.claims.findings import summary
from companion.claims.numbers import Tables

WRONG = 99.0
KNOWN = pd.DataFrame(
    [
        ("cross_attention", "tiny", -11.98, 2.93, 0.17),
        ("cross_attention", "small", WRONG, WRONG, WRONG),
        ("ffn", "tiny", WRONG, WRONG, WRONG),
    ],
    columns=["component", "model", "delta_n_eff", "delta_log10_kf", "delta_alpha"],
)


def _pooled(value: float, **where: object) -> dict[str, object]:
    row: dict[str, object] = {
        "of": "measured", "model": "tiny.en", "decoding": "openai", "sample": "unseen",
        "loops": "dropped", "component": "cross_attention", "modes": 50,
    }  # fmt: skip
    for name in ("n_eff", "alpha", "log10_difference", "log10_ratio"):
        row |= number(name, value, 1)
    return row | where


def _write(folder: Path, name: str, rows: list[dict[str, object]]) -> None:
    folder.mkdir(exist_ok=True)
    table = pd.DataFrame(rows)
    sizes = table.model.map({"tiny.en": 1, "base": 2, "xs-0": 1, "l-0": 3})
    table.assign(parameters=sizes).to_csv(folder / f"{name}.csv", index=False)


def _group(folder: Path, models: dict[str, float], decoding: str, sample: str) -> Tables:
    right = {"decoding": decoding, "sample": sample}
    wrong = (
        {"decoding": "other"}, {"loops": "kept"}, {"component": "ffn"}, {"modes": 10},
        {"of": "halves"},
    )  # fmt: skip
    rows, by_outcome, equal, errors, kinds = [], [], [], [], []
    for model, value in models.items():
        key = {"model": model, **right}
        rows += [_pooled(value, **key), *(_pooled(WRONG, **key | other_key) for other_key in wrong)]
        rows.append(_pooled(value / 2, **key | {"of": "controls", "sample": "sampled"}))
        place = {"model": model, "component": "cross_attention", "modes": 50,
                 "length": "length-matched", "outcome": "without loops"}  # fmt: skip
        by_outcome += [
            place | {name: other} | number("delta_n_eff", WRONG, 1)
            for name, other in (("length", "raw"), ("outcome", "all"), ("component", "ffn"))
        ]
        by_outcome.append(place | number("delta_n_eff", 2 * value, 1))
        for kept, change in (("random rows", 3 * value), ("first rows", WRONG)):
            equal.append(place | {"rows": kept} | number("delta_n_eff", change, 1))
        for condition, error in (("hell", 300.0), ("clean", 7.0), ("noise", WRONG)):
            errors.append({"model": model, "condition": condition, "wer": error})
            kinds.append({"model": model, "condition": condition, "invention": error / 4})
    _write(folder, "pooled", rows)
    _write(folder, "by_outcome", by_outcome)
    _write(folder, "equal_length", equal)
    _write(folder, "wer", errors)
    _write(folder, "outcomes", kinds)
    return Tables(folder, folder / "pooled.csv")


def test_every_number_is_of_its_own_model_rule_sample_and_component(tmp_path: Path) -> None:
    groups = {
        "Whisper": _group(tmp_path / "w", {"tiny.en": -10.0, "base": -20.0}, "openai", "unseen"),
        "ladder": _group(tmp_path / "l", {"xs-0": -4.0, "l-0": -8.0}, "unrestricted", "all"),
    }
    table = summary(groups, "ladder", KNOWN).set_index("Hell against clean speech")
    assert list(table.columns) == ["published (Tiny)", "tiny.en", "base", "ladder"]
    assert table.loc["pooled: effective rank (%)"].tolist() == [
        "-12.0", "-10.0 [-11.0, -9.0]", "-20.0 [-21.0, -19.0]", "-8.0 to -4.0",
    ]  # fmt: skip
    assert table.iloc[3].tolist() == ["", "-10.00 [-11.00, -9.00]", "-20.00 [-21.00, -19.00]",
                                      "-8.00 to -4.00"]  # fmt: skip
    random = table.filter(like="random networks", axis=0)
    assert random["tiny.en"].item() == "-5.0 [-6.0, -4.0]"
    assert table.filter(like="first rows", axis=0)["base"].item() == "-40.0 [-41.0, -39.0]"
    assert table.filter(like="random rows", axis=0)["base"].item() == "-60.0 [-61.0, -59.0]"
    assert table.filter(like="WER", axis=0)["tiny.en"].item() == "7, 300"
    assert table.filter(like="loops in Hell", axis=0)["ladder"].item() == "75, 0"


def test_what_no_table_holds_is_not_measured(tmp_path: Path) -> None:
    here = _group(tmp_path / "w", {"tiny.en": -10.0}, "openai", "unseen")
    nowhere = Tables(tmp_path / "none", tmp_path / "none" / "pooled.csv")
    table = summary({"Whisper": here, "ladder": nowhere}, "ladder", KNOWN)
    assert set(table.ladder) == {"not measured"}
    assert (table["tiny.en"] != "not measured").all()
