"""The figures that come with the project can be printed."""

from pathlib import Path

import pytest
from PIL import Image

from spectral.figures.style import PAGE

FIGURES = sorted((Path(__file__).parents[1] / "figures").glob("*.png"))
MARGIN = 0.2  # inches, for what sticks out of the axes


@pytest.mark.parametrize("path", FIGURES, ids=lambda path: path.stem)
def test_a_figure_fits_a_page_of_print(path: Path) -> None:
    with Image.open(path) as image:
        width = image.width / image.info["dpi"][0]
    assert width < PAGE + MARGIN, "a legend of too many columns, perhaps"
