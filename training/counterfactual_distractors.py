"""The distractors of the needle set ``counterfactual``: each shows what one would guess.

A red STOP sign, a clock of twelve hours, round wheels, a broom, 500 ml: the same things as on the
needles, at places that the needles' questions do not mean.
"""

import numpy as np
from PIL import Image

from training.counterfactual_scenes import (
    SIDE,
    Canvas,
    draw_bicycle_with,
    draw_face,
    draw_flask,
    draw_sign,
    draw_snow,
)


def draw_street_sign() -> Image.Image:
    """A red STOP sign in a street of houses."""
    canvas = Canvas()
    canvas.gradient("#a9c7e8", "#e6eff6", from_y=0, to_y=430)
    for left, top, color in (
        (-20, 150, "#b98e77"),
        (120, 70, "#8d9aa8"),
        (250, 190, "#c9b08c"),
        (400, 110, "#98806f"),
        (560, 60, "#a3adb8"),
    ):
        canvas.box((left, top, left + 145, 440), color)
        for y in range(top + 24, 410, 52):
            for x in range(left + 20, left + 120, 42):
                canvas.box((x, y, x + 22, y + 30), "#33424f")
    canvas.gradient("#8a8d91", "#6f7276", from_y=430, to_y=SIDE)
    canvas.gradient("#c6c3bc", "#b4b1aa", from_y=430, to_y=470)
    for left in range(20, SIDE, 130):
        canvas.box((left, 560, left + 70, 572), "#f4efe6")
    draw_sign(canvas, "#c8202c", shadow="#5f6266")
    return canvas.finished()


def draw_plain_clock() -> Image.Image:
    """A round clock of twelve hours on a green wall."""
    canvas = Canvas()
    canvas.gradient("#8fb59a", "#7aa487", from_y=0, to_y=SIDE)
    for x in range(0, SIDE, 56):
        canvas.box((x, 0, x + 26, SIDE), "#86ad92")
    draw_face(canvas, 12, shadow="#5b7f68")
    return canvas.finished()


def draw_street_bicycle() -> Image.Image:
    """A blue bicycle with round wheels in a street."""
    canvas = Canvas()
    canvas.box((0, 0, SIDE, 430), "#d9c6a5")
    for left in range(30, SIDE, 210):
        canvas.box((left, 60, left + 120, 250), "#ffffff")
        canvas.box((left + 10, 70, left + 110, 240), "#7f9db3")
        canvas.box((left + 56, 70, left + 64, 240), "#ffffff")
    canvas.gradient("#b9b7b2", "#a5a39e", from_y=430, to_y=540)
    canvas.gradient("#75777b", "#5f6165", from_y=540, to_y=SIDE)
    canvas.box((0, 540, SIDE, 552), "#d5d3cd")
    draw_bicycle_with(canvas, "#2560c4", wheels=96)
    return canvas.finished()


def draw_forest_snowman() -> Image.Image:
    """A snowman in a winter forest, a broom in its hand."""
    canvas = Canvas()
    canvas.gradient("#b7d3ea", "#eef5fa", from_y=0, to_y=440)
    rng = np.random.default_rng(5)
    for x in (30, 128, 470, 560, 640):
        height = float(rng.uniform(250, 340))
        canvas.box((x - 9, 380, x + 9, 450), "#5d4330")
        for step in range(3):
            top, half = 430 - height + step * height * 0.24, 44 + 16 * step
            corners = [(x, top), (x - half, top + height * 0.42), (x + half, top + height * 0.42)]
            canvas.polygon(corners, ("#2f6a4b", "#2b6145", "#27593f")[step])
    canvas.gradient("#f7fafc", "#dbe6ef", from_y=440, to_y=SIDE)
    canvas.disc((300, 632), 150, "#c3d2df", height=0.16)
    draw_snow(canvas, scarf="#c0392b", band="#e0a526")
    canvas.stroke([(506, 190), (506, 500)], 11, "#8a5a2f")
    canvas.polygon([(482, 492), (530, 492), (556, 610), (456, 610)], "#d9a441")
    for x in range(466, 552, 14):
        canvas.stroke([(506 + (x - 506) * 0.4, 506), (x, 604)], 3, "#a87a2a")
    canvas.box((480, 488, 532, 504), "#8c3b2e")
    canvas.disc((506, 392), 13, "#6b4427")
    return canvas.finished()


def draw_juice_bottle() -> Image.Image:
    """A bottle of SUN JUICE that holds 500 ml, on a picnic cloth."""
    canvas = Canvas()
    canvas.gradient("#f3d9a8", "#f8ecd2", from_y=0, to_y=520)
    canvas.box((0, 520, SIDE, SIDE), "#ffffff")
    for row, y in enumerate(range(520, SIDE, 38)):
        for x in range(-38 * (row % 2), SIDE, 76):
            canvas.box((x, y, x + 38, y + 38), "#d9534a")
    canvas.disc((352, 622), 190, "#b9837c", height=0.13)
    cap = ("#2f8a4e", "#23703d")
    draw_flask(canvas, "SUN JUICE", "500 ml", drink="#f29b30", cap=cap, is_crescent=False)
    return canvas.finished()
