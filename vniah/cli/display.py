"""What the commands print: tables, averages, estimates, and the lines of the log."""

import logging
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from textwrap import fill
from typing import TYPE_CHECKING

from vniah.analysis.tables import format_columns
from vniah.cli.printing import tell
from vniah.errors import counted, printable

if TYPE_CHECKING:
    from vniah.models.families import Family
    from vniah.results import Results
    from vniah.sweep.estimated import Estimate, OnePass, Work
    from vniah.sweep.requests import RequestsEstimate

_PREFIXES = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def format_table(results: "Results") -> str:
    """The scores of the cells, and their mean at each number of frames.

    Below each mean stand the ends of its interval for needles like these, where it is known.
    """
    from vniah.analysis.table_layouts import cells_layout

    return cells_layout(results).text


def format_controls(results: "Results") -> str:
    """The controls as text, one in each line: the share of right answers, by number of frames.

    The last column is of controls that show nothing. For options in several orders the last line
    has the accuracy over all of them, the test's own included.
    """
    from vniah.analysis.table_layouts import controls_layout

    return controls_layout([results.name], [results]).text


def format_applied(results: "Results") -> str:
    """What an intervention changed, by length and by row; empty for a run that applied nothing."""
    from vniah.analysis.table_layouts import layouts

    return "\n".join(layout.text for layout in layouts([results], "applied"))


def format_parts(results: "Results") -> str:
    """The parts of a run by what the task names as facets, and its groups of samples.

    One line for each part: the mean over depth at each number of frames, and the average. Facets
    with one value have no lines; empty text if nothing is left.
    """
    from vniah.results.facets import parts_of

    parts = parts_of(results)
    return format_comparison([part.part for part in parts], parts) if parts else ""


def format_comparison(names: Sequence[str], runs: "Sequence[Results]") -> str:
    """Runs on one grid, one in each line: the mean over depth at each number of frames, the average
    over the cells, its 95 % interval for needles like these, and the effective length.
    """
    from vniah.analysis.table_layouts import lengths_layout

    return lengths_layout(names, runs).text


def format_gaps(results: "Results") -> list[str]:
    """Lines that say where the means of the table are over less than was planned."""
    from vniah.analysis.table_notes import gaps

    return gaps(results)


def format_families(families: "Iterable[Family]", *, width: int | None = None) -> str:
    """Two tables of the families of models: what a frame is, and how their decoders are run.

    Families that differ by their names only are in one row; lines have up to ``width`` characters.
    """
    frames: dict[tuple[str, ...], list[str]] = {}
    decoders: dict[tuple[str, ...], list[str]] = {}
    for family in families:
        frames.setdefault((family.frame_unit, family.tokens), []).append(family.model_type)
        ring, one_pass = ("yes" if can else "no" for can in (family.runs_in_ring, family.one_pass))
        values = (family.layers, family.sharing, ring, one_pass, family.rope)
        decoders.setdefault(values, []).append(family.model_type)
    heads = {
        ("one frame", "tokens"): frames,
        ("layers", "sharing", "ring", "one-pass", "RoPE"): decoders,
    }
    tables = [
        format_columns(
            [["model_type", *head], *([", ".join(names), *row] for row, names in alike.items())],
            justify=str.ljust,
            width=width,
        )
        for head, alike in heads.items()
    ]
    return "\n\n".join(tables)


def format_notes(families: "Iterable[Family]", *, width: int) -> list[str]:
    """Where answers of transformers are known to differ, one text for families with one note."""
    alike: dict[str, list[str]] = {}
    for family in families:
        if family.note:
            alike.setdefault(family.note, []).append(family.model_type)
    texts = [f"{', '.join(names)}: {note}" for note, names in alike.items()]
    return ["", *(fill(text, width, break_on_hyphens=False) for text in texts)] if texts else []


def format_estimate(found: "Estimate") -> str:
    """All that an estimate says, as lines of text."""
    is_text = found.tokens_per_frame is None
    lengths = "tokens" if is_text else "frames"
    per_rank = f", on each of {found.num_ranks} GPUs" if found.num_ranks > 1 else ""
    one_pass = found.one_pass
    lines = [
        f"{printable(found.model_name)}: {found.num_samples:,} samples of up to "
        f"{found.max_tokens:,} tokens"
        + ("" if is_text else f", {found.tokens_per_frame:g} per frame"),
        *_about_videos(found),
        "",
        f"memory{per_rank}",
        *_indented(_memory_rows(found)),
        *_about_weights(found),
        *([] if found.largest.fits else [f"  it does not fit: {way_out(found, lengths)}"]),
        "",
        f"work{per_rank}",
        *_indented(
            [
                ("", "passes", "tokens", "linear", "attention", "at least"),
                _work_row("common prefixes once", found.shared),
                _work_row("every one by itself", found.alone),
                *([] if one_pass is None else _one_pass_rows(one_pass)),
            ]
        ),
        f"  sharing saves a factor of {_saved(found.alone, found.shared)} in operations, "
        f"{found.alone.seconds / found.shared.seconds:.2f} in time",
        *([] if one_pass is None else [_about_one_pass(found, one_pass)]),
        f"  at {scaled(found.rates.linear, 'FLOP/s')} in matrix products, "
        f"{scaled(found.rates.attention, 'FLOP/s')} in attention, measured just now; "
        + ("" if is_text else "encoding frames and ")
        + "all small operations come on top",
        *_about_fetching(found),
        "",
        f"{lengths} that fit into the free memory: "
        + ", ".join(_limit(*limit) for limit in found.max_frames.items()),
        *(f"note: {printable(note)}" for note in found.notes),
    ]
    return "\n".join(lines)


def _memory_rows(found: "Estimate") -> list[tuple[str, ...]]:
    """The memory of each way to run a sweep, one in each column."""
    ways = {"prefixes once": found.memory, "by itself": found.memory_alone}
    if found.one_pass is not None:
        ways |= {"one pass": found.one_pass.memory, "its exact part": found.one_pass.exact}
    each, first = ways.values(), found.memory

    def row(name: str, *values: int) -> tuple[str, ...]:
        return (name, *(scaled(value, "B") for value in values))

    return [
        ("", *ways),
        row(f"weights of the decoder, {found.dtype}", *(one.weights for one in each)),
        *(
            [row("of its layers, in host memory", *(one.host_weights for one in each))]
            if first.host_weights
            else []
        ),
        *(
            [row("layers that a pass gathers", *(one.gathered for one in each))]
            if first.gathered
            else []
        ),
        row("hidden rows", *(one.hidden for one in each)),
        row("keys and values of one layer", *(one.keys_values for one in each)),
        ("rows of a chunk", *(f"{one.chunk_size:,}" for one in each)),
        row("what a chunk takes", *(one.chunk for one in each)),
        row("kept keys and values", *(one.store for one in each)),
        ("  which are on", *(one.kv_location if one.store else "-" for one in each)),
        row("needed besides the weights", *(one.needed for one in each)),
        row(
            f"free on {first.device}" + (", beside the weights" if first.missing else ""),
            *(max(0, one.free) for one in each),
        ),
    ]


def _one_pass_rows(found: "OnePass") -> list[tuple[str, ...]]:
    window, num = found.approximation.window, found.approximation.verify
    name = f"one pass, window of {counted(window, found.approximation.unit[:-1])}"
    return [
        _work_row(f"{name}, approximate", found.unverified),
        _work_row(f"  and {num:,} branch{'' if num == 1 else 'es'} exactly, too", found.work),
    ]


def _about_one_pass(found: "Estimate", one_pass: "OnePass") -> str:
    """By what factors an approximate map is cheaper, without and with its verification."""
    without, verified = (
        [_saved(work, fewer) for work in (found.alone, found.shared)]
        for fewer in (one_pass.unverified, one_pass.work)
    )
    return (
        f"  --share one-pass, approximate: {without[0]} times fewer operations than every one by "
        f"itself, {without[1]} than common prefixes once; {verified[0]} and {verified[1]} with the "
        f"{counted(one_pass.num_verified, 'sample')} that it also runs exactly, to verify itself"
    )


def _saved(more: "Work", fewer: "Work") -> str:
    """How many times more operations one way takes than the other."""
    factor = more.flops.total / fewer.flops.total
    return f"{factor:.2f}" if factor < 9.995 else f"{factor:,.0f}"


def format_requests(found: "RequestsEstimate") -> str:
    """All that an estimate of what is sent to a server says, as lines of text."""
    pictures = f", {counted(found.num_pictures, 'picture')}" if found.num_pictures else ""
    lines = [
        f"{printable(found.model_name)}: {counted(found.num_samples, 'request')}{pictures}",
        f"  answers: {found.max_answer_tokens:,} tokens at most",
        "  a few more requests show first whether the server reads all; retries come on top",
    ]
    if found.num_prompt_tokens is not None:
        lines.insert(
            1,
            f"  prompts: {found.num_prompt_tokens:,} tokens, up to {found.max_tokens:,} in one, "
            "without those of its chat template",
        )
    if found.max_requests is not None and found.max_requests < found.num_samples:
        lines.append(
            f"  --max-requests {found.max_requests:,} ends before all are sent: the same command "
            "goes on"
        )
    return "\n".join((*lines, *(f"note: {printable(note)}" for note in found.notes)))


def _about_videos(found: "Estimate") -> list[str]:
    if found.shown is None:
        return []
    pictures = counted(found.shown.num_pictures, "different picture")
    return [
        f"  they show {pictures} of {counted(found.shown.num_videos, 'video')}; each is encoded "
        "once (vniah encode)"
    ]


def _about_weights(found: "Estimate") -> list[str]:
    """How the weights of the layers are shared, if they are."""
    if found.weight_ranks == 1:
        return []
    return [
        f"  each of {found.weight_ranks} processes holds 1/{found.weight_ranks} of the layers' "
        "weights, and all of the rest; sending them at every pass comes on top of all times"
    ]


def way_out(found: "Estimate", lengths: str) -> str:
    """What to do where the memory is not enough."""
    if found.largest.free > found.largest.gathered:
        return f"measure fewer {lengths}"
    if found.weight_ranks > 1:
        return "there is no room for the weights; take more processes, or --offload always"
    return (
        "there is no room for the weights; take --offload always, or --shard-weights with "
        "--context-parallel N"
    )


def _about_fetching(found: "Estimate") -> list[str]:
    if not found.memory.host_weights:
        return []
    return [
        f"  every pass fetches the layers' weights, at {scaled(found.rates.fetching, 'B/s')}, "
        "while it computes: times are no less than that"
    ]


def _indented(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """A table whose first column is a name, indented."""
    widest = max(len(row[0]) for row in rows)
    named = [(row[0].ljust(widest), *row[1:]) for row in rows]
    return [f"  {line}" for line in format_columns(named).splitlines()]


def _work_row(name: str, work: "Work") -> tuple[str, ...]:
    flops = (work.flops.linear, work.flops.attention)
    return (
        name,
        f"{work.num_passes:,}",
        f"{work.num_tokens:,}",
        *(scaled(value, "FLOP") for value in flops),
        duration(work.seconds),
    )


def _limit(num_ranks: int, num_frames: int) -> str:
    return f"{num_frames:,}" + (f" on {num_ranks}" if num_ranks > 1 else " here")


def scaled(value: float, unit: str) -> str:
    """Three digits and a prefix, in powers of 1,000: ``"20.7 GB"``."""
    for size, prefix in _PREFIXES:
        if value >= 0.9995 * size:  # rounded to three digits it is one
            return f"{value / size:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}"


def duration(seconds: float) -> str:
    """A time with three digits, in the unit that fits."""
    if seconds < 120:
        return f"{seconds:.3g} s"
    if seconds < 7200:
        return f"{seconds / 60:.3g} min"
    return f"{seconds / 3600:.3g} h" if seconds < 3.6e6 else f"{seconds / 3600:,.0f} h"


@contextmanager
def shown_log(where: str = "", *, is_quiet: bool = False) -> Iterator[None]:
    """Shows the messages of vniah and all warnings as lines on stderr, above the progress bars.

    Those of other packages, which logging would write by itself, are shown in the same way.

    Args:
        where: names the process of a job in warnings, such as ``" in process 1"``.
        is_quiet: True shows warnings only.
    """
    log, handler = logging.getLogger("vniah"), _Lines(where)
    level, show_warning, last_resort = log.level, warnings.showwarning, logging.lastResort
    log.addHandler(handler)
    log.setLevel(logging.WARNING if is_quiet or where else logging.INFO)
    warnings.showwarning = handler.show_warning
    logging.lastResort = handler
    try:
        yield
    finally:
        logging.lastResort = last_resort
        warnings.showwarning = show_warning
        log.setLevel(level)
        log.removeHandler(handler)


class _Lines(logging.Handler):
    """Prints log records as lines on stderr."""

    def __init__(self, where: str) -> None:
        super().__init__(logging.INFO)
        self._where = where

    def emit(self, record: logging.LogRecord) -> None:
        kind = f"warning{self._where}: " if record.levelno >= logging.WARNING else ""
        tell(f"{kind}{record.getMessage()}")

    def show_warning(self, message: Warning | str, *_: object, **__: object) -> None:
        """In place of `warnings.showwarning`."""
        tell(f"warning{self._where}: {message}")
