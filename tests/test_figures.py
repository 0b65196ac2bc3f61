"""The figures that come with the project can be printed, and how models look in them."""

import re
from io import BytesIO
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from companion.figures.style import (
    PAGE,
    as_png,
    draw_panels,
    model_colours,
    model_keys,
    model_order,
    save_figure,
    tidy,
    use_style,
)

ROOT = Path(__file__).parents[1]
FIGURES = sorted((ROOT / "figures").rglob("*.png"))
MARGIN = 0.2  # inches, for what sticks out of the axes


@pytest.mark.parametrize("path", FIGURES, ids=lambda path: path.stem)
def test_a_figure_fits_a_page_of_print(path: Path) -> None:
    with Image.open(path) as image:
        width = image.width / image.info["dpi"][0]
    assert width < PAGE + MARGIN, "a legend of too many columns, perhaps"


def test_at_most_twelve_figures_are_main_and_all_of_them_are_there() -> None:
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| \[\w+\]\(\.\./figures/([\w/]+\.png)\)", page, re.MULTILINE)
    assert 0 < len(listed) <= 12
    assert {ROOT / "figures" / name for name in listed} <= set(FIGURES)
    assert not [name for name in listed if "supplement" in name]


MODELS = pd.DataFrame(
    {
        "model": ["l-0", "xs-1", "openai/whisper-large-v3", "xs-0", "narrow-deep-0"],
        "parameters": [3_700_000, 230_000, 1_543_490_560, 230_000, 400_000],
    }
)


def test_seeds_have_one_colour_and_one_line_of_the_legend() -> None:
    keys = model_keys(MODELS)
    assert [line.get_label() for line in keys] == [
        "xs (0.23 M), 2 seeds",
        "narrow-deep (0.40 M)",
        "l (3.70 M)",
        "openai/whisper-large-v3 (1543.49 M)",
    ]
    colours = model_colours(model_order(MODELS))
    assert colours["xs-0"] == colours["xs-1"]
    assert [line.get_color() for line in keys] == list(dict.fromkeys(colours.values()))


def test_a_figure_is_cut_to_what_it_shows_and_comes_out_the_same_twice(tmp_path: Path) -> None:
    use_style()
    for folder in (tmp_path / "one", tmp_path / "two"):
        figure, ax = plt.subplots(figsize=(3, 2), layout="constrained")
        ax.plot([0, 1], [0, 1])
        ax.set_ylabel("a long label, far outside of the axes")
        figure.legend(["line"], loc="outside lower center")
        save_figure(figure, folder, "line")
        plt.close(figure)
    for name in ("line.png", "line.pdf"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    with Image.open(tmp_path / "one" / "line.png") as image:
        dark = image.convert("L").point(lambda value: 255 * (value < 250)).getbbox()
        assert dark is not None
        edges = (dark[0], dark[1], image.width - dark[2], image.height - dark[3])
    assert all(0 < edge < 0.15 * 150 for edge in edges), "nothing is cut off, no empty border"


def test_panels_show_the_numbers_with_their_intervals_where_they_belong() -> None:
    """A panel per number and component, a line per model and kind, controls open, nothing lost."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {"model": model, "parameters": 1, "component": part, "length": length, "network": network,
         "layer": layer, "gain": rng.random(), "gain_low": -1.0, "gain_high": 2.0, "rank": 3.0}
        for model in ("a", "b") for part in ("ffn", "self_attention")
        for length in ("raw", "length-matched") for network in ("trained", "random")
        for layer in (1, 2)
    )  # fmt: skip
    long = tidy(table, {"gain": "the gain", "rank": "the rank"})
    figure, axes = draw_panels(long, "layer", line="-", spread=0.1)
    assert list(axes) == [
        (number, part) for number in ("the gain", "the rank") for part in ("self-attention", "FFN")
    ]
    for (number, _), ax in axes.items():
        marks = [line for line in ax.lines if line.get_marker() in ("o", "D")]
        assert len(marks) == 2 * 2 * 2, "models, lengths, networks"
        assert sum(line.get_markerfacecolor() == "white" for line in marks) == 4
        drawn = np.concatenate([line.get_ydata() for line in marks])
        assert set(drawn) <= set(long[long.number == number].value)
    assert [ax.get_ylabel() for ax in figure.axes[::2]] == ["the gain", "the rank"]
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts[-3:] == ["raw", "length-matched (first rows)", "random"]
    plt.close(figure)


def test_panels_across_have_a_line_per_category_and_no_bars_where_models_are_many() -> None:
    table = pd.DataFrame(
        {"model": f"m{i}", "parameters": i, "component": "ffn", "kind": kind, "gain": 1.0 * i,
         "gain_low": -1.0, "gain_high": 9.0}
        for i in range(1, 8) for kind in ("one", "other")
    )  # fmt: skip
    for models, bars in ((6, True), (7, False)):
        rows = table[table.parameters <= models]
        figure, axes = draw_panels(tidy(rows, {"gain": "gain"}), "kind", across=True, chance=0)
        (ax,) = axes.values()
        assert [label.get_text() for label in ax.get_yticklabels()] == ["one", "other"]
        ends = np.concatenate([bar.get_segments() for bar in ax.collections])[:, :, 0]
        assert bool(np.ptp(ends, axis=1).any()) == bars
        plt.close(figure)


@pytest.mark.parametrize("colours", [2, 256, 257, 4000])
def test_a_png_is_the_image_pixel_for_pixel(colours: int) -> None:
    rng = np.random.default_rng(colours)
    known = rng.permutation(2**24)[:colours]
    drawn = np.concatenate([known, rng.choice(known, 80 * 90 - colours)]).astype(np.uint32)
    pixels = np.stack([drawn >> 16 & 255, drawn >> 8 & 255, drawn & 255], axis=-1)
    image = Image.fromarray(pixels.reshape(80, 90, 3).astype(np.uint8))
    image.info["dpi"] = (150.0, 150.0)
    with Image.open(BytesIO(as_png(image))) as again:
        assert again.info["dpi"] == pytest.approx((150, 150), abs=0.02)
        np.testing.assert_array_equal(np.asarray(again.convert("RGB")), np.asarray(image))
