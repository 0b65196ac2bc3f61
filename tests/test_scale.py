"""Effects planted in width, depth or spectra are found where they are, and nowhere else."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from planted import spectra_row

from companion.measurement.readings import modes_in_proportion
from companion.results import scale
from spectral.spectra import effective_rank

SHAPES = {"xs-0": (32, 2), "narrow-deep-0": (32, 4), "s-0": (48, 3), "m-0": (64, 3), "l-0": (96, 4)}
PARAMETERS = {name: width**2 * depth for name, (width, depth) in SHAPES.items()}
SPEAKERS, PER_SPEAKER = 8, 4


def _shapes(shapes: dict[str, tuple[int, int]], folder: Path) -> pd.DataFrame:
    for name, (width, depth) in shapes.items():
        (folder / name).mkdir()
        config = {"d_model": width, "decoder_layers": depth}
        (folder / name / "config.json").write_text(json.dumps(config))
    return scale.model_shapes([folder / name for name in shapes])


def _rows(
    condition: str,
    n_eff: Callable[[str], float],
    error: Callable[[str], float],
    models: list[str],
    seed: int = 0,
) -> pd.DataFrame:
    """Clean and stressed rows, raw and matched; ``n_eff`` is of clean speech, and 20 % of it lost.

    A layer adds 2 % to the loss.
    """
    table = []
    for model in models:
        rng = np.random.default_rng(seed)  # every model hears the same speech
        for i in range(SPEAKERS * PER_SPEAKER):
            noise, drawn = rng.normal(0, 0.01, 2), rng.random()
            for side, partner in ((0, condition), (1, "clean")):
                kept = (1 - side * (0.2 + 0.02 * SHAPES[model][1])) * np.exp(noise[side])
                wrong = error(model) if side else 0.0
                table += [
                    spectra_row(
                        model=model, parameters=PARAMETERS[model], utterance=f"u{i}",
                        speaker=f"v{i % SPEAKERS}", matched_with=matched, layer=layer,
                        condition=condition if side else "clean", component=component,
                        n_eff=n_eff(model) * kept, alpha=2 + noise[side],
                        kirchhoff_resolved=10 ** (3 + noise[side]), transcript="",
                        reference="one two three four", wer=wrong, candidate=drawn < wrong,
                    )
                    for matched in ("", partner)
                    for component in ("cross_attention", "ffn")
                    for layer in (1, 2)
                ]  # fmt: skip
    return pd.DataFrame(table)


def test_a_depth_effect_shows_in_depth_contrasts_alone(tmp_path: Path) -> None:
    shapes = _shapes(SHAPES, tmp_path)
    rows = _rows("hell", lambda _: 20.0, lambda _: 1.0, list(SHAPES))
    table = scale.contrasts(scale.scale_effects(rows, shapes, "hell"), shapes)
    rank = table[table.observable == "n_eff"]
    deep = rank[rank.differs == scale.DEPTH]
    assert len(deep) == 2
    assert np.allclose(deep.change, -4, atol=0.1)
    assert deep.change_high.isna().all(), "one seed says nothing of seeds"
    assert np.allclose(rank[rank.differs == scale.WIDTH].change, 0, atol=1e-9)
    assert np.allclose(rank[rank.differs == scale.BOTH].change, -4, atol=0.1)
    assert (table.seeds == "1 against 1").all()


def test_a_law_of_the_width_is_one_effect_in_proportion_and_two_at_fifty(tmp_path: Path) -> None:
    """Eigenvalues fall by the mode's place in the width, in both models, steeper under stress."""
    shapes = _shapes({"xs-0": (56, 2), "l-0": (176, 2)}, tmp_path)
    rows = _rows("hell", lambda _: 20.0, lambda _: 1.0, ["xs-0", "l-0"])
    width = rows.model.map(shapes.set_index("model").width)
    steep = np.where(rows.condition == "hell", 12.0, 6.0)
    laws = [np.exp(-slope * np.arange(1, 51) / of) for slope, of in zip(steep, width, strict=True)]
    rows["eigenvalues"] = laws
    rows["n_eff"] = [effective_rank(torch.from_numpy(law), 50).item() for law in laws]
    tables = [
        scale.contrasts(scale.scale_effects(frame, shapes, "hell"), shapes)
        for frame in (rows, scale.in_proportion(rows, shapes))
    ]
    fifty, proportional = (table.change[table.observable == "n_eff"] for table in tables)
    assert (fifty.abs() > 10).all()
    assert (proportional.abs() < 2).all()


def test_a_model_with_too_few_eigenvalues_for_its_width_is_left_out(tmp_path: Path) -> None:
    shapes = _shapes({"xs-0": (56, 2), "l-0": (512, 2)}, tmp_path)
    rows = _rows("hell", lambda _: 20.0, lambda _: 1.0, ["xs-0", "l-0"])
    rows["eigenvalues"] = [np.ones(50)] * len(rows)
    assert modes_in_proportion(384) == 50
    assert set(scale.in_proportion(rows, shapes).model) == {"xs-0"}, "67 modes of 512"


def test_pairs_differ_in_one_thing_or_are_the_ends(tmp_path: Path) -> None:
    assert scale.pairs(_shapes(SHAPES, tmp_path)) == [
        (scale.DEPTH, "narrow-deep", "xs"),
        (scale.WIDTH, "l", "narrow-deep"),
        (scale.WIDTH, "m", "s"),
        (scale.BOTH, "l", "xs"),
    ]


def test_contrasts_of_absent_models_are_left_out(tmp_path: Path) -> None:
    shapes = _shapes({name: SHAPES[name] for name in ("xs-0", "narrow-deep-0")}, tmp_path)
    rows = _rows("hell", lambda _: 20.0, lambda _: 1.0, list(shapes.model))
    assert set(scale.contrasts(scale.scale_effects(rows, shapes, "hell"), shapes).contrast) == {
        "narrow-deep minus xs"
    }
    single = shapes[:1]
    assert scale.contrasts(scale.scale_effects(rows, single, "hell"), single).empty


def test_a_size_is_the_mean_of_its_seeds(tmp_path: Path) -> None:
    shapes = _shapes({"a-0": (8, 2), "a-1": (8, 2), "b-0": (8, 3)}, tmp_path)
    assert list(shapes.seeds) == [2, 2, 1]
    rows = _rows("hell", lambda _: 20.0, lambda _: 1.0, ["xs-0", "narrow-deep-0", "s-0"])
    rows["model"] = rows.model.map({"xs-0": "a-0", "narrow-deep-0": "a-1", "s-0": "b-0"})
    table = scale.contrasts(scale.scale_effects(rows, shapes, "hell"), shapes).query(
        "observable == 'n_eff'"
    )
    assert set(table.seeds) == {"1 against 2"}
    assert np.allclose(table.change, 0, atol=1e-9)  # 2 and 4 layers against 3
    changes = scale.scale_effects(rows, shapes, "hell").query("observable == 'n_eff'")
    assert np.allclose(changes.groupby("model").change.mean(), [-24, -28, -26], atol=0.5)


def test_seeds_of_one_size_have_one_shape(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="seeds of 'a' differ"):
        _shapes({"a-0": (8, 2), "a-1": (8, 3)}, tmp_path)
    with pytest.raises(ValueError, match="config.json: no such file"):
        scale.model_shapes([tmp_path / "b-0"])


def _forecast(n_eff: dict[str, float], error: dict[str, float]) -> pd.DataFrame:
    rows = _rows("hell", n_eff.__getitem__, error.__getitem__, list(SHAPES))
    known = scale.predictors(rows, {name: width for name, (width, _) in SHAPES.items()})
    return scale.forecast(known, scale.targets(rows, "hell", rows, "hell"), PARAMETERS)


ERRORS = dict(zip(SHAPES, (0.3, 0.7, 0.2, 0.6, 0.4), strict=True))  # not a matter of size


def test_a_predictor_that_determines_the_target_has_skill_near_one() -> None:
    n_eff = {name: SHAPES[name][0] * (0.8 - ERRORS[name]) for name in SHAPES}
    table = _forecast(n_eff, ERRORS)
    known = table[(table.predictor == "n_eff / width") & (table.target == "word error, hell")]
    assert set(known.rival) == {"mean", "size"}
    assert (known.skill > 0.99).all()
    assert (known.skill_low > 0.95).all()
    assert (table.n == len(SHAPES)).all()


def test_noise_forecasts_nothing() -> None:
    rng = np.random.default_rng(0)
    skills = []
    for _ in range(20):
        n_eff = {name: SHAPES[name][0] * rng.uniform(0.2, 0.6) for name in SHAPES}
        errors = {name: rng.uniform(0.2, 0.8) for name in SHAPES}
        table = _forecast(n_eff, errors)
        skills.append(table.query("predictor == 'n_eff / width' and rival == 'mean'").skill.mean())
    assert np.median(skills) < 0


def test_size_itself_has_no_skill_against_size() -> None:
    log_sizes = np.log10([[PARAMETERS[name] for name in SHAPES]])
    y = 3 - 2 * log_sizes
    sizes = np.array(list(SHAPES))
    assert scale.held_out(log_sizes, y, sizes) == pytest.approx(y)
    others = np.array([[np.delete(y[0], j).mean() for j in range(len(SHAPES))]])
    assert scale.held_out(np.zeros_like(y), y, sizes) == pytest.approx(others)


def test_seeds_of_the_model_left_out_are_left_out_with_it() -> None:
    sizes = np.array(["a", "a", "b", "c"])
    x = np.array([[0.0, 0.0, 1.0, 2.0]])
    y = np.array([[5.0, 7.0, 1.0, 2.0]])
    assert scale.held_out(x, y, sizes)[0, :2] == pytest.approx([0, 0])


def test_too_few_models_have_no_forecast_and_a_reason() -> None:
    models = ["xs-0", "m-0"]
    rows = _rows("hell", lambda _: 20.0, ERRORS.__getitem__, models)
    outcomes = scale.targets(rows, "hell", rows, "hell")
    known = scale.predictors(rows, {name: SHAPES[name][0] for name in models})
    table = scale.forecast(known, outcomes, PARAMETERS)
    assert table.empty
    assert list(table.columns) == scale.COLUMNS
    assert len(scale.left_out(outcomes)) == len(outcomes)


@pytest.mark.parametrize("fraction", [0.0, 1.0])
def test_models_that_a_milder_stress_leaves_at_a_bound_do_not_count(fraction: float) -> None:
    rows = _rows("hell", lambda _: 20.0, lambda _: 0.5, list(SHAPES))
    mild = _rows("mild", lambda _: 20.0, (ERRORS | {"l-0": fraction}).__getitem__, list(SHAPES))
    outcomes = scale.targets(rows, "hell", mild, "mild")
    assert "l-0" in outcomes["word error, hell"].parts
    assert set(outcomes["candidates, mild"].parts) == set(SHAPES) - {"l-0"}
    assert set(outcomes["word error, mild"].parts) == set(SHAPES) - {"l-0"}


def test_a_condition_without_rows_is_an_error() -> None:
    rows = _rows("hell", lambda _: 20.0, lambda _: 0.5, ["xs-0"])
    with pytest.raises(ValueError, match="no rows of 'noise-0.75'"):
        scale.targets(rows, "hell", rows, "noise-0.75")
