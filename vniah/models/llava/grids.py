"""Which grids of the tower's size a checkpoint cuts an image into, and how many tokens that makes.

Arithmetic on sizes only; `vniah.models.llava.grid_rows` does it to pictures. In all encodings a
resolution is chosen out of a list, the picture is scaled to fit into it and padded with black, and
it is cut into grids of the tower's size, row by row.

    UniRes   every grid by itself: its patches are pooled 2 x 2 and come row by row (Zhang et al.
             2024, "Long Context Transfer from Language to Vision", section 3.2 and Figure 8). The
             paper allows at most 49 grids
    AnyRes   first the whole picture as one grid; then the rows of all grids together, from the
             left edge to the right edge of the picture (LLaVA-NeXT). Where
             ``mm_patch_merge_type`` has "unpad", rows and columns of padding are left out, and the
             newline token follows each row. Where ``image_aspect_ratio`` is ``anyres_max_N``, a
             larger map than N grids is scaled down to about N
    flat     the whole picture, then every grid by itself, without pooling

The rules are those of the published code, with its rounding: ``longva/mm_utils.py`` and
``longva/model/llava_arch.py`` of LongVA, ``llava/mm_utils.py`` and ``llava/model/llava_arch.py`` of
LLaVA-NeXT. The paper gives (a // 336) x (b // 336) grids for an a x b image; that code covers the
image instead, so that it has up to a row and a column of grids more.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

from msgspec import Meta

from vniah.errors import InputError, ModelError, quoted, short_repr
from vniah.schema import require_type

Encoding = Literal["UniRes", "AnyRes", "flat"]

MOST_GRIDS = 49
"""The most grids of an image in UniRes, by the paper."""

_POOLING = 2  # of UniRes and of "maxpool2x2"
_SCALED_FROM = 1.1  # anyres_max_N leaves maps alone whose side is less than this factor too long

# The resolutions of the first LLaVA-NeXT checkpoints, in units of the tower's size.
_USUAL_OF_ANYRES = ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))

_Pixels = Annotated[int, Meta(ge=1, le=2**20)]
_Pair = Annotated[list[_Pixels], Meta(min_length=2, max_length=2)]
_MOST_PAIRS = 4096


class _Field(TypedDict):
    image_grid_pinpoints: Annotated[list[_Pair], Meta(min_length=1, max_length=_MOST_PAIRS)]


_LONGEST_LIST = 100_000  # characters
_RANGE = re.compile(r"\((\d{1,3})x(\d{1,3})\),\.{3},\((\d{1,3})x(\d{1,3})\)")
_PAIR = r"[(\[]\d{1,7},\d{1,7}[)\]]"
_LIST = re.compile(rf"\[{_PAIR}(?:,{_PAIR})*,?\]")
_MOST = re.compile(r"anyres_max_(\d{1,6})")


@dataclass(frozen=True)
class GridLayout:
    """How a picture of one size is cut, and what becomes of it.

    Attributes:
        columns: grids side by side.
        rows: grids one above the other.
        scaled: width and height of the picture inside all grids, in pixels; the rest is black.
        kept: rows and columns of patches that are left when those of padding are cut off at both
            ends; all of them where nothing is cut off.
        mapped: rows and columns of what is read of the grids: ``kept``, scaled down or pooled.
        num_tokens: tokens of the picture.
    """

    columns: int
    rows: int
    scaled: tuple[int, int]
    kept: tuple[int, int]
    mapped: tuple[int, int]
    num_tokens: int

    @property
    def num_grids(self) -> int:
        """The number of grids, without the whole picture as one of its own."""
        return self.columns * self.rows


@dataclass(frozen=True)
class GridRule:
    """How a checkpoint reads images.

    Attributes:
        encoding: the name of the rule.
        tower_size: side of the pictures that the tower reads, in pixels.
        side: patches in a row of one grid.
        resolutions: width and height that a picture may be scaled to, in the order in which they
            are tried; multiples of ``tower_size``.
        has_base: whether the whole picture comes first, as one grid.
        has_newline: whether padding is cut off, and the newline token follows each row.
        is_pooled: whether 2 x 2 patches become one: by their mean in UniRes, by their maximum in
            AnyRes. The whole picture as one grid is never pooled.
        most: the N of ``anyres_max_N``.
    """

    encoding: Encoding
    tower_size: int
    side: int
    resolutions: tuple[tuple[int, int], ...]
    has_base: bool = True
    has_newline: bool = False
    is_pooled: bool = False
    most: int | None = None

    @property
    def most_grids(self) -> int:
        """The most grids that a picture is cut into."""
        return max(width * height for width, height in self.resolutions) // self.tower_size**2

    @property
    def summary(self) -> str:
        """The rule in words."""
        parts = [f"{self.encoding}, grids of {self.tower_size} px"]
        if self.is_pooled:
            parts.append(f"2x2 {'average' if self.encoding == 'UniRes' else 'max'} pooling")
        if self.encoding != "UniRes":
            parts.append("whole picture first" if self.has_base else "no whole picture")
        if self.encoding == "AnyRes":
            parts.append("rows across grids")
        if self.has_newline:
            parts.append("unpadded, newline after each row")
        if self.most is not None:
            parts.append(f"scaled down above {self.most} grids")
        return ", ".join(parts)

    def layout(self, size: tuple[int, int]) -> GridLayout:
        """The grids of a picture.

        Args:
            size: width and height of the picture, in pixels.

        Raises:
            InputError: the picture is so long and thin that nothing of it would be left.
        """
        best = _select(size, self.resolutions)
        if best is None:
            raise _too_thin(size)
        columns, rows = (length // self.tower_size for length in best)
        whole = rows * self.side, columns * self.side
        kept = _without_padding(whole, size) if self.has_newline else whole
        if not all(kept):
            raise _too_thin(size)
        mapped = self._mapped(kept)
        area = math.prod(mapped) + (mapped[0] if self.has_newline else 0)
        base = self.side**2 if self.has_base else 0
        return GridLayout(columns, rows, _fitted(size, best), kept, mapped, base + area)

    def _mapped(self, kept: tuple[int, int]) -> tuple[int, int]:
        height, width = kept
        if self.encoding == "UniRes":  # pooled in each grid: what is left over is dropped in each
            pooled = self.side // _POOLING
            return height // self.side * pooled, width // self.side * pooled
        if self.is_pooled:
            return height // _POOLING, width // _POOLING
        if self.most is not None:
            times = math.sqrt(height * width / (self.most * self.side**2))
            if times > _SCALED_FROM:
                return int(height // times), int(width // times)
        return kept


def _too_thin(size: tuple[int, int]) -> InputError:
    return InputError(
        f"a picture of {size[0]} x {size[1]} pixels is too long and thin to be read as grids; give "
        "it another shape"
    )


def _select(
    size: tuple[int, int], resolutions: tuple[tuple[int, int], ...]
) -> tuple[int, int] | None:
    """The resolution in which most of the picture is left, the smallest of these, the first."""
    width, height = size
    best, most, least = None, 0, math.inf
    for wide, tall in resolutions:
        scale = min(wide / width, tall / height)
        effective = min(int(width * scale) * int(height * scale), width * height)
        wasted = wide * tall - effective
        if effective > most or (effective == most and wasted < least):
            best, most, least = (wide, tall), effective, wasted
    return best if most else None


def _fitted(size: tuple[int, int], resolution: tuple[int, int]) -> tuple[int, int]:
    """Width and height of the picture when it fits into the resolution."""
    (width, height), (wide, tall) = size, resolution
    if wide / width < tall / height:
        return wide, min(math.ceil(height * (wide / width)), tall)
    return min(math.ceil(width * (tall / height)), wide), tall


def _without_padding(whole: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of patches that are left without those of padding."""
    (height, width), (wide, tall) = whole, size
    if wide / tall > width / height:
        padding = (height - int(tall * (width / wide))) // 2
        return height - 2 * padding, width
    padding = (width - int(wide * (height / tall))) // 2
    return height, width - 2 * padding


def unires_rule(
    tower_size: int, side: int, resolutions: tuple[tuple[int, int], ...] = ()
) -> GridRule:
    """UniRes; without resolutions, all that have at most 49 grids.

    LongVA's own list has the same order, narrow ones first, and lacks the single grid.
    """
    counts = range(1, MOST_GRIDS + 1)
    usual = tuple(
        (columns * tower_size, rows * tower_size)
        for columns in counts
        for rows in counts
        if columns * rows <= MOST_GRIDS
    )
    return GridRule(
        "UniRes", tower_size, side, resolutions or usual, has_base=False, is_pooled=True
    )


def anyres_rule(tower_size: int, side: int) -> GridRule:
    """AnyRes as in the first LLaVA-NeXT checkpoints: up to four grids, unpadded, newlines."""
    usual = tuple((wide * tower_size, tall * tower_size) for wide, tall in _USUAL_OF_ANYRES)
    return GridRule("AnyRes", tower_size, side, usual, has_newline=True)


def read_rule(raw: Mapping[str, Any], folder: Path, *, tower_size: int, side: int) -> GridRule:
    """How a checkpoint reads images, by its config.json.

    Args:
        raw: the content of config.json.
        folder: the checkpoint's folder, for error messages.
        tower_size: side of the pictures that the tower reads, in pixels.
        side: patches in a row of one grid.

    Raises:
        InputError: it reads an image as one picture, and not as grids.
        ModelError: it reads images in a way that vniah does not know, or a field is invalid.
    """
    where = f"{folder}/config.json"
    merge, ratio = raw.get("mm_patch_merge_type") or "flat", raw.get("image_aspect_ratio")
    most = _MOST.fullmatch(str(ratio))
    is_anyres = ratio == "anyres" or (most is not None and int(most[1]) > 0)
    if merge == "unires" and (is_anyres or ratio in (None, "pad", "square")):
        found = _read_resolutions(raw, where, tower_size) if is_anyres else ()
        return unires_rule(tower_size, side, found)
    if not is_anyres:
        raise InputError(
            f"{where} has image_aspect_ratio = {short_repr(ratio)}, so its model reads an image as "
            "one picture or in a way that is not known here; grids are read of 'anyres' and "
            "'anyres_max_N', and where mm_patch_merge_type is 'unires': leave --images out"
        )
    found = _read_resolutions(raw, where, tower_size)
    if merge == "flat":
        return GridRule("flat", tower_size, side, found)
    if not isinstance(merge, str) or not merge.startswith("spatial"):
        raise ModelError(
            f"{where} has mm_patch_merge_type = {short_repr(merge)}; of images as grids vniah "
            "reads 'flat', 'unires' and those that begin with 'spatial'"
        )
    is_pooled = "maxpool2x2" in merge
    has_newline = "unpad" in merge and not is_pooled
    return GridRule(
        "AnyRes",
        tower_size,
        side,
        found,
        has_base="nobase" not in merge,
        has_newline=has_newline,
        is_pooled=is_pooled,
        most=int(most[1]) if most is not None and has_newline else None,
    )


def _read_resolutions(
    raw: Mapping[str, Any], where: str, tower_size: int
) -> tuple[tuple[int, int], ...]:
    """``image_grid_pinpoints``: a list of pairs, the same as text, or ``(1x1),...,(6x6)``."""
    given = raw.get("image_grid_pinpoints")
    field = f"{where} has image_grid_pinpoints = {quoted(str(given), 80)}"
    if isinstance(given, str):
        given = _as_pairs(given, tower_size, field)
    require_type({"image_grid_pinpoints": given}, _Field, ModelError, where)
    assert given is not None, "its type was required"
    for width, height in given:
        if width % tower_size or height % tower_size:
            raise ModelError(
                f"{field}; {width} x {height} is not a whole number of grids of its tower, which "
                f"reads {tower_size} x {tower_size} pixels"
            )
        if width * height > 1024 * tower_size**2:
            raise ModelError(f"{field}; {width} x {height} is more than 1,024 grids")
    return tuple((width, height) for width, height in given)


def _as_pairs(text: str, tower_size: int, field: str) -> list[list[int]]:
    plain = text.replace(" ", "")
    if (found := _RANGE.fullmatch(plain)) is not None:
        left, top, right, bottom = map(int, found.groups())
        columns, rows = range(left, right + 1), range(top, bottom + 1)
        if len(columns) * len(rows) > _MOST_PAIRS:
            raise ModelError(f"{field}; these are more than {_MOST_PAIRS:,} resolutions")
        return [[wide * tower_size, tall * tower_size] for wide in columns for tall in rows]
    if len(plain) <= _LONGEST_LIST and _LIST.fullmatch(plain):
        numbers = [int(number) for number in re.findall(r"\d+", plain)]
        return [list(pair) for pair in zip(numbers[::2], numbers[1::2], strict=True)]
    raise ModelError(f"{field}; it must be a list of pairs, or a range such as '(1x1),...,(6x6)'")
