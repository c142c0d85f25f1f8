"""The command ``vniah encode``: fills the embedding cache, so that runs need no vision tower."""

import argparse
import time
from typing import TYPE_CHECKING

from vniah.cli.haystacks import open_named_haystack, open_named_questions, require_named_haystack
from vniah.cli.inputs import (
    load_libraries,
    load_named_model,
    only_rope,
    task_options,
    what_is_read,
)
from vniah.cli.printing import comment, show
from vniah.errors import InputError, counted
from vniah.files import cache_dir
from vniah.grid import Grid

if TYPE_CHECKING:
    from vniah.protocol import EncodingModel
    from vniah.sweep.progress import Bars


def encode(options: argparse.Namespace) -> int:
    """Encodes the frames of a film, or what a question set shows of its videos."""
    grid, rope, reads = Grid.parse(options.frames, "0"), only_rope(options), what_is_read(options)
    if reads == "text":
        raise InputError(
            f"the task {options.task} shows text, of which nothing is encoded; give a task of "
            "frames, or of questions about videos"
        )
    load_libraries()
    from vniah.engines.inputs import require_encoder
    from vniah.sweep.progress import Bars

    require_named_haystack(options)
    with Bars(not options.quiet) as bars:
        model = require_encoder(load_named_model(options, rope, has_decoder=False))
        if reads == "questions":
            return _encode_questions(options, model, grid, bars)
        return _encode_film(options, model, grid.max_frames, bars)


def _encode_film(
    options: argparse.Namespace, model: "EncodingModel", num_frames: int, bars: "Bars"
) -> int:
    from vniah.embeddings.batches import BATCH_SIZE
    from vniah.embeddings.encode import encode_haystack

    haystack = open_named_haystack(options, num_frames, bars)
    progress = _Progress(bars)
    cache = encode_haystack(
        model, haystack, num_frames, directory=options.cache, on_progress=progress
    )
    what = f"{cache.num_frames:,} {haystack.unit}s"
    progress.comment(what, f"{haystack.unit}s", at_once=BATCH_SIZE)
    for note in cache.notes():
        show(f"note: {note}")
    show(f"cache: {cache.directory}")
    return 0


def _encode_questions(
    options: argparse.Namespace, model: "EncodingModel", grid: Grid, bars: "Bars"
) -> int:
    """Encodes the pictures that the samples of a grid show; other lengths share what they can."""
    from vniah.embeddings.library import encode_library
    from vniah.embeddings.shown import frames_shown
    from vniah.needles import NeedleSet
    from vniah.tasks import load_task
    from vniah.tasks.controls import plan_samples

    asked = open_named_questions(options, bars)
    task = load_task(options.task, task_options(options))
    samples = plan_samples(task, grid, NeedleSet.none(), asked, "none")
    frames = frames_shown(span for sample in samples for span in sample.shown)
    progress = _Progress(bars)
    encoded = encode_library(model, asked, frames, cache=options.cache, on_progress=progress)
    pictures = counted(len(frames), "picture")
    videos = counted(len(asked.by_video(frames)), "video")
    progress.comment(f"{pictures} of {videos}", "pictures", at_once=1)
    for note in encoded.notes:
        show(f"note: {note}")
    show(f"cache: {options.cache or cache_dir()}")
    return 0


class _Progress:
    """Shows how far frames are encoded, and says at the end how fast that was.

    Args:
        bars: of the command.
    """

    def __init__(self, bars: "Bars") -> None:
        self._bars = bars
        self._started = time.perf_counter()
        self._first = self._last = 0

    def __call__(self, done: int, total: int) -> None:
        """Called with (frames done, frames in all), those that were there before included."""
        self._first = self._first or done
        self._last = done
        self._bars.show("encode", done, total)

    def comment(self, what: str, unit: str, *, at_once: int) -> None:
        """Says what is encoded now.

        Args:
            what: all that is needed, with its number.
            unit: what is counted.
            at_once: how many are encoded at a time.
        """
        if not self._last:
            comment(f"nothing to do: {what} are already encoded")
            return
        num_new = self._last - max(0, self._first - at_once)
        rate = num_new / (time.perf_counter() - self._started)
        comment(f"{what} encoded, {rate:.1f} {unit}/s")
