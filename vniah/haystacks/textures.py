"""Textures and colours of the drawn film, in integers only.

The random numbers are the same on every machine. Lengths are in units of 1/96 of the shorter side
of a frame.
"""

import math

import numpy as np
from numpy.typing import NDArray

Color = tuple[int, int, int]
Plane = NDArray[np.int64]
Pixels = NDArray[np.uint8]

UNITS = 96
_MASK64 = (1 << 64) - 1
_SINE = np.array(
    [127 + round(127 * math.sin(2 * math.pi * k / 1024)) for k in range(1024)], dtype=np.int64
)

NAMED_COLORS: dict[str, Color] = {
    "red": (215, 35, 35),
    "green": (40, 165, 60),
    "blue": (40, 70, 215),
    "yellow": (240, 220, 50),
    "purple": (140, 50, 165),
    "orange": (245, 140, 30),
    "white": (240, 240, 240),
    "cyan": (60, 205, 220),
}
"""The colours of the needle cards. The film uses them too: a colour alone gives no needle away."""


class Dice:
    """Random integers by splitmix64: the same on every machine and with every version of numpy."""

    def __init__(self, *keys: int) -> None:
        self._state = 0
        for key in keys:
            self._state = (self._next() ^ key) & _MASK64
        self._next()

    def _next(self) -> int:
        self._state = (self._state + 0x9E3779B97F4A7C15) & _MASK64
        z = self._state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK64
        return z ^ (z >> 31)

    def between(self, low: int, high: int) -> int:
        """An integer from ``low`` to ``high``, both included."""
        return low + self._next() % (high - low + 1)

    def signed(self, low: int, high: int) -> int:
        """``between(low, high)`` with a random sign."""
        size = self.between(low, high)
        return size if self._next() % 2 else -size

    def color(self) -> Color:
        """A random colour; one time in two, one that is close to a named colour."""
        if self.between(0, 1):
            return (self.between(0, 255), self.between(0, 255), self.between(0, 255))
        named = list(NAMED_COLORS.values())[self.between(0, len(NAMED_COLORS) - 1)]
        red, green, blue = (min(255, max(0, level + self.between(-18, 18))) for level in named)
        return (red, green, blue)

    def raw_bytes(self, *shape: int) -> Plane:
        """Uniform integers 0..255 of the given shape."""
        count = math.prod(shape)
        raw = np.random.PCG64(self._next()).random_raw(count // 8 + 1)
        return raw.astype("<u8").view(np.uint8)[:count].reshape(shape).astype(np.int64)


def _axes(height: int, width: int) -> tuple[Plane, Plane]:
    """Row and column numbers, [height, 1] and [1, width]."""
    y, x = np.arange(height, dtype=np.int64), np.arange(width, dtype=np.int64)
    return y[:, None], x[None]


def _value_noise(dice: Dice, height: int, width: int, cell: int) -> Plane:
    """Bilinear interpolation of a random lattice, 0..255 [height, width]."""
    lattice = dice.raw_bytes(height // cell + 2, width // cell + 2)
    y, x = _axes(height, width)
    (rows, below), (columns, right) = np.divmod(y, cell), np.divmod(x, cell)
    below, right = below * 256 // cell, right * 256 // cell
    top: Plane = lattice[rows, columns] * (256 - right) + lattice[rows, columns + 1] * right
    bottom: Plane = (
        lattice[rows + 1, columns] * (256 - right) + lattice[rows + 1, columns + 1] * right
    )
    return np.asarray((top * (256 - below) + bottom * below) >> 16)


def _hills(dice: Dice, height: int, width: int, unit: int) -> Plane:
    """A sky, and before it three ridges, one behind the other."""
    y, x = _axes(height, width)
    plane = np.broadcast_to(y * 70 // height, (height, width)).copy()
    horizon = dice.between(25, 50)
    for level in (110, 175, 240):
        wave = _SINE[(x * dice.between(4, 14) * UNITS // unit + dice.between(0, 1023)) & 1023]
        ridge = (horizon * 256 + (wave - 127) * dice.between(4, 22)) * unit // (UNITS * 256)
        plane[y >= ridge] = level
        horizon += dice.between(15, 30)
    return np.asarray(plane + (_value_noise(dice, height, width, max(2, unit // 24)) >> 4))


def draw_texture(dice: Dice, height: int, width: int, unit: int) -> Plane:
    """One of nine textures, 0..255 [height, width]; ``unit`` is the shorter side of the frame."""
    y, x = _axes(height, width)
    kind = dice.between(0, 8)
    fine = max(2, unit * dice.between(3, 12) // UNITS)
    coarse = max(4, unit * dice.between(14, 40) // UNITS)
    slope = (dice.signed(0, 90) * x + dice.signed(0, 90) * y) * UNITS // unit
    if kind == 0:  # a gradient, mirrored where it ends
        return np.asarray(255 - abs((slope // dice.between(8, 24) & 511) - 255))
    if kind == 1:  # stripes
        return np.asarray(_SINE[slope & 1023])
    if kind == 2:  # a checker board
        side = max(3, unit * dice.between(6, 20) // UNITS)
        return np.asarray((x // side + y // side) % 2 * 255)
    if kind == 3:
        return _hills(dice, height, width, unit)
    if kind == 4:  # clouds
        return np.asarray(
            (
                _value_noise(dice, height, width, coarse) * 3
                + _value_noise(dice, height, width, fine)
            )
            // 4
        )
    if kind == 5:  # patches with hard edges
        return np.asarray(_value_noise(dice, height, width, coarse) // 52 * 60)
    if kind == 6:  # two crossing waves
        across = _SINE[(slope + dice.between(0, 1023)) & 1023]
        along = _SINE[(dice.between(8, 60) * (x - y) * UNITS // unit) & 1023]
        return np.asarray((across + along) // 2)
    if kind == 7:  # rings
        squared = (x - dice.between(0, width)) ** 2 + (y - dice.between(0, height)) ** 2
        return np.asarray(
            _SINE[(squared * dice.between(4, 20) * 9216 // (unit * unit * 16)) & 1023]
        )
    brick_height = max(3, unit * dice.between(6, 14) // UNITS)  # a wall
    row = y // brick_height
    column = x + row % 2 * brick_height
    mortar = (y % brick_height == 0) | (column % (2 * brick_height) == 0)
    return np.where(mortar, 0, 90 + (row * 7 + column // (2 * brick_height) * 5) % 8 * 20)


def make_palette(dice: Dice) -> Pixels:
    """256 colours from one random colour over a second to a third, uint8 [256, 3]."""
    anchors = np.array([dice.color(), dice.color(), dice.color()], dtype=np.int64)
    step = np.arange(256)[:, None] * 2
    first, weight = np.minimum(step // 256, 1), step - np.minimum(step // 256, 1) * 256
    mixed = anchors[first[:, 0]] * (256 - weight) + anchors[first[:, 0] + 1] * weight
    return np.asarray(mixed >> 8, dtype=np.uint8)
