"""An endless, procedurally drawn film: a haystack that everybody can make again.

Every picture is a pure function of (seed, absolute time, size). Time is cut into blocks of 16 s, a
block into scenes of 2 to 6 s; a scene is a textured background under a moving camera, some moving
shapes and film grain. Blocks do not depend on one another, so drawing may start anywhere.

Only integers are used, and only generators whose streams numpy promises to keep, so that the same
seed gives the same pixels on every machine. Lengths below are in units of 1/96 of the shorter side.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from vniah.errors import InputError
from vniah.files import atomic_path
from vniah.haystacks.textures import UNITS, Dice, Pixels, draw_texture, make_palette

GENERATOR_VERSION: int = 1
"""Part of the identity of a generated haystack: it changes when the drawn frames change."""

MIN_SIDE = 32
MAX_SIDE = 4096
SHAPES = ("circle", "square", "triangle", "star", "cross", "diamond")

_BLOCK_MS = 16_000
_STAR = [
    (round(r * math.sin(i * math.pi / 5)), -round(r * math.cos(i * math.pi / 5)))
    for i, r in enumerate((1000, 420) * 5)
]
_POLYGONS: dict[str, list[tuple[int, int]]] = {
    "square": [(-850, -850), (850, -850), (850, 850), (-850, 850)],
    "triangle": [(0, -1000), (1000, 800), (-1000, 800)],
    "diamond": [(0, -1000), (750, 0), (0, 1000), (-750, 0)],
    "star": _STAR,
}


def shape_mask(shape: str, radius: int) -> NDArray[np.bool_]:
    """A filled shape, bool [2 * radius + 1, 2 * radius + 1]; ``shape`` is one of `SHAPES`."""
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1].astype(np.int64)
    if shape == "circle":
        return np.asarray(x * x + y * y <= radius * radius)
    if shape == "cross":
        arm = radius * 36 // 100
        return np.asarray((abs(x) <= arm) | (abs(y) <= arm))
    inside = np.zeros(x.shape, dtype=bool)  # by the even-odd rule
    corners = _POLYGONS[shape]
    for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True):
        x0, y0, x1, y1 = x0 * radius, y0 * radius, x1 * radius, y1 * radius
        crosses = (y0 > y * 1000) != (y1 > y * 1000)
        side = (x * 1000 - x0) * (y1 - y0) - (y * 1000 - y0) * (x1 - x0)
        inside ^= crosses & ((side < 0) == (y1 > y0))
    return inside


def _bounce(position: int, span: int) -> int:
    """``position`` folded into 0..span, like a ball that bounces between two walls."""
    if span <= 0:
        return 0
    return span - abs(position % (2 * span) - span)


@dataclass(frozen=True)
class _Sprite:
    """A moving shape. Positions are those of its centre; speeds are in milli-units a second."""

    pixels: Pixels  # [height, width, 3]
    mask: NDArray[np.bool_]  # [height, width]
    start: tuple[int, int]  # (x, y)
    speed: tuple[int, int]

    def paste(self, frame: Pixels, milliseconds: int) -> None:
        height, width = frame.shape[:2]
        unit = min(height, width)
        moved = [unit * speed * milliseconds // (UNITS * 1_000_000) for speed in self.speed]
        tall, wide = self.mask.shape
        left = _bounce(self.start[0] + moved[0], width) - wide // 2
        top = _bounce(self.start[1] + moved[1], height) - tall // 2
        rows, columns = slice(max(0, -top), height - top), slice(max(0, -left), width - left)
        mask = self.mask[rows, columns]
        target = frame[max(0, top) :, max(0, left) :][: mask.shape[0], : mask.shape[1]]
        np.copyto(target, self.pixels[rows, columns], where=mask[..., None])


def _outline(mask: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    """The rim of a filled shape."""
    inner = np.pad(mask, width)
    kept = mask.copy()
    for dy, dx in ((-1, 0), (1, 0), (0, -1), (0, 1)):
        shifted = np.roll(inner, (dy * width, dx * width), (0, 1))
        kept &= shifted[width : mask.shape[0] + width, width : mask.shape[1] + width]
    return mask & ~kept


def _make_sprite(dice: Dice, height: int, width: int) -> _Sprite:
    """A plain shape, or a bordered panel or disc about as large as a card or a sign."""
    unit = min(height, width)
    kind = dice.between(0, 3)
    if kind == 0:  # a panel
        tall, wide = dice.between(20, 70), dice.between(20, 60)
        mask = np.ones((max(4, tall * unit // UNITS), max(4, wide * unit // UNITS)), dtype=bool)
    elif kind == 1:
        mask = shape_mask("circle", max(3, dice.between(14, 38) * unit // UNITS))
    else:
        shape = SHAPES[dice.between(0, len(SHAPES) - 1)]
        mask = shape_mask(shape, max(3, dice.between(6, 26) * unit // UNITS))
    grey = dice.between(40, 230)
    fill = dice.color() if dice.between(0, 3) else (grey, grey, grey)
    shade = dice.between(-60, 60) * (np.arange(mask.shape[0])[:, None, None] - mask.shape[0] // 2)
    pixels = np.array(fill) + shade // mask.shape[0] + np.zeros((*mask.shape, 1), dtype=np.int64)
    if kind <= 1 or dice.between(0, 1):
        rim = _outline(mask, max(1, dice.between(2, 5) * unit // UNITS))
        pixels[rim] = dice.between(0, 50) if dice.between(0, 3) else dice.between(200, 255)
    return _Sprite(
        pixels=pixels.clip(0, 255).astype(np.uint8),
        mask=mask,
        start=(dice.between(0, width), dice.between(0, height)),
        speed=(dice.signed(0, 9000), dice.signed(0, 9000)),
    )


@dataclass(frozen=True)
class _Scene:
    """The part of the film between two cuts."""

    background: Pixels  # larger than the frame: the camera moves over it
    camera: tuple[int, int]  # milli-units a second, (x, y)
    sprites: tuple[_Sprite, ...]
    grain: NDArray[np.int16]  # [height + 16, width + 16, 1]
    height: int
    width: int

    def draw(self, milliseconds: int) -> Pixels:
        """The picture ``milliseconds`` after the cut, uint8 [height, width, 3]."""
        unit, margins = min(self.height, self.width), self.background.shape
        shift = [unit * speed * milliseconds // (UNITS * 1_000_000) for speed in self.camera]
        left = _bounce(shift[0], margins[1] - self.width)
        top = _bounce(shift[1], margins[0] - self.height)
        frame = self.background[top : top + self.height, left : left + self.width].copy()
        for sprite in self.sprites:
            sprite.paste(frame, milliseconds)
        y, x = milliseconds * 5 % 17, milliseconds * 11 % 16
        noisy = frame + self.grain[y : y + self.height, x : x + self.width]
        return np.asarray(noisy.clip(0, 255), dtype=np.uint8)


def _make_scene(seed: int, block: int, number: int, size: tuple[int, int]) -> _Scene:
    width, height = size
    unit = min(size)
    dice = Dice(seed, block, number)
    plane = draw_texture(dice, height + unit // 2, width + unit // 2, unit)
    amplitude = dice.between(0, 16)
    grain = dice.raw_bytes(height + 16, width + 16) + dice.raw_bytes(height + 16, width + 16)
    return _Scene(
        background=make_palette(dice)[plane.clip(0, 255)],
        camera=(dice.signed(0, 8000), dice.signed(0, 8000)),
        sprites=tuple(_make_sprite(dice, height, width) for _ in range(dice.between(1, 5))),
        grain=((grain - 255) * amplitude // 128)[..., None].astype(np.int16),
        height=height,
        width=width,
    )


def _find_scene(seed: int, milliseconds: int) -> tuple[int, int, int]:
    """(block, number of the scene in it, milliseconds since its cut) at an absolute time."""
    block, rest = divmod(milliseconds, _BLOCK_MS)
    dice = Dice(seed, block)
    number = 0
    while rest >= (length := dice.between(2_000, 6_000)):
        rest -= length
        number += 1
    return block, number, rest


def draw_frame(*, seed: int, milliseconds: int, size: tuple[int, int] = (96, 96)) -> Pixels:
    """The picture of film ``seed`` at an absolute time, uint8 RGB [height, width, 3].

    Raises:
        InputError: ``size`` is too small or odd, or the time is negative.
    """
    _require_size(size)
    if milliseconds < 0:
        raise InputError(f"milliseconds must not be negative, got {milliseconds}.")
    block, number, since_cut = _find_scene(seed, milliseconds)
    return _make_scene(seed, block, number, size).draw(since_cut)


def draw_frames(
    *,
    seed: int,
    seconds: int,
    fps: int = 8,
    size: tuple[int, int] = (96, 96),
    start_seconds: int = 0,
) -> Iterator[Pixels]:
    """The film from second ``start_seconds`` on: ``seconds * fps`` pictures.

    Args:
        seed: which film; any integer.
        seconds: the length of what is drawn.
        fps: pictures a second; the film moves equally fast at every rate.
        size: (width, height) in pixels, both even.
        start_seconds: where to start. A second looks the same whatever ``start_seconds`` is.

    Yields:
        uint8 RGB [height, width, 3].

    Raises:
        InputError: a number is out of range. Raised by the call, not with the first picture.
    """
    _require_size(size)
    if seconds < 1:
        raise InputError(f"seconds must be at least 1, got {seconds}.")
    if fps < 1:
        raise InputError(f"fps must be at least 1, got {fps}.")
    if start_seconds < 0:
        raise InputError(f"start_seconds must not be negative, got {start_seconds}.")
    return _generate_frames(
        seed, range(start_seconds * fps, (start_seconds + seconds) * fps), fps, size
    )


def _generate_frames(
    seed: int, indices: range, fps: int, size: tuple[int, int]
) -> Iterator[Pixels]:
    scene, shown = None, (-1, -1)
    for index in indices:
        block, number, since_cut = _find_scene(seed, index * 1000 // fps)
        if scene is None or shown != (block, number):
            scene, shown = _make_scene(seed, block, number, size), (block, number)
        yield scene.draw(since_cut)


def _require_size(size: tuple[int, int]) -> None:
    width, height = size
    if min(size) < MIN_SIDE:
        raise InputError(f"size must be at least {MIN_SIDE}x{MIN_SIDE}, got {width}x{height}.")
    if max(size) > MAX_SIDE:
        raise InputError(f"size must be at most {MAX_SIDE}x{MAX_SIDE}, got {width}x{height}.")
    if width % 2 or height % 2:
        raise InputError(
            f"size must be even in both directions, got {width}x{height}: H.264 halves the colours."
        )


def without_avx512() -> dict[str, str]:
    """Options that keep x264 from its AVX-512 code, where it would run.

    That code gives other bytes from call to call for pictures as narrow as these: of 40 films with
    equal arguments up to 30 differed. Without it, all have the bytes that AVX2 machines write.
    """
    has_avx512 = "AVX512" in torch.backends.cpu.get_cpu_capability()
    return {"x264-params": "asm=avx2"} if has_avx512 else {}


def write_video(
    path: Path,
    *,
    seed: int,
    seconds: int,
    fps: int = 8,
    size: tuple[int, int] = (96, 96),
    start_seconds: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Writes the film of `draw_frames` as H.264 (yuv420p, with B-frames) in MP4.

    The file is whole or not there.

    Args:
        path: the file to make; an older one is replaced.
        seed: as in `draw_frames`.
        seconds: as in `draw_frames`.
        fps: as in `draw_frames`.
        size: as in `draw_frames`.
        start_seconds: as in `draw_frames`.
        on_progress: called after every second with (seconds done, seconds in all).

    Raises:
        InputError: a number is out of range.
    """
    frames = draw_frames(
        seed=seed, seconds=seconds, fps=fps, size=size, start_seconds=start_seconds
    )

    def report(number: int) -> None:
        if on_progress is not None and number % fps == 0:
            on_progress(number // fps, seconds)

    write_pictures(path, frames, fps=fps, size=size, on_written=report)


def write_pictures(
    path: Path,
    pictures: Iterable[Pixels],
    *,
    fps: int,
    size: tuple[int, int],
    on_written: Callable[[int], None] = lambda number: None,
) -> None:
    """Writes pictures as H.264 (yuv420p, with B-frames) in MP4. The file is whole or not there.

    Args:
        path: the file to make; an older one is replaced.
        pictures: uint8 RGB ``[height, width, 3]``.
        fps: pictures per second.
        size: (width, height) in pixels.
        on_written: called after every picture with the number of those that are written.
    """
    import av

    with (
        atomic_path(Path(path)) as unfinished,
        av.open(str(unfinished), "w", format="mp4") as container,
    ):
        stream = container.add_stream("libx264", rate=fps)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.options = {
            "preset": "veryfast",
            "crf": "18",
            "bf": "2",
            "g": str(4 * fps),
            "threads": "1",  # the same bytes on any number of cores
            **without_avx512(),
        }
        for number, pixels in enumerate(pictures, start=1):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            on_written(number)
        container.mux(stream.encode())
