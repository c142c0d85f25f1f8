"""The colours of heatmaps in grey, for colour-blind readers, and under numbers and hatches."""

import numpy as np
import pytest

from vniah.analysis.palettes import (
    COLORS,
    MEASURE_COLORS,
    SAFE_COLORS,
    color_at,
    contrast,
    letters_on,
)
from vniah.analysis.plot.style import measure_colors, score_colors
from vniah.errors import InputError

# G. M. Machado, M. M. Oliveira, L. A. F. Fernandes, "A Physiologically-based Model for Simulation
# of Color Vision Deficiency", IEEE TVCG 15 (2009), severity 1.0; on linear RGB.
BLINDNESS = {
    "none": np.eye(3),
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
# IEC 61966-2-1: linear sRGB to CIE XYZ with the white point D65.
TO_XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)


def lab(rgb, blindness="none"):
    """CIELAB of sRGB colours [..., 3] in [0, 1], as somebody with a colour blindness sees them."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.array(BLINDNESS[blindness]).T, 0, 1)
    xyz = seen @ TO_XYZ.T / TO_XYZ.sum(1)
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    x, y, z = np.moveaxis(f, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def delta_e(one, other):
    """CIEDE2000 of CIELAB colours [..., 3].

    G. Sharma, W. Wu, E. N. Dalal, "The CIEDE2000 Color-Difference Formula: Implementation Notes,
    Supplementary Test Data, and Mathematical Observations", Color Research and Application 30
    (2005).
    """
    (l1, a1, b1), (l2, a2, b2) = np.moveaxis(one, -1, 0), np.moveaxis(other, -1, 0)
    c7 = ((np.hypot(a1, b1) + np.hypot(a2, b2)) / 2) ** 7
    a1, a2 = (a * (1 + 0.5 * (1 - np.sqrt(c7 / (c7 + 25.0**7)))) for a in (a1, a2))
    c1, c2 = np.hypot(a1, b1), np.hypot(a2, b2)
    h1, h2 = np.degrees(np.arctan2(b1, a1)) % 360, np.degrees(np.arctan2(b2, a2)) % 360
    is_grey = c1 * c2 == 0
    turn = np.where(is_grey, 0, (h2 - h1 + 180) % 360 - 180)
    d_hue = 2 * np.sqrt(c1 * c2) * np.sin(np.radians(turn / 2))
    far, total = np.abs(h1 - h2) > 180, h1 + h2
    hue = np.where(far, np.where(total < 360, total + 360, total - 360), total) / 2
    hue = np.where(is_grey, total, hue)
    light, c = (l1 + l2) / 2, (c1 + c2) / 2
    t = (
        1
        - 0.17 * np.cos(np.radians(hue - 30))
        + 0.24 * np.cos(np.radians(2 * hue))
        + 0.32 * np.cos(np.radians(3 * hue + 6))
        - 0.20 * np.cos(np.radians(4 * hue - 63))
    )
    of_light = (l2 - l1) / (1 + 0.015 * (light - 50) ** 2 / np.sqrt(20 + (light - 50) ** 2))
    of_chroma, of_hue = (c2 - c1) / (1 + 0.045 * c), d_hue / (1 + 0.015 * c * t)
    turned = np.sin(np.radians(60 * np.exp(-(((hue - 275) / 25) ** 2))))
    rotation = -2 * np.sqrt(c**7 / (c**7 + 25.0**7)) * turned
    return np.sqrt(of_light**2 + of_chroma**2 + of_hue**2 + rotation * of_chroma * of_hue)


def faults(colors, blindness):
    """What is wrong with the colours of shares from 0 to 1 for such a reader."""
    seen = lab(colors(np.linspace(0, 1, 101))[:, :3], blindness)
    steps = np.diff(seen[:, 0])
    found = []
    if not (np.all(steps > 0) or np.all(steps < 0)):
        found.append("lightness is not monotone")
    if np.abs(np.diff(seen[::20, 0])).min() < (10 if blindness == "none" else 8):
        found.append("fifths are alike in grey")
    pairs = delta_e(seen[:, None], seen[None])
    if pairs.max() > pairs[0, -1] + 0.05:
        found.append("0 and 1 are not the farthest apart")
    return found


@pytest.mark.parametrize("blindness", BLINDNESS)
@pytest.mark.parametrize("colors", [score_colors("safe"), measure_colors()])
def test_colors_are_in_order_and_their_ends_farthest_apart(colors, blindness):
    assert faults(colors, blindness) == []


@pytest.mark.parametrize(
    ("blindness", "found"),
    [
        ("none", ["lightness is not monotone", "fifths are alike in grey"]),
        ("deuteranopia", [*("lightness is not monotone", "fifths are alike in grey"), "0 and 1"]),
        ("protanopia", ["fifths are alike in grey", "0 and 1 are not the farthest apart"]),
    ],
)
def test_published_colors_are_not(blindness, found):
    assert all(map(str.startswith, faults(score_colors("published"), blindness), found))
    assert len(faults(score_colors("published"), blindness)) == len(found)


@pytest.mark.parametrize(
    ("one", "other", "distance"),
    [
        # Of the supplementary test data of Sharma et al. 2005.
        ((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425),
        ((50, -1, 2), (50, 0, 0), 2.3669),
        ((50, 2.5, 0), (61, -5, 29), 22.8977),
        ((50, 2.5, 0), (56, -27, -3), 31.9030),
        ((90.8027, -2.0831, 1.4410), (91.1528, -1.6435, 0.0447), 1.4441),
        ((2.0776, 0.0795, -1.1350), (0.9033, -0.0636, -0.5514), 0.9082),
    ],
)
def test_the_distance_of_colors_is_that_of_its_authors(one, other, distance):
    assert delta_e(np.array(one), np.array(other)) == pytest.approx(distance, abs=5e-5)


@pytest.mark.parametrize("colors", [SAFE_COLORS, COLORS, MEASURE_COLORS])
def test_letters_on_every_color_can_be_read(colors):
    """With a contrast of at least 4.5, as WCAG 2.2 asks for small letters."""
    for step in range(101):
        color = color_at(colors, step / 100)
        assert contrast(letters_on(color), color) >= 4.5
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


def test_palette_that_does_not_exist():
    with pytest.raises(InputError, match="palette must be safe or published, got 'jet'"):
        score_colors("jet")
