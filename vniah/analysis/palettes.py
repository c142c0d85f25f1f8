"""The colours of scores and measures, as plain values for pictures and pages alike."""

from collections.abc import Sequence

_BLACK, _WHITE = "#000000", "#ffffff"

COLORS = ("#F0496E", "#EBB839", "#9ad5b3")
"""Of scores of 0, 0.5 and 1, as published."""

SAFE_COLORS = (
    *("#560530", "#780033", "#960031", "#ae192d", "#c33526", "#d1521e"),
    *("#d9701a", "#db8e1b", "#d0ae2e", "#b5ce69", "#a6e6b6"),
)
"""Of scores of 0, 0.1, ... 1. Their lightness L* in CIELAB grows in equal steps, from 17 to 86, so
that they stay in order in grey, and 0 and 1 are farthest apart for colour-blind readers too."""

MEASURE_COLORS = (
    *("#e7e3d0", "#bcd4c0", "#91c4be", "#6eb2ba", "#4d9fb3", "#298bab"),
    *("#0078a3", "#006598", "#005088", "#003c75", "#0e2960"),
)
"""Of measures, from the smallest value to the largest, made like `SAFE_COLORS`."""


CHANGE_COLORS = (
    *("#a65006", "#c36b2a", "#da8952", "#eaaa80", "#f2ccb6", "#f1f1f1"),
    *("#c7d4ee", "#9cb9e9", "#6f9fde", "#4085cd", "#006bb5"),
)
"""Of changes, from the largest fall to the largest rise. Both sides have the same lightness L* in
CIELAB, from 95 in the middle to 44 at the ends: in grey only a sign tells them apart. Orange and
blue differ for colour-blind readers too."""


def color_at(colors: Sequence[str], share: float) -> str:
    """The colour of a value, such as ``"#ebb839"``.

    Args:
        colors: at least two, at equal distances from 0 to 1, such as ``"#F0496E"``.
        share: where the value lies between both ends of the colours, in [0, 1].

    >>> color_at(("#000000", "#ffffff"), 0.2)
    '#333333'
    """
    place = min(max(share, 0.0), 1.0) * (len(colors) - 1)
    first = min(int(place), len(colors) - 2)
    below, above = (channels_of(color) for color in colors[first : first + 2])
    mixed = (a + (b - a) * (place - first) for a, b in zip(below, above, strict=True))
    return "#" + "".join(f"{round(channel):02x}" for channel in mixed)


def channels_of(color: str) -> tuple[int, int, int]:
    """Red, green and blue of a colour such as ``"#F0496E"``, from 0 to 255 each."""
    red, green, blue = bytes.fromhex(color.removeprefix("#"))
    return red, green, blue


def letters_on(color: str) -> str:
    """Black or white: the colour of letters that can be read on a colour."""
    return max((_BLACK, _WHITE), key=lambda letters: contrast(letters, color))


def contrast(one: str, other: str) -> float:
    """The contrast of two colours, from 1 to 21, as WCAG 2 defines it:
    https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio
    """
    lighter, darker = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(color: str) -> float:
    linear = [
        channel / 12.92 if channel <= 0.04045 else ((channel + 0.055) / 1.055) ** 2.4
        for channel in (value / 255 for value in channels_of(color))
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
