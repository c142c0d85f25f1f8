import numpy as np
import pytest

from vniah.analysis.palettes import COLORS, MEASURE_COLORS, SAFE_COLORS, channels_of, color_at
from vniah.analysis.plot.style import measure_colors, score_colors


def test_ends_and_middles_are_the_colours_themselves():
    assert [color_at(COLORS, share).lower() for share in (0, 0.5, 1)] == [
        color.lower() for color in COLORS
    ]
    assert color_at(MEASURE_COLORS, -1) == color_at(MEASURE_COLORS, 0)
    assert color_at(MEASURE_COLORS, 2) == color_at(MEASURE_COLORS, 1)


@pytest.mark.parametrize(
    ("colors", "drawn"), [(SAFE_COLORS, score_colors), (MEASURE_COLORS, measure_colors)]
)
def test_pages_have_the_colours_of_pictures(colors, drawn):
    for share in np.linspace(0, 1, 33):
        drawn_channels = 255 * np.array(drawn()(share)[:3])
        assert np.abs(drawn_channels - channels_of(color_at(colors, share))).max() < 1.5
