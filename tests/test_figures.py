"""The figures that come with the project can be printed, and how models look in them."""

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
    legend_labels,
    model_colours,
    model_markers,
    save_figure,
    use_style,
)

FIGURES = sorted((Path(__file__).parents[1] / "figures").rglob("*.png"))
MARGIN = 0.2  # inches, for what sticks out of the axes


@pytest.mark.parametrize("path", FIGURES, ids=lambda path: path.stem)
def test_a_figure_fits_a_page_of_print(path: Path) -> None:
    with Image.open(path) as image:
        width = image.width / image.info["dpi"][0]
    assert width < PAGE + MARGIN, "a legend of too many columns, perhaps"


MODELS = pd.DataFrame(
    {
        "model": ["l-0", "xs-1", "openai/whisper-large-v3", "xs-0", "narrow-deep-0"],
        "parameters": [3_700_000, 230_000, 1_543_490_560, 230_000, 400_000],
    }
)


def test_seeds_share_colour_and_marker_and_one_line_of_the_legend() -> None:
    labels = legend_labels(MODELS)
    assert labels == {
        "xs-0": "xs (0.23 M), 2 seeds",
        "xs-1": "_",
        "narrow-deep-0": "narrow-deep (0.40 M)",
        "l-0": "l (3.70 M)",
        "openai/whisper-large-v3": "openai/whisper-large-v3 (1543.49 M)",
    }
    for of in (model_colours(list(labels)), model_markers(list(labels))):
        assert of["xs-0"] == of["xs-1"]
        assert len(set(of.values())) == 4


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


def test_a_png_has_just_the_colours_that_were_drawn(tmp_path: Path) -> None:
    use_style()
    figure, ax = plt.subplots(figsize=(3, 2), layout="constrained")
    ax.imshow(np.random.default_rng(0).random((60, 60)), cmap="inferno")
    ax.plot([5], [5], "s", color="#00ff00", ms=2)
    ax.axvspan(20, 40, color="#777777")
    save_figure(figure, tmp_path, "shades")
    with Image.open(tmp_path / "shades.png") as image:
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3).astype(int)
    for colour in ([0, 255, 0], [0x77] * 3):
        assert (pixels == colour).all(axis=1).any()


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
