"""What the pictures of the needle set ``counterfactual`` show.

The scenes of needles, and the things in them that the scenes of distractors show as well.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIDE = 672  # pixels of the finished, square picture; all coordinates below are in this unit
OVERSAMPLING = 3  # everything is drawn this much larger and scaled down, which smooths the edges

Point = tuple[float, float]
Color = str


class Canvas:
    """A picture under the pen. Coordinates are [x, y] from the top left, in finished pixels."""

    def __init__(self) -> None:
        self.image = Image.new("RGB", (SIDE * OVERSAMPLING, SIDE * OVERSAMPLING))
        self.pen = ImageDraw.Draw(self.image)

    def gradient(self, top: Color, bottom: Color, *, from_y: float, to_y: float) -> None:
        """Fill the full width between two heights."""
        start, stop = round(from_y * OVERSAMPLING), round(to_y * OVERSAMPLING)
        ends = np.array([rgb(top), rgb(bottom)], dtype=float)
        share = np.linspace(0, 1, stop - start)[:, None]
        column = np.rint(ends[0] * (1 - share) + ends[1] * share).astype(np.uint8)
        band = np.repeat(column[:, None, :], SIDE * OVERSAMPLING, axis=1)
        self.image.paste(Image.fromarray(band), (0, start))

    def polygon(self, points: Sequence[Point], color: Color) -> None:
        """Fill a polygon."""
        self.pen.polygon([(x * OVERSAMPLING, y * OVERSAMPLING) for x, y in points], fill=color)

    def disc(self, center: Point, radius: float, color: Color, *, height: float = 1.0) -> None:
        """Fill a circle, or an ellipse `height` times as high as it is wide."""
        (x, y), rise = center, radius * height
        box = [x - radius, y - rise, x + radius, y + rise]
        self.pen.ellipse([value * OVERSAMPLING for value in box], fill=color)

    def box(self, corners: Sequence[float], color: Color, *, radius: float = 0.0) -> None:
        """Fill the rectangle (left, top, right, bottom), its corners rounded."""
        scaled = [value * OVERSAMPLING for value in corners]
        self.pen.rounded_rectangle(scaled, radius=radius * OVERSAMPLING, fill=color)

    def stroke(self, points: Sequence[Point], width: float, color: Color) -> None:
        """Draw a line through points, its ends and joints round."""
        for (x0, y0), (x1, y1) in pairwise(points):
            line = [value * OVERSAMPLING for value in (x0, y0, x1, y1)]
            self.pen.line(line, fill=color, width=round(width * OVERSAMPLING))
        for point in points:
            self.disc(point, width / 2, color)

    def text(self, center: Point, text: str, size: float, color: Color, *, bold: float = 0) -> None:
        """Write one line around a center; `bold` widens the strokes by so many pixels."""
        x, y = (value * OVERSAMPLING for value in center)
        font = ImageFont.load_default(size=size * OVERSAMPLING)
        left, top, right, bottom = self.pen.textbbox((0, 0), text, font=font)
        corner = (x - (left + right) / 2, y - (top + bottom) / 2)
        width = round(bold * OVERSAMPLING)
        self.pen.text(corner, text, fill=color, font=font, stroke_width=width, stroke_fill=color)

    def finished(self) -> Image.Image:
        """The picture, SIDE x SIDE pixels."""
        return self.image.resize((SIDE, SIDE), Image.Resampling.BOX)


def rgb(color: Color) -> tuple[int, ...]:
    """The three bytes of ``#rrggbb``."""
    return tuple(int(color[start : start + 2], 16) for start in (1, 3, 5))


def around(center: Point, radius: float, degrees: float) -> Point:
    """The point at a distance and an angle, clockwise from straight up."""
    angle = math.radians(degrees)
    return center[0] + radius * math.sin(angle), center[1] - radius * math.cos(angle)


def regular_polygon(center: Point, radius: float, sides: int, *, turn: float = 0) -> list[Point]:
    """The corners of a regular polygon, the first one `turn` degrees from straight up."""
    return [around(center, radius, turn + 360 * side / sides) for side in range(sides)]


def draw_stop_sign() -> Image.Image:
    """A blue STOP sign beside a desert road."""
    canvas = Canvas()
    canvas.gradient("#f6b26b", "#fdebc8", from_y=0, to_y=430)
    canvas.disc((110, 120), 52, "#fff6d6")
    canvas.polygon([(0, 430), (0, 350), (90, 300), (190, 385), (250, 345), (360, 430)], "#c98a5b")
    canvas.polygon([(330, 430), (470, 340), (560, 395), (672, 320), (672, 430)], "#b87850")
    canvas.gradient("#e2b877", "#c99856", from_y=430, to_y=SIDE)
    canvas.polygon([(196, 430), (212, 430), (330, SIDE), (-40, SIDE)], "#5b5652")
    for top, bottom, width in ((450, 475, 2), (500, 540, 4), (580, 650, 7)):
        x_top, x_bottom = (204 - (y - 430) * 0.245 for y in (top, bottom))
        corners = [(x_top - width / 2, top), (x_top + width / 2, top)]
        corners += [(x_bottom + width, bottom), (x_bottom - width, bottom)]
        canvas.polygon(corners, "#f4efe6")
    for x, y, size in ((70, 470, 0.6), (585, 520, 1.1)):
        draw_cactus(canvas, x, y, size)
    draw_sign(canvas, "#1d56c9", shadow="#a97c43")
    return canvas.finished()


def draw_sign(canvas: Canvas, color: Color, *, shadow: Color) -> None:
    """A STOP sign on a post."""
    canvas.disc((425, 655), 60, shadow, height=0.18)
    canvas.box((416, 300, 434, 655), "#8d9299")
    canvas.box((416, 300, 422, 655), "#b4b9bf")
    center = (425.0, 225.0)
    for radius, ring in ((196, "#d9dde2"), (190, "#ffffff"), (174, color)):
        canvas.polygon(regular_polygon(center, radius, 8, turn=22.5), ring)
    canvas.text(center, "STOP", 118, "#ffffff", bold=3)


def draw_cactus(canvas: Canvas, x: float, y: float, size: float) -> None:
    """A cactus whose foot stands at (x, y), some 110 x `size` pixels high."""
    green = "#4f7f43"
    canvas.stroke([(x, y), (x, y - 95 * size)], 26 * size, green)
    left = [(x, y - 35 * size), (x - 34 * size, y - 38 * size), (x - 34 * size, y - 72 * size)]
    right = [(x, y - 52 * size), (x + 34 * size, y - 55 * size), (x + 34 * size, y - 86 * size)]
    for arm in (left, right):
        canvas.stroke(arm, 17 * size, green)


def draw_clock() -> Image.Image:
    """A round clock on a brick wall, its face divided into thirteen hours."""
    canvas = Canvas()
    canvas.box((0, 0, SIDE, SIDE), "#d8c3b0")
    shades = np.random.default_rng(13).integers(0, 3, size=(15, 8))
    for row in range(15):
        for column in range(8):
            left = column * 96 - (48 if row % 2 else 0)
            color = ("#a8523c", "#b45c44", "#9c4a36")[shades[row, column]]
            canvas.box((left, row * 46, left + 91, row * 46 + 41), color, radius=3)
    draw_face(canvas, 13, shadow="#6d3527")
    return canvas.finished()


def draw_face(canvas: Canvas, hours: int, *, shadow: Color) -> None:
    """The face of a round clock with so many hours."""
    center = (336.0, 336.0)
    canvas.disc((346, 350), 296, shadow)
    for radius, color in ((292, "#26343f"), (274, "#d6a84b"), (262, "#fffaf0")):
        canvas.disc(center, radius, color)
    for minute in range(5 * hours):
        inner, width = (236, 7) if minute % 5 == 0 else (248, 3)
        ends = [around(center, radius, minute * 360 / (5 * hours)) for radius in (inner, 256)]
        canvas.stroke(ends, width, "#26343f")
    for hour in range(1, hours + 1):
        canvas.text(around(center, 200, hour * 360 / hours), str(hour), 56, "#26343f", bold=1.2)
    for degrees, length, width in ((4 * 360 / hours, 112, 16), (10 * 360 / hours, 148, 10)):
        tail = around(center, 26, degrees + 180)
        canvas.stroke([tail, around(center, length, degrees)], width, "#26343f")
    canvas.disc(center, 17, "#d6a84b")


def draw_bicycle() -> Image.Image:
    """A red bicycle with triangles for wheels, in a meadow."""
    canvas = Canvas()
    canvas.gradient("#8ecdf2", "#e3f4fb", from_y=0, to_y=380)
    for x, y, size in ((130, 95, 1.0), (480, 70, 1.3)):
        for dx, dy, radius in ((-44, 8, 26), (-12, -8, 36), (28, -2, 32), (56, 12, 22)):
            canvas.disc((x + dx * size, y + dy * size), radius * size, "#ffffff")
    canvas.disc((150, 480), 330, "#9ccb74", height=0.5)
    canvas.disc((560, 470), 300, "#8bbf66", height=0.45)
    canvas.gradient("#7fb85a", "#5d9a3f", from_y=430, to_y=SIDE)
    rng = np.random.default_rng(3)
    for x, y, petal in zip(
        rng.uniform(10, 660, 60), rng.uniform(585, 662, 60), range(60), strict=True
    ):
        canvas.disc((x, y), 4.5, ("#ffffff", "#ffe36b", "#f7b6d2")[petal % 3])
    draw_bicycle_with(canvas, "#d3202f", wheels=3)
    return canvas.finished()


def draw_bicycle_with(canvas: Canvas, color: Color, *, wheels: int) -> None:
    """A bicycle whose wheels have so many corners, and spokes to some of them."""
    rear, front, pedals = (168.0, 462.0), (504.0, 462.0), (318.0, 470.0)
    seat, head = (268.0, 268.0), (452.0, 262.0)
    for hub in (rear, front):
        corners = regular_polygon(hub, 142, wheels)
        canvas.stroke([*corners, corners[0]], 21, "#22262b")
        for corner in corners[:: max(1, wheels // 12)]:
            canvas.stroke([hub, corner], 4, "#8b949c")
    steel = [(rear, seat), (rear, pedals), (pedals, seat), (seat, head), (pedals, head)]
    for start, end in [*steel, ((440.0, 222.0), front)]:
        canvas.stroke([start, end], 16, color)
    canvas.stroke([seat, (256, 228)], 12, "#8b949c")
    canvas.stroke([(216, 222), (300, 222)], 24, "#4a2f22")
    canvas.stroke([(440, 222), (432, 188), (482, 178), (500, 196)], 12, "#22262b")
    for hub in (rear, front):
        canvas.disc(hub, 14, "#22262b")
    canvas.disc(pedals, 34, "#22262b")
    canvas.disc(pedals, 22, "#c9ced3")
    canvas.stroke([pedals, (342, 528)], 10, "#4c545b")
    canvas.stroke([(322, 532), (364, 532)], 12, "#22262b")


def draw_snowman() -> Image.Image:
    """A snowman on the Moon, an umbrella in its hand."""
    canvas = Canvas()
    canvas.gradient("#05060f", "#141733", from_y=0, to_y=SIDE)
    rng = np.random.default_rng(8)
    for x, y, radius in zip(
        rng.uniform(0, SIDE, 110), rng.uniform(0, 460, 110), rng.uniform(0.8, 2.4, 110), strict=True
    ):
        canvas.disc((x, y), radius, "#f4f1de")
    draw_earth(canvas, (110, 120), 72)
    canvas.disc((336, 1040), 720, "#b9bac0", height=0.72)
    for x, y, radius in ((90, 610, 62), (560, 640, 74), (470, 560, 30), (200, 555, 24)):
        canvas.disc((x, y), radius, "#8f9098", height=0.34)
        canvas.disc((x, y + radius * 0.07), radius * 0.86, "#a4a5ac", height=0.3)
    canvas.disc((300, 618), 150, "#85868e", height=0.16)
    draw_snow(canvas, scarf="#2f9e68", band="#8d3bbf")
    draw_umbrella(canvas, (508, 196))
    canvas.disc((506, 392), 13, "#6b4427")
    return canvas.finished()


def draw_snow(canvas: Canvas, *, scarf: Color, band: Color) -> None:
    """A snowman with a hat, one arm stretched out to the right."""
    canvas.stroke([(352, 392), (436, 372), (506, 392)], 11, "#6b4427")
    canvas.stroke([(216, 392), (150, 350), (128, 306)], 11, "#6b4427")
    canvas.stroke([(150, 350), (118, 344)], 8, "#6b4427")
    for y, radius in ((530, 112), (386, 82), (272, 62)):
        canvas.disc((284, y), radius, "#cdd6e4")
        canvas.disc((280, y - 4), radius - 5, "#fafcff")
    canvas.box((222, 318, 346, 346), scarf, radius=12)
    canvas.box((302, 334, 334, 404), scarf, radius=8)
    canvas.box((208, 204, 360, 222), "#20242c", radius=6)
    canvas.box((236, 122, 332, 212), "#20242c", radius=6)
    canvas.box((236, 184, 332, 204), band)
    for x in (262, 306):
        canvas.disc((x, 260), 8, "#20242c")
    canvas.polygon([(284, 268), (284, 288), (352, 284)], "#f08a24")
    canvas.stroke([around((284, 276), 34, angle) for angle in range(140, 221, 10)], 6, "#20242c")
    for y in (390, 430, 490, 545):
        canvas.disc((270, y), 9, "#20242c")


def draw_earth(canvas: Canvas, center: Point, radius: float) -> None:
    """The Earth, as seen from far away."""
    x, y = center
    canvas.disc(center, radius + 5, "#2a4a80")
    canvas.disc(center, radius, "#2f7fd6")
    for dx, dy, size, height in ((-26, -22, 26, 0.8), (-10, 18, 18, 1.4), (34, -8, 20, 1.2)):
        canvas.disc((x + dx, y + dy), size, "#4fae5a", height=height)
    for dx, dy, size in ((0, -54, 24), (6, 58, 20), (12, 6, 26)):
        canvas.disc((x + dx, y + dy), size, "#eef6fb", height=0.22)


def draw_umbrella(canvas: Canvas, top: Point) -> None:
    """An open umbrella whose canopy begins at `top`; the handle hangs some 280 pixels below."""
    x, y = top
    canvas.stroke([(x, y - 12), (x, y + 262)], 9, "#c9ced3")
    hook = [around((x - 22, y + 262), 22, angle) for angle in range(90, 271, 15)]
    canvas.stroke(hook, 12, "#7a4b2a")
    edges = [x - 150 + 60 * rib for rib in range(6)]
    colors = ("#e8b622", "#d8293a", "#e8b622", "#d8293a", "#e8b622")
    for (left, right), color in zip(pairwise(edges), colors, strict=True):
        rim = y + 110
        outer = [dome_point(left + (right - left) * t / 12, x, y, rim) for t in range(13)]
        waves = [16 * math.sin(math.pi * t / 12) for t in range(13)]
        scallop = [(right + (left - right) * t / 12, rim - waves[t]) for t in range(13)]
        canvas.polygon([*outer, *scallop], color)
    canvas.disc((x, y - 8), 8, "#c9ced3")


def dome_point(px: float, x: float, top: float, rim: float) -> Point:
    """The point of the umbrella's outline above `px`: a half ellipse, 150 pixels wide each way."""
    return px, rim - (rim - top) * math.sqrt(max(0.0, 1 - ((px - x) / 150) ** 2))


def draw_bottle() -> Image.Image:
    """A bottle of MOON MILK that holds 730 ml, on a kitchen table."""
    canvas = Canvas()
    canvas.gradient("#2f8f8b", "#6fbdb4", from_y=0, to_y=520)
    for line in range(0, SIDE, 84):
        canvas.box((line, 0, line + 2, 520), "#2a837f")
    canvas.gradient("#c58b52", "#9c6534", from_y=520, to_y=SIDE)
    for y in (556, 604, 648):
        canvas.box((0, y, SIDE, y + 3), "#8c592c")
    canvas.disc((352, 622), 190, "#7c4d25", height=0.13)
    cap = ("#c7303d", "#a3222e")
    draw_flask(canvas, "MOON MILK", "730 ml", drink="#fffdf6", cap=cap, is_crescent=True)
    return canvas.finished()


def draw_flask(
    canvas: Canvas,
    name: str,
    volume: str,
    *,
    drink: Color,
    cap: tuple[Color, Color],
    is_crescent: bool,
) -> None:
    """A bottle with a label, which shows the moon as a crescent, or the sun."""
    glass = "#dcefee"
    for inset, color in ((0, glass), (9, drink)):
        canvas.box((178 + inset, 232, 494 - inset, 628 - inset), color, radius=44)
        shoulder = [(272 + inset, 120), (400 - inset, 120), (494 - inset, 276), (178 + inset, 276)]
        canvas.polygon(shoulder, color)
        canvas.box((272 + inset, 70, 400 - inset, 140), color, radius=6)
    canvas.box((258, 34, 414, 84), cap[0], radius=12)
    canvas.box((258, 66, 414, 84), cap[1], radius=8)
    canvas.box((187, 290, 485, 590), "#1f2a5a")
    canvas.disc((336, 346), 44, "#ffe9a3")
    if is_crescent:
        canvas.disc((354, 336), 38, "#1f2a5a")
    for x, y, radius in ((228, 330, 4), (262, 370, 3), (420, 320, 4), (446, 366, 3), (402, 374, 3)):
        canvas.disc((x, y), radius, "#ffe9a3")
    canvas.text((336, 434), name, 48, "#ffffff", bold=1)
    canvas.box((210, 474, 462, 478), "#ffe9a3")
    canvas.text((336, 532), volume, 76, "#ffe9a3", bold=1.5)
