"""What the README shows is what was drawn, and every link of a document leads somewhere."""

import re
import shlex
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest
from agreement import disagreements

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"<!-- (figures/\S+\.md) -->\n(.*?)<!-- end -->", README, flags=re.DOTALL)
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "data" / "README.md"])
LINKS = [
    (document.relative_to(ROOT), link)
    for document in DOCUMENTS
    for link in sorted(set(re.findall(r"\]\(([^)#:]+)\)", document.read_text(encoding="utf-8"))))
]
COMMANDS = [
    (document.relative_to(ROOT), line.split("   #")[0].strip())
    for document in DOCUMENTS
    for block in re.findall(
        r"(?:^ *```sh\n.*?^ *```$)|(?:^    (?:make|\S*python|conda) [^\n]*$)",
        document.read_text(encoding="utf-8"),
        flags=re.MULTILINE | re.DOTALL,
    )
    for line in block.splitlines()
    if "```" not in line
]
ELSEWHERE = {
    "python3 -m venv try": "test_environment: what make does with a Python",
    "try/bin/python -m pip install .": "test_documents: the wheel",
    "try/bin/python -m pip install pandas soundfile transformers openai-whisper": "the lock",
    "python3 -m pip wheel --no-deps --wheel-dir build/dist .": "test_documents: the wheel",
    "python3 -m venv build/alone": "test_documents: the wheel",
    "build/alone/bin/python -m pip install build/dist/*.whl": "test_documents: the wheel",
}
"""Commands that install, and which test does what they do without a network."""


def test_the_documents_have_commands() -> None:
    assert len(COMMANDS) >= 10
    assert set(ELSEWHERE) <= {command for _, command in COMMANDS}


@pytest.mark.parametrize(("document", "command"), COMMANDS)
def test_a_command_is_a_target_of_make_a_module_with_these_options_or_tried(
    document: Path, command: str
) -> None:
    program, *words = shlex.split(command)
    if command in ELSEWHERE:
        return
    if program == "make":
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        for word in words:
            name, given, _ = word.partition("=")
            pattern = rf"\$\({name}\)" if given else rf"^{name}:.* ## "
            assert re.search(pattern, makefile, flags=re.MULTILINE), f"{document}: no {word}"
    elif words[:1] == ["-m"]:
        spec = find_spec(words[1])
        if spec and spec.submodule_search_locations:
            spec = find_spec(f"{words[1]}.__main__")
        assert spec is not None, f"{document}: no module {words[1]}"
        assert spec.origin is not None
        source = Path(spec.origin).read_text(encoding="utf-8")
        missing = [word for word in words if word[:2] == "--" and f'"{word}"' not in source]
        assert not missing, f"{document}: {words[1]} has no {missing}"
    elif words[:1] == ["-c"]:
        exec(words[1], {})
    else:
        pytest.fail(f"{document}: nothing tries {command!r}; say in ELSEWHERE which test does")


def test_the_readme_shows_the_summary() -> None:
    assert [name for name, _ in BLOCKS] == ["figures/summary.md"]


@pytest.mark.parametrize(("name", "shown"), BLOCKS)
def test_a_table_of_the_readme_is_the_one_that_was_written(name: str, shown: str) -> None:
    written = (ROOT / name).read_text(encoding="utf-8")
    assert disagreements(shown, written) == [], f"copy {name} into README.md"


@pytest.mark.parametrize(("document", "link"), LINKS)
def test_a_link_leads_somewhere(document: Path, link: str) -> None:
    assert (ROOT / document.parent / link).exists()


def _pooled(model: str, of: str, sample: str, loops: str) -> pd.Series:
    """The row of figures/replication.csv that the README's prose speaks of."""
    table = pd.read_csv(ROOT / "figures" / "replication.csv")
    row = table[
        (table.model == model) & (table.of == of) & (table["sample"] == sample)
        & (table.loops == loops) & (table.decoding == "openai")
        & (table.component == "cross_attention") & (table.modes == 50)
    ]  # fmt: skip
    assert len(row) == 1
    return row.iloc[0]


def _falls() -> str:
    found = [_pooled(model, "controls", "sampled", "dropped") for model in ("tiny.en", "base")]
    tiny, base = (f"{-r.n_eff:.0f} % [{-r.n_eff_high:.0f}, {-r.n_eff_low:.0f}]" for r in found)
    draws = {3: "three"}[int(found[0].draws)]
    kept = [
        [_pooled(model, of, "sampled", "kept") for model in ("tiny.en", "base")]
        for of in ("controls", "measured")
    ]
    assert all(row.n_eff_high > 0 for row in kept[0]), "theirs surely falls with loops too"
    (one, two), (ours, other) = ([f"{-row.n_eff:.0f}" for row in rows] for rows in kept)
    count = int(_pooled("tiny.en", "measured", "sampled", "kept").utterances)
    return (
        f"falls by {tiny} (tiny.en) and {base} (base; {draws} draws each, {count} utterances). "
        f"With loops kept theirs falls by {one} and {two} %, not surely, the trained ones' by "
        f"{ours} and {other} %."
    )


def _difference() -> str:
    published = pd.read_csv(ROOT / "data" / "published" / "k50.csv")
    known = published[(published.model == "tiny") & (published.component == "cross_attention")]
    ours = _pooled("tiny.en", "measured", "unseen", "dropped").log10_difference
    return f"({ours:.2f}, published {known.delta_log10_kf.iloc[0]:.2f})"


def _decades() -> str:
    low, high = sorted(
        _pooled(model, "measured", "unseen", "dropped").log10_ratio for model in ("tiny.en", "base")
    )
    return f"a change of {low:.2f} to {high:.2f} decades"


def _halves() -> str:
    low, high = sorted(
        _pooled(model, "halves", "halves", "dropped").log10_difference_high
        for model in ("tiny.en", "base")
    )
    return f"reaches {low:.1f} to {high:.1f} for random halves of clean speech"


def _loops(model: str) -> tuple[str, str]:
    kept, dropped, matched = (
        -_pooled(model, "measured", "unseen", loops).n_eff
        for loops in ("kept", "dropped", "matched")
    )
    return f"{kept:.0f} %", f"{dropped:.0f} to {matched:.0f}"


def _beyond_random_networks() -> str:
    table = pd.read_csv(ROOT / "figures" / "whisper" / "controls.csv")
    table = table[
        (table.control == "spectrum") & (table.length == "length-matched") & (table.modes == 50)
        & (table.observable == "n_eff")
    ]  # fmt: skip
    others = table[table.component != "cross_attention"]
    assert (others.remaining_high > 0).all(), "something is left in the other components too"
    rows = table[table.component == "cross_attention"].set_index("model")
    tiny, base = rows.loc["tiny.en"], rows.loc["base"]
    assert (rows.draws == 20).all()
    left = [f"[{-row.remaining_high:.0f}, {-row.remaining_low:.0f}]" for row in (tiny, base)]
    return (
        f"cross-attention's rank falls by {-tiny.trained:.0f} % (tiny.en) and {-base.trained:.0f} %"
        f" (base), in twenty such random networks by {-tiny.random:.0f} and {-base.random:.0f} %; "
        f"the difference is {-tiny.remaining:.0f} points {left[0]} and {-base.remaining:.0f} "
        f"{left[1]}."
    )


def _forced() -> str:
    table = pd.read_csv(ROOT / "figures" / "whisper" / "evidence_k50.csv")
    table = table[(table.source == "forced") & (table.observable == "n_eff")]
    falls = -table.set_index(["model", "component"]).change
    small = [
        [falls[model, component] for component in ("self_attention", "ffn")]
        for model in ("tiny.en", "base")
    ]
    heard = [falls[model, "cross_attention"] for model in ("tiny.en", "base")]
    return (
        "with the same text forced on both sounds it is {:.0f} and {:.0f} % in tiny.en, {:.0f} and "
        "{:.0f} in base, and {:.0f} and {:.0f} in cross-attention".format(
            *small[0], *small[1], *heard
        )
    )


def _warnings() -> str:
    table = pd.read_csv(ROOT / "figures" / "whisper" / "early_warning.csv")
    table = table[(table.when == "any") & (table.prefix == 0)]

    def lowest_to_highest(component: str, observable: str) -> list[str]:
        own = table[(table.component == component) & (table.observable == observable)]
        warns = (1 - own.auc).groupby(own.model, sort=False)
        assert (warns.size() == 5).all()
        return [f"{each.min():.2f} to {each.max():.2f}" for _, each in warns]

    rank, size = (
        lowest_to_highest("cross_attention", name) for name in ("n_eff", "log10_variance")
    )
    sure = lowest_to_highest("transcript", "log_probability_per_word_piece")
    return (
        f"cross-attention's rank tells failures apart with an AUC of {rank[0]} (tiny.en) and "
        f"{rank[1]} (base), the mere size of its output with {size[0]} and {size[1]}, the "
        f"log-probability with {sure[0]} and {sure[1]}"
    )


def _contest() -> str:
    table = pd.read_csv(ROOT / "figures" / "whisper" / "contest.csv")
    table = table[
        (table.set == "unseen stresses") & (table.prefix == 0) & ~table.confident.astype(bool)
    ].set_index(["contestant", "model"])
    names = ("cross-attention: N_eff, sliding", "log-probability", "forbidden mass, first step")
    rank, sure, forbidden = (
        [f"{table.auroc[name, model]:.2f}" for model in ("tiny.en", "base")] for name in names
    )
    return (
        f"with an AUC of {rank[0]} and {rank[1]} (log-probability {sure[0]} and {sure[1]}; "
        f"forbidden tokens' probability at the first step {forbidden[0]} and {forbidden[1]};"
    )


def _predictions() -> str:
    became = pd.read_csv(ROOT / "figures" / "predictions.csv").outcome.value_counts()
    true, false, still = (became[name] for name in ("came true", "did not", "open"))
    assert became.sum() == true + false + still, "some line was not measured"
    return f"Of its {became.sum()} lines {true} came true, {false} did not, and {still} are open"


def _kernels_on_cuda() -> list[str]:
    """What docs/kernels.md says of a GPU, from the benchmarks' tables."""
    folder = ROOT / "data" / "benchmarks"
    table = pd.read_csv(folder / "cuda.csv")
    exact = table[table.case == "propagators"]

    def slower(way: str) -> str:
        ratios = exact.ratio[exact.way == way]
        return f"{ratios.min():.0f} to {ratios.max():.0f} times faster"

    widest = exact[exact.width == 1280].set_index("way")
    narrow = exact[(exact.width == 384) & (exact.tokens == 64)].set_index("way")
    other = table[(table.case != "propagators") & (table.way != "ours")].set_index("way").ratio
    jacfwd = "jacfwd per token, cached keys"
    cost = pd.read_csv(folder / "throughput-cuda.csv").set_index("model")
    named = cost.loc[["tiny", "large-v3-turbo", "large-v3"]]
    speed, memory = named.utterances_per_second, named.peak_bytes / 1e9
    small, large = cost.overhead[["tiny", "base", "small"]], cost.overhead[named.index[1:]]
    seconds = named.propagator_seconds
    trained = pd.read_csv(folder / "training-cuda.csv")
    trained = trained[trained.at_once == 12]
    minutes = (trained.seconds / trained.fraction_of_steps).sum() / 12 / 60
    return [
        f"the whole ladder takes {int(minutes)} minutes there were twelve always at work",
        f"{slower('jacrev, full sequence')} than `jacrev` and {slower(jacfwd)} than `jacfwd`",
        f"at {widest.product_fraction['ours']:.0%}".replace("%", " %")
        + " of the card's rate of plain matrix products at the width of Turbo "
        + f"({narrow.product_fraction['ours']:.0%}".replace("%", " %"),
        f"{widest.peak_bytes['ours'] / 1e9:.1f} GB where `jacfwd` takes "
        f"{widest.peak_bytes[jacfwd] / 1e9:.1f} GB",
        f"the top two singular triplets {other['closed form, torch.linalg.svd']:.0f} times faster",
        f"the graph index {other['networkx']:.0f} times faster",
        "{:.0f} utterances of 32 tokens a second with Tiny, {:.0f} with Large-v3-Turbo and {:.0f} "
        "with Large-v3 ({:.1f}, {:.1f} and {:.1f} GB)".format(*speed, *memory),
        f"{100 * small.min():.0f} to {100 * small.max():.0f} % to decoding in the small models and "
        f"{100 * large.min():.0f} to {100 * large.max():.0f} % in the two large ones",
        "{:.2g}, {:.2g} and {:.2g} s".format(*seconds),
    ]


def test_the_page_on_kernels_says_what_the_tables_of_the_gpu_say() -> None:
    prose = " ".join((ROOT / "docs" / "kernels.md").read_text().split())
    for phrase in _kernels_on_cuda():
        assert phrase in prose


def test_the_page_of_results_says_what_the_claims_say_of_the_ladder_s_controls() -> None:
    claims = (ROOT / "figures" / "claims.md").read_text()
    ladder = claims[claims.index("### ladder") :]
    prose = " ".join((ROOT / "docs" / "results.md").read_text().split())
    for control, says in (
        ("random vectors", "{:.0f} points are left [{:.0f}, {:.0f}]"),
        ("unpaired training", "({:.0f} points are left [{:.0f}, {:.0f}]"),
    ):
        part = ladder[ladder.index(f"effective rank falls more than with {control}") :]
        found = re.search(r"\*\*Together\*\* -([\d.]+) \[-([\d.]+), -([\d.]+)\]", part)
        assert found, control
        estimate, high, low = map(float, found.groups())
        assert says.format(estimate, low, high) in prose


def test_the_prose_says_what_the_tables_say() -> None:
    prose = " ".join(README.split())
    tiny, base = _loops("tiny.en"), _loops("base")
    for phrase in (
        _difference(),
        _falls(),
        _decades(),
        _halves(),
        _beyond_random_networks(),
        _forced(),
        _warnings(),
        _contest(),
        _predictions(),
        f"cross-attention's rank falls by {tiny[0]}; dropped, or with as many rows on both sides, "
        f"by {tiny[1]}. In base it is {base[0]}, and {base[1]}.",
    ):
        assert phrase in prose
