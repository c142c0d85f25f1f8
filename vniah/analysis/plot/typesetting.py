"""Text of a picture: wrapped by its measured width, in fonts that have its characters."""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache

import matplotlib
from matplotlib.font_manager import FontProperties, fontManager, get_font, weight_dict
from matplotlib.text import Text
from matplotlib.textpath import text_to_path

from vniah.errors import counted, escape_at, printable

SANS = "DejaVu Sans"
MONO = "DejaVu Sans Mono"
"""Both come with matplotlib. They lack, among others, the characters of Chinese and Japanese."""

_LOG = logging.getLogger("vniah")
_MOST_SHOWN = 10  # characters in a message

ELLIPSIS = "\u2026"
"""Stands for what is left out of a name."""

NO_BREAK = "\u00a0"
"""A space at which no line is broken."""

_ESCAPED: ContextVar[set[str] | None] = ContextVar("escaped", default=None)  # by `writable`

_LAST_RESORT = "Last Resort"  # a font that has a box for every character
_USUAL = weight_dict["normal"]  # weight of letters that are not bold
_SURPLUS = 1.01  # by which a line may be wider than its words were measured
_MOST_FONTS = 500  # of the system, that are searched for characters
_NARROWEST = 0.2  # width of a letter, in sizes of its font
_BREAKS = "-_/.:,;+="  # a word that is too wide is broken behind one of these
_LEAST_HEAD = 4  # letters of such a word that stand behind others


@dataclass(frozen=True)
class Fonts:
    """Font families in which texts are written: DejaVu, and others for what it lacks.

    Attributes:
        families: further families of this system.
        missing: characters that no font has; they are written as escapes.
    """

    families: tuple[str, ...] = ()
    missing: frozenset[str] = field(default_factory=frozenset)

    @classmethod
    def covering(cls, texts: Iterable[str]) -> "Fonts":
        """The fonts of this system that the texts need beside DejaVu."""
        own = _characters(fontManager.findfont(SANS))
        lacking = {c for text in texts for c in text if c.isprintable()} - own
        families: list[str] = []
        for name, path in (_other_families() if lacking else {}).items():
            if found := lacking & _characters(path):
                families.append(name)
                lacking -= found
            if not lacking:
                break
        return cls(tuple(families), frozenset(lacking))

    def style(self, size: float, *, bold: bool = False, mono: bool = False) -> FontProperties:
        """A font of a size in points."""
        first = [MONO, SANS] if mono else [SANS]
        return FontProperties(
            family=[*first, *self.families], size=size, weight="bold" if bold else "normal"
        )

    def behind(self, artist: Text) -> list[str]:
        """The font families of an artist, then DejaVu, then the further families."""
        return list(dict.fromkeys((*artist.get_fontfamily(), SANS, *self.families)))

    def writable(self, text: str) -> str:
        r"""One line of text with everything that cannot be drawn as an escape: ``"\u7d05"``."""
        parts = text.expandtabs(4).split(NO_BREAK)
        line = NO_BREAK.join(map(printable, parts))
        if not (missing := self.missing.intersection(line)):
            return line
        if (escaped := _ESCAPED.get()) is not None:
            escaped |= missing
        return "".join(c.encode("unicode_escape").decode() if c in missing else c for c in line)

    def wrap(
        self,
        text: str,
        width: float,
        style: FontProperties,
        *,
        most: int = 40,
        elsewhere: str = ", which the command prints",
    ) -> list[str]:
        """The lines of a text, each at most ``width`` points wide.

        Args:
            text: with the line breaks that it has.
            width: in points.
            style: as `style` gives it.
            most: lines at most; the last then says how much is left out.
            elsewhere: where that can be read.
        """
        lines = [
            part
            for line in text.split("\n")
            for part in _wrapped(self.writable(line), width, style)
        ]
        if len(lines) <= most:
            return lines
        left_out = len(lines) - most + 1
        return [*lines[: most - 1], f"... {left_out:,} more lines{elsewhere}"]

    def cut(self, text: str, width: float, style: FontProperties) -> str:
        """One line of text, with three dots for its end where it is wider than ``width`` points."""
        line = self.writable(text)
        if len(line) <= _most_letters(width, style) and text_width(line, style) <= width:
            return line
        kept = _num_that_fit(line, width, style, end="...")
        return f"{line[: escape_at(line, kept)[0]]}..."

    def wrap_name(self, text: str, width: float, style: FontProperties, *, most: int) -> list[str]:
        """At most ``most`` lines of a name, which is cut in the middle where it has more.

        The ends of names are what tells them apart: a family at the beginning, a step at the end.
        """
        text = _without_middle(text, most * _most_letters(width, style))

        def lines(kept: int) -> list[str]:
            return list(_wrapped(self.writable(_without_middle(text, kept)), width, style))

        if len(whole := lines(len(text))) <= most:
            return whole
        low, high = 0, len(text) - 1  # characters that are kept
        while low < high:
            middle = (low + high + 1) // 2
            if len(lines(middle)) <= most:
                low = middle
            else:
                high = middle - 1
        return lines(low)[:most]


@contextmanager
def tell_of_missing() -> Iterator[None]:
    """Logs one line, at the end, if texts within have characters that no font of this system has.

    Pictures that are parts of another one leave it to that.
    """
    if _ESCAPED.get() is not None:
        yield
        return
    escaped: set[str] = set()
    token = _ESCAPED.set(escaped)
    try:
        yield
    finally:
        _ESCAPED.reset(token)
    if missing := sorted(escaped):
        shown = " ".join(missing[:_MOST_SHOWN]) + (" ..." if len(missing) > _MOST_SHOWN else "")
        _LOG.warning(
            f"no font of this system has {counted(len(missing), 'character')} of the picture "
            f"({shown}); they are drawn as escapes such as \\u4e2d"
        )


@lru_cache(maxsize=1 << 14)
def text_width(text: str, style: FontProperties) -> float:
    """The width of one line in points, as it is drawn within `own_settings`."""
    width, _, _ = text_to_path.get_text_width_height_descent(text, style, ismath=False)
    return _SURPLUS * float(width)


def _wrapped(line: str, width: float, style: FontProperties) -> Iterator[str]:
    """Greedily, between words; a word that is too wide is cut, and begins where there is room."""
    current, used = "", 0.0
    for word in _words(line):
        is_wide = len(word) > _most_letters(width, style)
        if current.strip() and (is_wide or used + text_width(word, style) > width):
            if NO_BREAK not in word and (is_wide or text_width(word.lstrip(), style) > width):
                fits = _num_that_fit(word, width - used, style)
                head = _break_before(word, fits, _BREAKS, least=_LEAST_HEAD)
                current, word = current + word[:head], word[head:]
            yield current.rstrip()
            current, used, word = "", 0.0, word.lstrip()
        while len(word) > _most_letters(width, style) or text_width(word, style) > width:
            fits = _num_that_fit(word, width, style)
            fits = (
                _break_before(word, fits, NO_BREAK)
                or _break_before(word, fits, _BREAKS, least=fits // 2)
                or escape_at(word, fits)[0]
                or fits
            )
            yield word[:fits].rstrip()
            word = word[fits:]
        current, used = current + word, used + text_width(word, style)
    yield current.rstrip()


def _break_before(word: str, place: int, breaks: str, *, least: int = 0) -> int:
    """The last place up to this one that is behind one of the breaks; 0 if there is none."""
    return max((k + 1 for k in range(least, place) if word[k] in breaks), default=0)


def _without_middle(text: str, kept: int) -> str:
    """The first and the last characters, ``kept`` in all, and dots for others between them."""
    if len(text) <= kept:
        return text
    last = kept // 2
    before, (_, after) = escape_at(text, kept - last)[0], escape_at(text, len(text) - last)
    return f"{text[:before]}{ELLIPSIS}{text[after:]}"


def _words(line: str) -> list[str]:
    """Words, each with the space before it: their sum is the line."""
    words: list[str] = []
    for character in line:
        begins = character == " " and words and not words[-1].isspace()
        if begins or not words:
            words.append(character)
        else:
            words[-1] += character
    return words


def _most_letters(width: float, style: FontProperties) -> int:
    """More letters than fit into a width: what is longer need not be measured."""
    return int(width / (_NARROWEST * style.get_size_in_points())) + 1


def _num_that_fit(word: str, width: float, style: FontProperties, *, end: str = "") -> int:
    """How many characters of a word fit, with ``end`` behind them; one at least."""
    low, high = 1, min(len(word), _most_letters(width, style))
    while low < high:
        middle = (low + high + 1) // 2
        if text_width(f"{word[:middle]}{end}", style) <= width:
            low = middle
        else:
            high = middle - 1
    return low


@lru_cache(maxsize=_MOST_FONTS)
def _characters(path: str) -> frozenset[str]:
    """The characters that a file of a font has; none if it cannot be read."""
    try:
        return frozenset(map(chr, get_font(path).get_charmap()))
    except (OSError, ValueError, RuntimeError):
        return frozenset()


def _other_families() -> dict[str, str]:
    """The files of the upright fonts of this system, by the names of their families.

    Of each family it is the one that matplotlib takes for letters of the usual weight. Families
    that have only bolder, lighter or narrower ones come last.
    """
    found: dict[str, tuple[bool, int, str]] = {}
    for entry in fontManager.ttflist:
        if entry.style == "normal" and not entry.name.startswith(_LAST_RESORT):
            weight = entry.weight
            weight = weight_dict.get(weight, _USUAL) if isinstance(weight, str) else weight
            one = entry.stretch != "normal", abs(weight - _USUAL), entry.fname
            found[entry.name] = min(one, found.get(entry.name, one))
    families = sorted(found, key=lambda name: (*found[name][:2], name))[:_MOST_FONTS]
    return {name: found[name][2] for name in families}


@contextmanager
def own_settings() -> Iterator[None]:
    """The defaults of matplotlib, whatever the user or the folder chose: one run, one picture.

    Pictures are drawn and saved within. Letters are not moved to whole pixels, which would make
    lines wider than they are measured.
    """
    logger = logging.getLogger("matplotlib.font_manager")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it warns of every family that has no bold letters
    try:
        with matplotlib.rc_context():
            matplotlib.rcdefaults()
            matplotlib.rcParams.update(
                {
                    "svg.hashsalt": "vniah",
                    "pdf.fonttype": 42,
                    "text.hinting": "none",
                    "hatch.linewidth": 0.6,
                }
            )
            yield
    finally:
        logger.setLevel(level)
