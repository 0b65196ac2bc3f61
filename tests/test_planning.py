"""What a plan counts, against what is counted in the models and in measured rows."""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch.utils.flop_counter import FlopCounterMode
from whisper.model import disable_sdpa

from companion.benchmarks.throughput import SIZES, Size
from companion.measurement.dynamics_schemas import DYNAMICS, NUDGES
from companion.measurement.schemas import CHOICES, JACOBIANS, LISTENING, NULLS, SPECTRA, STRESSES
from companion.measurement.store import read
from companion.measurement.warning_schemas import WARNINGS
from companion.models.loading import initialised
from companion.models.openai_model import OpenAIModel
from companion.planning import __main__ as planning
from companion.planning import probe
from companion.planning.costs import encoding, size_of, weights, writing
from companion.planning.probe import LONGEST, SHORT, Timing, time_size, timings
from companion.planning.profile import KINDS, LIBRISPEECH, Work, read_profile, utterances_of

ROOT = Path(__file__).parents[1]
WHISPER = ROOT / "params" / "whisper.yml"
CPU = torch.device("cpu")
SMALL = Size(128, 3, 2)
SIXTEEN_GB = 16_000_000_000


@pytest.fixture(scope="module")
def model() -> OpenAIModel:
    return OpenAIModel("small", initialised(SMALL.dimensions(), 0))


@pytest.mark.parametrize("size", [SIZES["tiny"], SMALL, Size(64, 2, 1, 128, 51866)], ids=str)
def test_weights_are_those_of_the_model(size: Size) -> None:
    assert weights(size) == OpenAIModel("", initialised(size.dimensions(), 0)).parameters


def test_operations_are_those_that_torch_counts(model: OpenAIModel) -> None:
    features = torch.zeros(1, 80, 3000)
    prompt = torch.tensor([model.tokens.prompt])
    with disable_sdpa(), FlopCounterMode(display=False) as heard, torch.no_grad():
        context, cache = model.encode(features), model.new_cache()
        model.step(prompt, context, cache)  # with the keys and values of cross-attention
    with disable_sdpa(), FlopCounterMode(display=False) as written, torch.no_grad():
        model.step(prompt[:, :1], context, cache)
    one, several = encoding(SMALL), len(prompt[0]) * writing(SMALL)
    assert heard.get_total_flops() == pytest.approx(one + several, rel=0.01)
    assert written.get_total_flops() == pytest.approx(writing(SMALL), rel=0.01)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("tiny", "tiny"),
        ("openai/whisper-small.en", "small"),
        ("turbo", "large-v3-turbo"),
        ("openai/whisper-large-v3", "large-v3"),
        ("large", "large-v3"),
    ],
)
def test_openai_s_names_have_their_sizes(name: str, size: str) -> None:
    assert size_of(name) == SIZES[size]


def test_older_large_models_have_eighty_mels_and_others_no_size() -> None:
    assert size_of("large-v2") == Size(1280, 32, 32, 80, 51865)
    assert size_of("xs-0") is None


@pytest.mark.parametrize(
    ("kind", "schema"),
    [
        ("measure", SPECTRA),
        ("listening", LISTENING),
        ("nulls", NULLS),
        ("stresses", STRESSES),
        ("choices", CHOICES),
        ("jacobians", JACOBIANS),
        ("dynamics", DYNAMICS),
        ("nudges", NUDGES),
        ("warnings", WARNINGS),
    ],
)
def test_rows_are_as_many_as_a_measurement_has(kind: str, schema: object) -> None:
    """Texts of fewer tokens than are linearised at make a few rows less."""
    sections = yaml.safe_load((ROOT / "params" / "ladder.yml").read_text(encoding="utf-8"))
    work = Work(kind, sections[kind], ("xs-0",))
    rows = read([ROOT / "data" / "smoke" / kind / "xs-0.parquet"], schema)  # type: ignore[arg-type]
    decoder = rows[rows.stage == "decoder"] if "stage" in rows else rows
    layers = decoder.layer.nunique() if "layer" in rows else 0
    counted = work.rows(layers) * rows.utterance[rows.utterance != ""].nunique()  # none if pooled
    assert 0.9 * counted <= len(rows) <= counted


def test_rows_that_come_with_the_project_are_not_planned() -> None:
    works = read_profile(ROOT / "params" / "ladder.yml")
    kinds = [work.kind for work in works]
    assert "measure" in kinds
    assert "nulls" not in kinds


def test_a_profile_whose_rows_are_all_there_asks_for_other_models(
    profile: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    sections = yaml.safe_load(profile.read_text())
    sections["figure"]["results"] = "../data/smoke/measure"
    sections["figure"]["models"] = ["xs-0", "m-0"]
    sections["other"] = None
    profile.write_text(yaml.safe_dump(sections))
    with pytest.raises(SystemExit, match="all rows that it draws are there; name other models"):
        _said(["plan", str(profile)], monkeypatch, capsys)
    (work,) = read_profile(profile, models=["xs-0", "tiny-0"])
    assert (work.kind, work.models) == ("measure", ("tiny-0",))


def test_the_whisper_profile_is_every_other_scale_on_librispeech() -> None:
    names = tuple(name for name in SIZES if name != "base")  # whose rows come with the project
    works = read_profile(WHISPER, models=names)
    assert [work.kind for work in works] == list(KINDS)
    assert all(work.models == names for work in works)
    counts = {work.kind: utterances_of(work)[1] for work in works}
    assert counts["measure"] == counts["pooling"] == 422, "as many as are listed"
    assert counts["jacobians"] == counts["nulls"] == 51
    assert {utterances_of(_elsewhere(work))[1] for work in works} == {*counts.values()} - {422} | {
        LIBRISPEECH
    }
    fewer = read_profile(WHISPER, utterances=5, models=["small"])
    assert {utterances_of(_elsewhere(work))[1] for work in fewer} == {5}


def _elsewhere(work: Work) -> Work:
    return Work(work.kind, {**work.values, "corpus": "../nowhere"}, work.models)


def test_another_size_s_seconds_follow_its_operations() -> None:
    tiny, base = SIZES["tiny"], SIZES["base"]
    scaled = Timing(tiny, 1.0, 0.1, 10.0).scaled(base)
    assert scaled.hearing == pytest.approx(encoding(base) / encoding(tiny))
    assert scaled.token == pytest.approx(0.1 * writing(base) / writing(tiny))
    assert scaled.jacobians == pytest.approx(10 * 6 * 512**3 / (4 * 384**3))


def test_an_estimate_spans_short_and_endless_texts() -> None:
    works = {work.kind: work for work in read_profile(WHISPER, models=["tiny"])}
    timing = Timing(SIZES["tiny"], hearing=1.0, token=0.1, jacobians=10.0)
    spectral = timing.estimate(works["measure"])
    assert spectral.low == pytest.approx(2 * (1 + 0.1 * SHORT))
    assert spectral.high == pytest.approx(2 * (1 + 0.1 * LONGEST))
    assert timing.estimate(works["listening"]).low == pytest.approx(5 * (2 + 0.1 * SHORT))
    assert timing.estimate(works["pooling"]).low == pytest.approx(2 * (1 + 2 * 0.1 * SHORT))
    assert timing.estimate(works["jacobians"]).low == pytest.approx(2 * (1 + 0.1 * SHORT + 40))


def test_a_size_is_timed_on_random_weights() -> None:
    timing = time_size(Size(64, 1, 1), batch=1, device=CPU)
    assert timing.hearing > 0
    assert timing.jacobians > 0
    assert np.isfinite(timing.token)


def test_sizes_are_timed_while_patience_and_memory_last(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def known(size: Size, batch: int, device: torch.device) -> Timing:
        asked.append(size)
        return Timing(size, 0.1, 0.01, 5.0).scaled(size)

    monkeypatch.setattr(probe, "time_size", known)
    monkeypatch.setattr(probe, "memory", lambda device: SIXTEEN_GB)
    found = timings([SIZES["base"], SIZES["tiny"], SIZES["large-v3"]], 4, CPU)
    assert asked == [SIZES["tiny"], SIZES["base"]]
    assert [found[SIZES[name]][0] for name in ("tiny", "large-v3")] == ["timed", "extrapolated"]
    asked.clear()
    monkeypatch.setattr(probe, "memory", lambda device: 1)
    timings([SIZES["base"], SIZES["tiny"]], 4, CPU)
    assert asked == [SIZES["tiny"]], "the smallest, whatever there is"


@pytest.fixture
def profile(tmp_path: Path, ladder: Path, speech: Path) -> Path:
    """A model that is there and one that is not, on seven speakers."""
    shared = {"ladder": str(ladder), "corpus": str(speech), "seed": 0, "batch": 2, "device": "cpu"}
    shared["decoding"] = "unrestricted"
    sections = {
        "measure": {
            **shared, "conditions": ["clean", "hell"], "modes": [10], "epsilon": 1e-6,
            "utterances": None,
        },
        "listening": {**shared, "conditions": ["clean", "silence"], "utterances": 6},
        "figure": {"results": "../build/x/measure", "models": ["tiny-0", "small-absent"]},
        "other": {"results": "../build/x/listening", "models": ["tiny-0"]},
        "jacobians": None,
    }  # fmt: skip
    path = tmp_path / "own.yml"
    path.write_text(yaml.safe_dump(sections))
    return path


def test_a_plan_says_what_is_there_and_what_will_be_fetched(
    profile: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    known = Timing(SMALL, 1.0, 0.01, 1.0)
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(planning, "is_here", lambda name, ladder: name == "tiny-0")
    monkeypatch.setattr(planning, "size_of", lambda name: SMALL)
    monkeypatch.setattr(planning, "timings", lambda *_: {SMALL: ("extrapolated", known)})
    said = _said(["plan", str(profile)], monkeypatch, capsys)
    row = next(line for line in said.splitlines() if line.startswith("small-absent"))
    mib = f"{2 * weights(SMALL) / 1e6:.0f} MB"
    assert re.search(rf"{mib} +{weights(SMALL) / 1e6:.0f} M", row)
    assert row.endswith("extrapolated")
    low, high = (14 * 2 * (1 + 0.01 * tokens) for tokens in (SHORT, LONGEST))
    assert f"{low:.0f} s ... {high / 60:.1f} min" in row, "fourteen utterances, two conditions"
    there = next(line for line in said.splitlines() if line.startswith("tiny-0"))
    assert "there" in there
    assert there.endswith("timed")
    assert "measure (14)" in said
    assert "listening (6)" in said
    assert f"download  {mib}: checkpoints {mib}, LibriSpeech is there" in said
    assert "In an evening" not in said
    assert "measure (3)" in _said(["plan", str(profile), "--utterances", "3"], monkeypatch, capsys)


def test_a_plan_of_days_says_what_fits_into_an_evening(
    profile: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    slow = Timing(SMALL, 1000.0, 0.0, 1.0)
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(planning, "is_here", lambda name, ladder: name == "tiny-0")
    monkeypatch.setattr(planning, "size_of", lambda name: SMALL)
    monkeypatch.setattr(planning, "timings", lambda *_: {SMALL: ("timed", slow)})
    monkeypatch.setattr(planning, "time_model", lambda name, work, *_: 900.0)
    said = _said(["plan", str(profile)], monkeypatch, capsys)
    _, evening = said.split("In an evening, 2.0 h for one model and kind, at least so many")
    assert re.search(r"^tiny-0 +8 +6$", evening, re.MULTILINE), "8 of 900 s each; all 6"
    assert re.search(r"^small-absent +3$", evening, re.MULTILINE), "3 of 2000 s each"
    assert "`make measure PROFILE=own MODELS=tiny-0 N=8`" in evening


def _said(
    arguments: Sequence[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> str:
    monkeypatch.setattr(sys, "argv", list(arguments))
    planning.main()
    return capsys.readouterr().out


def test_a_profile_that_is_not_there_and_a_model_of_no_known_size_are_named(
    profile: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match=r"error: .*gone.yml: no such profile; there are: own"):
        _said(["plan", str(profile.with_name("gone.yml"))], monkeypatch, capsys)
    with pytest.raises(SystemExit, match="error: .*no model 'small-absent'"):
        _said(["plan", str(profile)], monkeypatch, capsys)
