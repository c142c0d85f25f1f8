"""From the outcome of a sample to its line: scored by its task, and such that it is read back."""

from collections.abc import Sequence
from dataclasses import fields, replace
from math import isfinite

from vniah.engines.base import Outcome
from vniah.errors import InputError, ResultsError, TaskError, VniahError, first_line, short_repr
from vniah.needles import NeedleSet
from vniah.results import MOST_LINE_BYTES, SampleResult, contradiction
from vniah.results.attention import AttentionTrace
from vniah.results.measures import fault_of_measures
from vniah.results.samples import SampleLine
from vniah.scoring import Reading, Score
from vniah.tasks import Sample, Task
from vniah.tasks.base import is_json_value, needles_asked_for
from vniah.tasks.details import details_of

_OWN_COLUMNS = ("measures", "num_options")  # beside the sample's fields
_SCORE_FIELDS = tuple(field.name for field in fields(Score) if field.name not in _OWN_COLUMNS)
_TAKEN = {*SampleLine.__annotations__, *_SCORE_FIELDS}
_MAX_ERROR = 10_000  # characters


def require_readable(task: Task, samples: Sequence[Sample], needles: NeedleSet) -> None:
    """Raises `TaskError` for a sample whose line would be refused when the run is read."""
    needle_ids = frozenset(needles.ids)
    asks_needles = details_of(task).get("asks_needles", False)
    for sample in samples:
        if found := contradiction(sample, needle_ids, asks_needles=asks_needles):
            raise TaskError(
                f"the sample {short_repr(sample.sample_id)} of the task {task.name} contradicts "
                f"itself: {found}; give a field that means something else another name"
            )
        for name, value in sample.fields.items():
            if type(value) is int and not -(2**63) <= value < 2**63:
                raise TaskError(
                    f"the field {short_repr(name)} of the sample {short_repr(sample.sample_id)} is "
                    "a whole number of more than 64 bits; write it as text"
                )


def require_needles_shown(samples: Sequence[Sample]) -> None:
    """Raises `InputError` if no sample shows a needle whose attention could be traced."""
    if not any(map(needles_asked_for, samples)):
        raise InputError(
            "--trace-attention traces the attention to needles, and no sample of this task shows "
            "one: leave it out"
        )


def result_of(task: Task, sample: Sample, outcome: Outcome) -> SampleResult:
    """The result of a sample, from its outcome; what cannot be written is an error of its task."""
    result = SampleResult(
        sample_id=sample.sample_id,
        task=task.name,
        cell=sample.cell,
        question=sample.question,
        answer=sample.answer,
        control=sample.control,
        fields=sample.fields,
    )
    score = outcome if isinstance(outcome, str) else _score(task, sample, outcome)
    if not isinstance(score, str):
        scored = replace(
            result,
            fields={**_of_options(score), **sample.fields, **score.measures},
            **{name: getattr(score, name) for name in _SCORE_FIELDS},
            approximate=_is_approximate(outcome) or None,
        )
        if (trace := attention_of(sample, outcome)) is not None:
            scored = replace(
                scored,
                needle_attention=round(trace.largest, 6),
                needle_seen="seen" if trace.is_seen else "not seen",
            )
        measures = {"measures": getattr(task, "measures", ())}
        if (fault := fault_of_measures(scored, measures) or _fault_of_line(scored)) is None:
            return scored
        score = f"the task {task.name} gave a score that cannot be written: {fault}"
    return replace(result, error=score[:_MAX_ERROR] or "an error without a message")


def attention_of(sample: Sample, outcome: Outcome) -> AttentionTrace | None:
    """The attention of a sample to its needle, with the right answer; None if not traced."""
    if isinstance(outcome, str):
        return None
    names = sample.candidates
    right = names.index(sample.answer) if sample.answer in names[: len(outcome)] else 0
    found = outcome[right].attention
    return None if found is None else AttentionTrace.of(sample.sample_id, found)


def _is_approximate(outcome: Outcome) -> bool:
    return not isinstance(outcome, str) and any(reading.is_approximate for reading in outcome)


def _of_options(score: Score) -> dict[str, int]:
    """The number of options, as tasks name it that know it beforehand."""
    return {} if score.num_options is None else {"num_options": score.num_options}


def _fault_of_line(result: SampleResult) -> str | None:
    """Why the line of a result could not be read back; None if it can."""
    try:
        line = result.to_json()
        if len(line.encode()) >= MOST_LINE_BYTES:
            return f"its line has {len(line):,} characters"
        SampleResult.from_json(line, "its line")
    except (TypeError, ValueError, ResultsError) as error:
        return first_line(error)
    return None


def _score(task: Task, sample: Sample, readings: tuple[Reading, ...]) -> Score | str:
    """The score of a sample; or, in one line, what is wrong with the task."""
    try:
        score: object = task.score(sample, readings)
    except VniahError as error:
        return first_line(error)
    except Exception as error:  # noqa: BLE001  # somebody's task: the other samples still run
        return (
            f"score() of the task {task.name} failed: {type(error).__name__}: {first_line(error)}"
        )
    if not isinstance(score, Score) or type(score.correct) is not bool:
        return f"score() of the task {task.name} gave {short_repr(score)}, not a Score"
    numbers = (score.logprob, score.margin, score.seconds)
    if not all(isfinite(number) for number in numbers if isinstance(number, int | float)):
        return f"score() of the task {task.name} gave a number that is not finite: {score}"
    for name, value in score.measures.items():
        if name in _TAKEN or name in sample.fields or not is_json_value(value):
            return (
                f"score() of the task {task.name} gave the measure {short_repr(name)} = "
                f"{short_repr(value)}; its name must be free, and it must be text, a finite "
                "number, True, False or None, or a list of these"
            )
    return score
