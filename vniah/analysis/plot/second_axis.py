"""A second axis above a heatmap: seconds of video, or visual tokens, for its numbers of frames."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes

from vniah.analysis.plot.axes import ColumnFormatter, ThinnedLocator, count_labels
from vniah.analysis.plot.style import INK, LABEL_SIZE, TICK_SIZE
from vniah.errors import InputError, counted
from vniah.options import SecondAxis
from vniah.results import Results

_MINUTE, _HOUR = 60, 3600


@dataclass(frozen=True)
class SecondLabels:
    """What stands above the columns.

    Attributes:
        texts: a label for each column.
        title: what is counted, with its unit where the labels have none.
    """

    texts: tuple[str, ...]
    title: str


def second_labels(
    results: Results,
    frames: Sequence[int],
    kind: SecondAxis,
    tokens_per_frame: int | None = None,
) -> SecondLabels:
    """The labels above the columns of a heatmap.

    Args:
        results: a run, whose frames are one second apart, or a published table.
        frames: the number of frames of each column.
        kind: ``"seconds"``, shown in hours, minutes and seconds; or ``"tokens"``, the visual tokens
            of the haystack, without those of the needle and of the text.
        tokens_per_frame: how many the model reads for a frame, for results that do not say it.

    Raises:
        InputError: the results do not say it, or say another number.
    """
    if kind not in ("seconds", "tokens"):
        raise InputError(f"the second axis is seconds or tokens, got {kind!r}")
    if results.axis == "tokens":
        raise InputError(
            f"{results.path} counts tokens of text, so it has no second axis of {kind}; leave it "
            "out"
        )
    if kind == "tokens":
        tokens = tokens_of_frame(results, tokens_per_frame, "a second axis of tokens")
        return SecondLabels(count_labels([count * tokens for count in frames]), "Visual tokens")
    if results.axis == "pages":
        raise InputError(
            f"{results.path} counts pages, which last no time, so it has no second axis of "
            "seconds; leave it out, or choose tokens"
        )
    if results.manifest and not results.has_seconds:
        raise InputError(
            f"the frames of {results.path} are spread over videos of different lengths, so it has "
            "no second axis of seconds; leave it out"
        )
    if not results.manifest:
        raise InputError(
            f"{results.path} is a published table, which does not say how many seconds of video a "
            "frame stands for, so it has no second axis of seconds; leave it out"
        )
    return _clock_labels(frames)


def tokens_of_frame(results: Results, given: int | None, what: str) -> int:
    """The tokens of a frame as results say it, or else as ``given``.

    Args:
        results: the results.
        given: what the user says of results that do not say it.
        what: what they are needed for, for the message.

    Raises:
        InputError: neither says it.
    """
    tokens = given if results.tokens_per_frame is None else results.tokens_per_frame
    if tokens is None:
        raise InputError(
            f"{results.path} does not say how many tokens a {results.axis[:-1]} has, which {what} "
            "needs: give --tokens-per-frame"
        )
    return tokens


def require_tokens_given(results: Sequence[Results], given: int | None) -> None:
    """Raises `InputError` if a number of tokens of a frame is less than 1, or contradicts all.

    It is for results that do not say it. Where each says it, and one says another number, it would
    be without effect.
    """
    if given is None:
        return
    if given < 1:
        raise InputError(f"tokens per frame must be at least 1, got {given}")
    known = [one for one in results if one.axis != "tokens"]
    if any(one.tokens_per_frame is None for one in known):
        return
    for one in known:
        own = one.tokens_per_frame or 0
        if own != given:
            group = f", {own * one.unit:,} for {one.unit} frames" if one.unit > 1 else ""
            raise InputError(
                f"{one.path} says that a {one.axis[:-1]} has {counted(own, 'token')}{group}, got "
                f"{given:,}: leave out --tokens-per-frame"
            )


def _clock_labels(seconds: Sequence[int]) -> SecondLabels:
    """Seconds in words where they are whole minutes or short, else as on a clock."""
    if all(count < _MINUTE or count % _MINUTE == 0 for count in seconds):
        return SecondLabels(tuple(map(_in_words, seconds)), "Length of the video")
    if max(seconds) < _HOUR:
        texts = tuple(f"{count // _MINUTE}:{count % _MINUTE:02}" for count in seconds)
        return SecondLabels(texts, "Length of the video (min:s)")
    texts = tuple(
        f"{count // _HOUR}:{count % _HOUR // _MINUTE:02}:{count % _MINUTE:02}" for count in seconds
    )
    return SecondLabels(texts, "Length of the video (h:min:s)")


def _in_words(seconds: int) -> str:
    """A length such as ``"50 min"``, ``"1 h 20 min"`` or ``"8 s"``."""
    if seconds < _MINUTE:
        return f"{seconds} s"
    hours, minutes = divmod(seconds // _MINUTE, 60)
    parts = ((f"{hours:,} h" if hours else ""), (f"{minutes} min" if minutes else ""))
    return " ".join(filter(None, parts))


def add_second_axis(ax: Axes, labels: SecondLabels) -> None:
    """Draws the labels above the columns."""
    top = ax.secondary_xaxis("top")
    top.xaxis.set_major_locator(ThinnedLocator(labels.texts, horizontal=True))
    top.xaxis.set_major_formatter(ColumnFormatter(labels.texts))
    top.tick_params(length=0, labelsize=TICK_SIZE, labelcolor=INK)
    top.spines[:].set_visible(False)
    top.set_xlabel(labels.title, fontsize=LABEL_SIZE, color=INK)
