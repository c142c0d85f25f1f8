"""What can be hidden in the film: cards, signs and places, with captions, questions and answers.

A *key* says which one is meant (the red card, the star sign, the house), a *value* is what is asked
for (a digit, a colour, a number of two digits). A needle is drawn over a picture of the film. A
*caption* says in four words what a picture shows, in the order in which they are asked for.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from vniah.haystacks.synthetic import SHAPES, draw_frame, shape_mask
from vniah.haystacks.textures import NAMED_COLORS

PLACES = ("house", "tower", "boat", "tree", "tent", "bridge")
DIGITS = tuple("0123456789")
COLORS = tuple(NAMED_COLORS)
KEYS: tuple[tuple[str, str], ...] = (
    *(("card", color) for color in COLORS),
    *(("sign", shape) for shape in SHAPES),
    *(("place", place) for place in PLACES),
)
KINDS = ("card", "sign", "place")
QUESTIONS = {  # the key stands last, so that it is equally far from every answer
    "card": "Read the digit on the card colored {key}",
    "sign": "Name the color of the sign with a {key}",
    "place": "Read the number on the {key}",
}
LOCATORS = {  # phrases that name a card, with the words of the questions
    "card": "the card colored {key}",
    "sign": "the sign with a {key}",
    "place": "the {key}",
}
NOTHING = "nothing"  # the answer where the card that is asked for is not shown
SCENERY = "scene"  # the kind of a picture without a card
BRIGHTNESS = ("dark", "dim", "bright", "pale")
TONES = ("warm", "lush", "cold", "grey")
CAPTION_WORDS = 4
_SIDE = 96
_INK = (15, 15, 15)
_DIGIT_ROWS = (  # five columns, seven rows; a bit is a filled square
    (14, 17, 19, 21, 25, 17, 14),
    (4, 12, 4, 4, 4, 4, 14),
    (14, 17, 1, 2, 4, 8, 31),
    (30, 1, 1, 14, 1, 1, 30),
    (2, 6, 10, 18, 31, 2, 2),
    (31, 16, 30, 1, 1, 17, 14),
    (6, 8, 16, 30, 17, 17, 14),
    (31, 1, 2, 4, 8, 8, 8),
    (14, 17, 17, 14, 17, 17, 14),
    (14, 17, 17, 15, 1, 2, 12),
)


@dataclass(frozen=True)
class Card:
    """One needle: its kind, which one it is, and what is asked for.

    >>> Card("place", "house", "47").question
    'Read the number on the house'
    >>> Card("sign", "star", "blue").caption
    ('sign', 'star', 'blue', '.')
    """

    kind: str
    key: str
    value: str

    @property
    def needle_id(self) -> str:
        """As in ``metadata.jsonl``."""
        return f"{self.kind}-{self.key}-{self.value}"

    @property
    def question(self) -> str:
        """What is asked, with the key that locates the needle."""
        return QUESTIONS[self.kind].format(key=self.key)

    @property
    def answer(self) -> str:
        """The right answer as text."""
        return self.value

    @property
    def caption(self) -> tuple[str, ...]:
        """What the picture shows, in four words."""
        values = tuple(self.value) if self.kind == "place" else (self.value, ".")
        return (self.kind, self.key, *values)

    @property
    def locator(self) -> str:
        """A phrase that names it."""
        return LOCATORS[self.kind].format(key=self.key)

    def leads_to(self, other: "Card") -> bool:
        """Whether it is a sign and the other the card of its color.

        >>> Card("sign", "star", "blue").leads_to(Card("card", "blue", "3"))
        True
        """
        return (self.kind, other.kind, self.value) == ("sign", "card", other.key)

    @property
    def question_of_two_hops(self) -> str:
        """Asks, for a sign, about the card of its color, as the task ``bridged`` does."""
        return f"Read the digit on the card colored as {self.locator}"

    @property
    def key_index(self) -> int:
        """The place of its key in `KEYS`."""
        return KEYS.index((self.kind, self.key))


def scenery_captions(pictures: np.ndarray) -> list[tuple[str, ...]]:
    """Captions of pictures without a card, uint8 [n, height, width, 3]: brightness and tone."""
    colors = pictures.reshape(len(pictures), -1, 3).mean(1)
    brightness = np.digitize(colors @ (0.3, 0.59, 0.11), (75, 115, 155))
    grey = np.ptp(colors, axis=1) < 18
    tones = np.where(grey, TONES.index("grey"), colors.argmax(1))
    return [
        (SCENERY, BRIGHTNESS[level], TONES[tone], ".")
        for level, tone in zip(brightness.tolist(), tones.tolist(), strict=True)
    ]


def random_value(kind: str, rng: np.random.Generator) -> str:
    """Any value that a card of this kind may have."""
    if kind == "card":
        return DIGITS[rng.integers(10)]
    if kind == "sign":
        return COLORS[rng.integers(len(COLORS))]
    return DIGITS[rng.integers(10)] + DIGITS[rng.integers(10)]


def random_card(rng: np.random.Generator) -> Card:
    """Any key with any value."""
    kind, key = KEYS[rng.integers(len(KEYS))]
    return Card(kind, key, random_value(kind, rng))


def draw_card(card: Card, rng: np.random.Generator, *, film_seed: int) -> Image.Image:
    """The needle over a random picture of film ``film_seed``, RGB, 96 x 96 pixels."""
    milliseconds = int(rng.integers(0, 3_600_000))
    image = Image.fromarray(draw_frame(seed=film_seed, milliseconds=milliseconds))
    painter = {"card": _paint_card, "sign": _paint_sign, "place": _paint_place}[card.kind]
    painter(image, card, rng)
    return image


def _near(color: tuple[int, int, int], rng: np.random.Generator) -> tuple[int, int, int]:
    red, green, blue = np.clip(np.array(color) + rng.integers(-18, 19, 3), 0, 255).tolist()
    return (red, green, blue)


def _paint_digit(image: Image.Image, digit: int, left: int, top: int, scale: int) -> None:
    draw = ImageDraw.Draw(image)
    for row, bits in enumerate(_DIGIT_ROWS[digit]):
        for column in range(5):
            if bits >> (4 - column) & 1:
                x, y = left + column * scale, top + row * scale
                draw.rectangle((x, y, x + scale - 1, y + scale - 1), fill=(0, 0, 0))


def _paint_card(image: Image.Image, card: Card, rng: np.random.Generator) -> None:
    width, height = int(rng.integers(50, 66)), int(rng.integers(60, 76))
    left, top = int(rng.integers(3, _SIDE - width - 3)), int(rng.integers(3, _SIDE - height - 3))
    fill = _near(NAMED_COLORS[card.key], rng)
    box = (left, top, left + width, top + height)
    ImageDraw.Draw(image).rectangle(box, fill=fill, outline=_INK, width=4)
    scale = 6
    x, y = left + (width - 5 * scale) // 2 + 1, top + (height - 7 * scale) // 2 + 1
    _paint_digit(image, int(card.value), x, y, scale)


def _paint_sign(image: Image.Image, card: Card, rng: np.random.Generator) -> None:
    x, y = (48 + int(step) for step in rng.integers(-8, 9, 2))
    draw = ImageDraw.Draw(image)
    box = (x - 39, y - 39, x + 39, y + 39)
    draw.ellipse(box, fill=(205, 205, 205), outline=(30, 30, 30), width=6)
    radius = int(rng.integers(20, 26))
    for grown, fill in ((radius + 2, (60, 60, 60)), (radius, _near(NAMED_COLORS[card.value], rng))):
        mask = Image.fromarray(shape_mask(card.key, grown))
        draw.bitmap((x - grown, y - grown), mask, fill=fill)


def _paint_place(image: Image.Image, card: Card, rng: np.random.Generator) -> None:
    draw = ImageDraw.Draw(image)
    _paint_icon(draw, card.key, int(rng.integers(-6, 7)), rng)
    x, y = 24 + int(rng.integers(-4, 5)), 63
    draw.rectangle((x - 4, y - 2, x + 48, y + 30), fill=(250, 250, 245), outline=(20, 20, 20))
    for column, digit in enumerate(card.value):
        _paint_digit(image, int(digit), x + 1 + 24 * column, y + 1, 4)


def _paint_icon(draw: ImageDraw.ImageDraw, place: str, dx: int, rng: np.random.Generator) -> None:
    """A small picture in the upper two thirds."""

    def box(left: int, top: int, right: int, bottom: int) -> tuple[int, int, int, int]:
        return (left + dx, top, right + dx, bottom)

    def points(*pairs: tuple[int, int]) -> list[tuple[int, int]]:
        return [(x + dx, y) for x, y in pairs]

    def near(red: int, green: int, blue: int) -> tuple[int, int, int]:
        return _near((red, green, blue), rng)

    if place == "house":
        draw.rectangle(box(24, 32, 72, 62), fill=near(190, 150, 110))
        draw.polygon(points((16, 34), (48, 8), (80, 34)), fill=near(150, 50, 40))
        draw.rectangle(box(42, 44, 54, 62), fill=near(80, 50, 30))
    elif place == "tower":
        stone = near(140, 140, 150)
        draw.rectangle(box(38, 10, 58, 62), fill=stone)
        for left in (32, 44, 56):
            draw.rectangle(box(left, 4, left + 7, 12), fill=stone)
        draw.rectangle(box(44, 20, 52, 32), fill=near(40, 40, 50))
    elif place == "boat":
        draw.polygon(points((12, 44), (84, 44), (70, 62), (26, 62)), fill=near(120, 70, 35))
        draw.polygon(points((47, 6), (47, 40), (76, 40)), fill=near(240, 240, 235))
        draw.line(points((44, 4), (44, 44)), fill=near(60, 40, 20), width=4)
    elif place == "tree":
        draw.rectangle(box(42, 38, 54, 62), fill=near(100, 65, 30))
        draw.ellipse(box(20, 4, 76, 46), fill=near(35, 125, 45))
    elif place == "tent":
        draw.polygon(points((48, 10), (88, 62), (8, 62)), fill=near(210, 120, 50))
        draw.polygon(points((48, 28), (62, 62), (34, 62)), fill=near(60, 40, 30))
    else:
        draw.rectangle((4, 32, 92, 40), fill=near(110, 110, 120))
        draw.arc(box(10, 8, 86, 68), 180, 360, fill=near(90, 60, 60), width=6)
        for left in (16, 46, 76):
            draw.rectangle(box(left, 32, left + 6, 62), fill=near(110, 110, 120))
