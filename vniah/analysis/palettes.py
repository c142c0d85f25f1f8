"""The colours of scores and measures, as plain values for pictures and pages alike."""

from collections.abc import Sequence

COLORS = ("#F0496E", "#EBB839", "#9ad5b3")
"""Of scores of 0, 0.5 and 1, as published."""

MEASURE_COLORS = ("#f3f0df", "#8fb9c9", "#3d6f9e", "#1d2f5a")
"""Of measures, from the smallest value to the largest."""


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
