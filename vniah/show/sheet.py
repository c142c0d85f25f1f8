"""Draws a sample: its frames, its texts and its tokens. Imported only when something is drawn."""

from collections.abc import Mapping, Sequence
from colorsys import hls_to_rgb
from dataclasses import dataclass, field

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Rectangle
from PIL import Image

from vniah.analysis.palettes import COLORS
from vniah.analysis.plot.style import FAINT, INK
from vniah.analysis.plot.typesetting import Fonts, text_width
from vniah.protocol import HAYSTACK, Frames, blended_source, needle_of
from vniah.show.facts import Facts
from vniah.show.frames import Picture
from vniah.show.storyboard import Gap, Storyboard, Tile

# In inches.
_WIDTH = 8.3
_MARGIN = 0.22
_INNER = _WIDTH - 2 * _MARGIN
_SPACE = 0.09  # between tiles
_TILE_HEIGHTS = (0.9, 1.2)  # of wide frames, and of others
_WIDEST = 1.85  # tile, of which four stand side by side
_LABEL_HEIGHT = 0.36  # below a tile
_GAP_WIDTH = 0.56
_ASPECTS = (0.5, 1.9)  # of a tile; a frame of another shape leaves a part of it empty
_BAR_HEIGHT = 0.11
_INDENT = 0.95  # of texts, which have their names before them

_POINTS = 72.0  # in an inch
_LEADING = 1.34  # height of a line, in sizes of its font
_MOST_PIXELS = 640  # of the longer side of a frame as it is drawn
_MOST_PROMPT_LINES = 28
_MOST_QUESTION_LINES = 16

_TITLE, _TEXT, _SMALL = 12.0, 9.0, 8.0  # sizes of fonts, in points
# Colours of further things that are shown; when they are used up, further hues are made.
_OTHERS = ("#D79A1E", "#4C78A8", "#8A5FA8", "#3E8E63", "#8C5A3C", "#1B9AAA", "#5B5F97", "#7A8B1F")
_GOLDEN = 0.618034  # steps of this part of a circle come near no earlier one
_RIGHT, _WRONG = "#2F7D53", "#C4304F"
_PAPER, _LINE = "#F5F5F2", "#D9D9D4"


def draw_sheet(
    facts: Facts,
    story: Storyboard,
    pictures: Mapping[Tile, Picture],
    seconds: Mapping[Tile, float] | None = None,
) -> tuple[Figure, tuple[Axes, ...]]:
    """A figure of a sample, on a canvas of its own, and the axes of its frames in their order.

    Args:
        facts: what is known of the sample.
        story: the frames that are drawn.
        pictures: of each of them.
        seconds: as `vniah.show.frames.Shown.seconds`; by default none are known.
    """
    seconds = seconds or {}
    sheet = _Sheet(Fonts.covering([facts.text]))
    _head(sheet, facts)
    colors = _colors(facts)
    if facts.sample.shown:
        _bar(sheet, facts, story, colors, list(seconds.values()))
        _tiles(sheet, story, pictures, colors, facts, seconds)
        sheet.line(facts.caption, size=_SMALL, color=FAINT, most=3)
    else:
        sheet.space(0.06)
        sheet.line(facts.shows_no_frames, color=FAINT)
    _texts(sheet, facts)
    if sheet.fonts.missing:
        sheet.space(0.05)
        missing = "Characters that no font of this system has are written as escapes."
        sheet.line(missing, size=_SMALL, color=FAINT)
    return sheet.finish()


@dataclass
class _Sheet:
    """A page that grows downwards; what is put on it is drawn when its height is known.

    Attributes:
        fonts: of its texts.
        height: what is used of it by now, in inches from its upper edge.
    """

    fonts: Fonts
    height: float = _MARGIN
    _texts: "list[_Text]" = field(default_factory=list)
    _boxes: "list[_Box]" = field(default_factory=list)
    _frames: "list[_Frame]" = field(default_factory=list)

    def space(self, inches: float) -> None:
        """Leaves a part empty."""
        self.height += inches

    def line(
        self,
        text: str,
        *,
        size: float = _TEXT,
        color: str = INK,
        bold: bool = False,
        mono: bool = False,
        indent: float = 0.0,
        most: int = 40,
    ) -> None:
        """A text in as many lines as it needs, from the left margin plus ``indent`` on."""
        style = self.fonts.style(size, bold=bold, mono=mono)
        width = (_INNER - indent) * _POINTS
        for part in self.fonts.wrap(text, width, style, most=most):
            self.put(part, _MARGIN + indent, self.height, style, color)
            self.height += size * _LEADING / _POINTS

    def put(
        self, text: str, x: float, y: float, style: FontProperties, color: str, align: str = "left"
    ) -> None:
        """One line of text with its upper edge at ``y``; it takes no room on the page."""
        self._texts.append(_Text(text, x, y, style, color, align))

    def box(self, x: float, y: float, width: float, height: float, color: str) -> None:
        """A filled rectangle with its upper left corner at (x, y)."""
        self._boxes.append(_Box(x, y, width, height, color))

    def frame(
        self, picture: Picture, x: float, y: float, width: float, height: float, color: str | None
    ) -> None:
        """A picture, framed in a colour if one is given."""
        self._frames.append(_Frame(picture, x, y, width, height, color))

    def finish(self) -> tuple[Figure, tuple[Axes, ...]]:
        """The figure, and the axes of its frames."""
        height = self.height + _MARGIN
        figure = Figure(figsize=(_WIDTH, height), facecolor="white")
        FigureCanvasAgg(figure)
        for box in self._boxes:
            corner = (box.x / _WIDTH, 1 - (box.y + box.height) / height)
            figure.add_artist(
                Rectangle(
                    corner,
                    box.width / _WIDTH,
                    box.height / height,
                    facecolor=box.color,
                    edgecolor="none",
                    transform=figure.transFigure,
                )
            )
        for text in self._texts:
            figure.text(
                text.x / _WIDTH,
                1 - (text.y + text.style.get_size_in_points() / _POINTS) / height,
                text.text,
                fontproperties=text.style,
                color=text.color,
                horizontalalignment=text.align,
                verticalalignment="baseline",
                parse_math=False,
            )
        return figure, tuple(_add_frame(figure, frame, height) for frame in self._frames)


@dataclass(frozen=True)
class _Text:
    text: str
    x: float
    y: float
    style: FontProperties
    color: str
    align: str


@dataclass(frozen=True)
class _Box:
    x: float
    y: float
    width: float
    height: float
    color: str


@dataclass(frozen=True)
class _Frame:
    picture: Picture
    x: float
    y: float
    width: float
    height: float
    color: str | None


def _add_frame(figure: Figure, frame: _Frame, height: float) -> Axes:
    ax = figure.add_axes(
        (
            frame.x / _WIDTH,
            1 - (frame.y + frame.height) / height,
            frame.width / _WIDTH,
            frame.height / height,
        )
    )
    picture = Image.fromarray(frame.picture)
    if max(picture.size) > _MOST_PIXELS:
        picture.thumbnail((_MOST_PIXELS, _MOST_PIXELS))
    ax.imshow(np.asarray(picture))
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set(
        color=frame.color or _LINE, linewidth=0.6 if frame.color is None else 3.0, zorder=3
    )
    return ax


def _head(sheet: _Sheet, facts: Facts) -> None:
    sheet.line(facts.sample.sample_id, size=_TITLE, bold=True, most=4)
    sheet.space(0.02)
    sheet.line(facts.place, color=FAINT)
    if facts.fields:
        sheet.line(facts.fields, size=_SMALL, color=FAINT, most=4)
    if facts.inserted:
        sheet.line(facts.inserted, size=_SMALL, most=3)


def _colors(facts: Facts) -> dict[str | None, str]:
    """The colours of needles by their ids, all different; what is asked about has the first."""
    found = dict.fromkeys(needle_of(span.source) for span in facts.sample.shown)
    ids = [name for name in found if name is not None]
    ids.sort(key=lambda name: name not in facts.asked_ids)
    is_asked = bool(ids) and ids[0] in facts.asked_ids
    return {name: _color(number if is_asked else number + 1) for number, name in enumerate(ids)}


def _color(number: int) -> str:
    """The colour of this number, in hexadecimal digits; no two are alike."""
    known = (COLORS[0], *_OTHERS)
    if number < len(known):
        return known[number]
    step = number - len(known)
    hue = 0.05 + 0.85 * (step * _GOLDEN % 1)  # not the red of what is asked about
    return str(to_hex(hls_to_rgb(hue, (0.3, 0.42, 0.56)[step % 3], 0.6)))


def _bar(
    sheet: _Sheet,
    facts: Facts,
    story: Storyboard,
    colors: Mapping[str | None, str],
    seconds: Sequence[float],
) -> None:
    """The whole video as a bar: what is drawn of it is darker, what is inserted has its colour."""
    sheet.space(0.08)
    num_frames, top = facts.sample.num_shown, sheet.height
    scale = _INNER / num_frames
    sheet.box(_MARGIN, top, _INNER, _BAR_HEIGHT, "#E4E4DF")
    least = 0.012
    for tile in story:
        if isinstance(tile, Tile):
            width = max(scale, least)
            x = _MARGIN + min(tile.position * scale, _INNER - width)
            sheet.box(x, top, width, _BAR_HEIGHT, "#B4B4AE")
    sheet.height = top + _BAR_HEIGHT + 0.065
    style = sheet.fonts.style(_SMALL)
    begin, end = facts.numbered(0), facts.numbered(num_frames - 1)
    if seconds:
        begin, end = f"{seconds[0]:,.1f} s", f"{seconds[-1]:,.1f} s"
    sheet.put(begin, _MARGIN, sheet.height, style, FAINT)
    sheet.put(end, _WIDTH - _MARGIN, sheet.height, style, FAINT, "right")
    first = _MARGIN + _inches(begin, style)  # up to where there are labels
    last = _WIDTH - _MARGIN - _inches(end, style)
    position, least = 0, 0.035
    for span in Frames.of(facts.sample.shown).spans:
        if span.source != HAYSTACK:
            width, color = max(span.num_frames * scale, least), colors[needle_of(span.source)]
            x = _MARGIN + min(position * scale, _INNER - width)
            higher = 0.06 if needle_of(span.source) in facts.asked_ids else 0.02
            sheet.box(x, top - higher, width, _BAR_HEIGHT + 2 * higher, color)
            last_second = position + span.num_frames - 1
            of_clip = f"-{last_second:,}" if span.num_frames > 1 else ""
            label = facts.numbered(position, of_clip)
            half = _inches(label, style) / 2
            middle = x + width / 2
            if first + _SPACE <= middle - half and middle + half <= last - _SPACE:
                sheet.put(label, middle, sheet.height, style, color, "center")
                first = middle + half
        position += span.num_frames
    sheet.space(0.24)


def _inches(text: str, style: FontProperties) -> float:
    return text_width(text, style) / _POINTS


def _tiles(
    sheet: _Sheet,
    story: Storyboard,
    pictures: Mapping[Tile, Picture],
    colors: Mapping[str | None, str],
    facts: Facts,
    seconds: Mapping[Tile, float],
) -> None:
    """Frames and gaps from left to right, in as many rows as they need."""
    aspects = {tile: _aspect(picture) for tile, picture in pictures.items()}
    height = float(np.clip(_WIDEST / max(aspects.values()), *_TILE_HEIGHTS))
    row: list[tuple[Tile | Gap, float]] = []
    used = 0.0
    for item in story:
        width = _GAP_WIDTH if isinstance(item, Gap) else height * aspects[item]
        if row and used + width > _INNER + 1e-6:
            _row(sheet, row, height, pictures, colors, facts, seconds)
            row, used = [], 0.0
        row.append((item, width))
        used += width + _SPACE
    _row(sheet, row, height, pictures, colors, facts, seconds)


def _aspect(picture: Picture) -> float:
    """Width by height of a tile."""
    height, width, _ = picture.shape
    return float(np.clip(width / height, *_ASPECTS))


def _row(
    sheet: _Sheet,
    row: Sequence[tuple[Tile | Gap, float]],
    height: float,
    pictures: Mapping[Tile, Picture],
    colors: Mapping[str | None, str],
    facts: Facts,
    seconds: Mapping[Tile, float],
) -> None:
    x, top = _MARGIN, sheet.height
    for item, width in row:
        if isinstance(item, Gap):
            _gap(sheet, item, facts.unit, x + width / 2, top + height / 2)
        else:
            name = needle_of(item.source)
            color = colors.get(name)
            sheet.frame(pictures[item], x, top, width, height, color)
            words = tile_words(item, facts)
            if item in seconds:
                words = f"{seconds[item]:,.1f} s"
            _label(sheet, facts, item, words, x, top + height + 0.035, width, color)
        x += width + _SPACE
    sheet.space(height + _LABEL_HEIGHT + _SPACE)


def _gap(sheet: _Sheet, gap: Gap, unit: str, x: float, y: float) -> None:
    """What is left out, in words around the point (x, y)."""
    style = sheet.fonts.style(_SMALL)
    lines = ["…", f"{gap.num_frames:,}", f"{unit}s" if gap.num_frames > 1 else unit, "…"]
    if gap.num_inserted:
        lines[3:3] = [f"({gap.num_inserted:,}", "inserted)"]
    y -= len(lines) * _SMALL * _LEADING / _POINTS / 2
    for line in lines:
        sheet.put(line, x, y, style, FAINT, "center")
        y += _SMALL * _LEADING / _POINTS


def _label(
    sheet: _Sheet,
    facts: Facts,
    tile: Tile,
    words: str,
    x: float,
    y: float,
    width: float,
    color: str | None,
) -> None:
    """The frame's number as the model counts, where it is from, and whether it is asked about."""
    bold, plain = sheet.fonts.style(_SMALL, bold=True), sheet.fonts.style(_SMALL)
    points = width * _POINTS
    number = f"{facts.unit} {tile.position:,}"
    if needle_of(tile.source) in facts.asked_ids:
        whole = f"{number}, asked"
        number = whole if text_width(whole, bold) <= points else f"{tile.position:,}, asked"
    sheet.put(sheet.fonts.cut(number, points, bold), x, y, bold, color or INK)
    if color is None and text_width(words, plain) > points:
        words = facts.numbered(tile.index)
    y += _SMALL * _LEADING / _POINTS
    sheet.put(sheet.fonts.cut(words, points, plain), x, y, plain, color or FAINT)


def tile_words(tile: Tile, facts: Facts) -> str:
    """Where a frame is from: ``"haystack 119 s"``, ``"red-7"``, ``"wave, frame 3"``, or
    ``"red-7 in 119 s"`` where the needle is drawn into a frame of the haystack.
    """
    name = needle_of(tile.source)
    if name is None:
        return f"haystack {facts.numbered(tile.index)}"
    if tile.source.startswith(blended_source(name)):
        return f"{name} in {facts.numbered(tile.index)}"
    return name if tile.index == 0 else f"{name}, frame {tile.index:,}"


def _texts(sheet: _Sheet, facts: Facts) -> None:
    sample = facts.sample
    _section(sheet, "question", sample.question, most=_MOST_QUESTION_LINES)
    if sample.choices is not None:
        _section(sheet, "choices", facts.choices, most=8)
    _name(sheet, "candidates")
    for text, tokens, is_right in facts.candidates:
        about = ", ".join(filter(None, (tokens, "the right answer" if is_right else "")))
        shown = f"{text}   ({about})" if about else text
        sheet.line(shown, indent=_INDENT, color=_RIGHT if is_right else INK, bold=is_right, most=3)
    if facts.outcome:
        color = INK
        if facts.result is not None and facts.result.correct is not None:
            color = _RIGHT if facts.result.correct else _WRONG
        _section(sheet, "result", facts.outcome, color=color, most=6)
    if facts.tokens:
        _section(sheet, "tokens", facts.tokens, most=8)
    if facts.prompt is not None:
        _prompt(sheet, facts)
    for note in facts.notes:
        _section(sheet, "note", note, most=4)


def _section(sheet: _Sheet, name: str, text: str, *, color: str = INK, most: int) -> None:
    _name(sheet, name)
    sheet.line(text, indent=_INDENT, color=color, most=most)


def _name(sheet: _Sheet, name: str) -> None:
    """The name of a text, on the baseline of its first line."""
    sheet.space(0.07)
    y = sheet.height + (_TEXT - _SMALL) / _POINTS
    sheet.put(name, _MARGIN, y, sheet.fonts.style(_SMALL, bold=True), FAINT)


def _prompt(sheet: _Sheet, facts: Facts) -> None:
    """What the model reads, in a box of its own."""
    assert facts.prompt is not None
    sheet.space(0.1)
    note = f" ({facts.prompt.note})" if facts.prompt.note else ""
    sheet.line(f"What {facts.model} reads{note}", size=_SMALL, color=FAINT, bold=True, most=3)
    sheet.space(0.04)
    top = sheet.height
    sheet.space(0.07)
    sheet.line(facts.prompt.text, size=_SMALL, mono=True, indent=0.1, most=_MOST_PROMPT_LINES)
    sheet.space(0.07)
    sheet.box(_MARGIN, top, _INNER, sheet.height - top, _PAPER)
