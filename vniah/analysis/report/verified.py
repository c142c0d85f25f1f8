"""What the exactly computed samples of an approximate run say, as tables of a page."""

from collections.abc import Iterable, Mapping

from vniah.analysis.labels import like_these
from vniah.analysis.report.tables import PageTable
from vniah.analysis.statistics.corrected import Corrected
from vniah.analysis.statistics.estimates import percent_of
from vniah.analysis.statistics.verification import Verification, verify
from vniah.errors import counted
from vniah.results import Results
from vniah.tasks.controls.exact import Agreement

_ALL = "all"


def verification_tables(results: Results) -> tuple[PageTable, ...]:
    """The agreement by length and by row, and the corrected means; none for an exact run."""
    found = verify(results)
    if found is None:
        return ()
    length = f"number of {results.axis}"
    row = "position" if results.has_positions else "depth"
    by_length = {f"{count:,}": one for count, one in found.by_length.items()}
    tables = [_agreement(found.all, by_length, length)]
    if results.has_depths:
        tables.append(_agreement(found.all, found.by_row, row))
    if found.corrected is not None:
        tables.append(_corrected(found.corrected, found, results, length))
    return tuple(tables)


def _agreement(whole: Agreement, parts: Mapping[str, Agreement], what: str) -> PageTable:
    head = (what, "samples", "same outcome", "mean difference", "largest difference")
    return PageTable(
        f"Agreement of approximate and exact results, by {what}",
        (head,),
        tuple(_agreement_rows({**parts, _ALL: whole})),
        1,
        ("differences are those of the answer's log-probability, in nats",),
    )


def _agreement_rows(parts: Mapping[str, Agreement]) -> Iterable[tuple[str, ...]]:
    for name, one in parts.items():
        yield (
            name,
            f"{one.num_pairs:,}",
            f"{one.num_equal:,}",
            *(_number(value) for value in (one.mean_difference, one.max_difference)),
        )


def _corrected(whole: Corrected, found: Verification, results: Results, length: str) -> PageTable:
    approximate: dict[int, list[float]] = {}
    for cell in results.cells:
        if cell.score is not None:
            approximate.setdefault(cell.cell.num_frames, []).append(cell.score)
    rows = [
        (f"{count:,}", f"{sum(scores) / len(scores):.2f}", *_texts(found, count))
        for count, scores in sorted(approximate.items())
    ]
    average = "." if results.average is None else f"{results.average:.2f}"
    percent = percent_of(found.confidence)
    head = (
        length,
        "approximate mean",
        "corrected mean",
        f"these {found.unit}s, {percent}",
        f"{like_these([results])}, {percent}",
    )
    missing = len(approximate.keys() - found.corrected_by_length.keys())
    has = "has" if missing == 1 else "have"
    note = f"{counted(missing, 'length')} without exactly computed samples {has} no corrected mean"
    return PageTable(
        "Means that exactly computed samples correct, with their intervals",
        (head,),
        (*rows, (_ALL, average, *_ends(whole))),
        1,
        (note,) if missing else (),
    )


def _texts(found: Verification, length: int) -> tuple[str, ...]:
    one = found.corrected_by_length.get(length)
    return (".", ".", ".") if one is None else _ends(one)


def _ends(one: Corrected) -> tuple[str, ...]:
    return f"{one.mean:.2f}", one.these.text(), one.like.text()


def _number(value: float | None) -> str:
    return "." if value is None else f"{value:.2g}"
