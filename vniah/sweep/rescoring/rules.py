"""Rules that judge the line of a sample anew: by the text in it, or by its numbers."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from vniah.answers import TEXT_RULES, MatchRule, match_answer
from vniah.engines.base import ARGMAX, GENERATED
from vniah.errors import InputError, first_line, short_repr
from vniah.factories import call_factory, is_factory
from vniah.results import Results, SampleResult
from vniah.scoring import GeneratedText, Reading
from vniah.sweep.outcomes import result_of
from vniah.tasks import Sample, Task
from vniah.tasks.multiple_choice import CRITERION as OPTIONS_CRITERION

ARGMAX_RULE, CIRCULAR_RULE = "argmax", "circular"
_LEAST = {
    "rank": "rank at most",
    "margin": "margin at least",
    "probability": "probability at least",
}

RULE_NAMES = (*TEXT_RULES, ARGMAX_RULE, CIRCULAR_RULE, *(f"{name}:X" for name in _LEAST))
"""How rules are named; X is a number."""


class Rule(Protocol):
    """Judges lines that have a score."""

    @property
    def name(self) -> str:
        """As it was given."""

    @property
    def criterion(self) -> str:
        """What makes an answer right, for the manifest."""

    def judge(self, line: SampleResult) -> SampleResult | None:
        """The line with its new outcome; None where that is not known yet.

        Raises:
            InputError: the line does not say what the rule needs.
        """


def criterion_of(results: Results) -> str:
    """What made an answer right in a run."""
    return str(results.manifest["protocol"].get("criterion", ""))


def is_of_texts(source: str) -> bool:
    """True if a rule reads what a model wrote, and so needs the accepted answers."""
    is_number = source.partition(":")[0] in _LEAST
    return source in TEXT_RULES or (is_factory(source) and not is_number)


def default_rule(results: Results) -> str:
    """The rule by which a run was judged."""
    return "whole" if criterion_of(results) == GENERATED else ARGMAX_RULE


def number_rule(source: str, results: Results) -> Rule:
    """The rule of a name that is none for texts.

    Raises:
        InputError: there is no such rule, or the run lacks what it needs.
    """
    if source == ARGMAX_RULE:
        return ByArgmax.of(results)
    if source == CIRCULAR_RULE:
        return InEveryOrder.of(results)
    name, _, text = source.partition(":")
    if name not in _LEAST:
        raise InputError(
            f"there is no answer rule {short_repr(source)}; use one of {', '.join(RULE_NAMES)}, or "
            "package.module:factory for one of your own"
        )
    try:
        bound = float(text)
    except ValueError:
        bound = math.nan
    in_range = {"rank": bound >= 1, "margin": math.isfinite(bound), "probability": 0 < bound <= 1}
    if not in_range[name] or math.isinf(bound):
        wanted = {"rank": "rank:2", "margin": "margin:1.5", "probability": "probability:0.5"}[name]
        raise InputError(
            f"the answer rule {short_repr(source)} needs a number such as {wanted}; a rank is at "
            "least 1, and a probability above 0 and at most 1"
        )
    return ByNumber(source, name, bound, was_argmax=criterion_of(results) != GENERATED)


@dataclass(frozen=True)
class ByNumber:
    """Right is an answer whose rank, margin or probability reaches a bound."""

    name: str
    value: str
    bound: float
    was_argmax: bool

    @property
    def criterion(self) -> str:
        """As `Rule.criterion`."""
        return f"{_LEAST[self.value]} {self.bound:g}"

    def judge(self, line: SampleResult) -> SampleResult:
        """As `Rule.judge`."""
        found = line.logprob if self.value == "probability" else getattr(line, self.value)
        if found is None:
            raise InputError(
                f"the answer rule {self.name} needs a {self.value}, and the sample "
                f"{short_repr(line.sample_id)} has none: models that answer in words give no "
                "log-probabilities"
            )
        if self.value == "rank":
            is_right = found <= self.bound
        else:
            least = math.log(self.bound) if self.value == "probability" else self.bound
            is_right = found >= least
        return with_outcome(line, is_right, was_argmax=self.was_argmax)


@dataclass(frozen=True)
class ByArgmax:
    """Right is what the argmax says; of options, the most probable one."""

    was_generated: bool
    criterion: str
    name: str = ARGMAX_RULE

    @classmethod
    def of(cls, results: Results) -> "ByArgmax":
        """The rule for a run; where text was judged, its lines say whether they had options."""
        if (earlier := criterion_of(results)) != GENERATED:
            return cls(False, earlier)
        has_argmax = any(line.argmax_correct is not None for line in results.samples)
        return cls(True, ARGMAX if has_argmax else OPTIONS_CRITERION)

    def judge(self, line: SampleResult) -> SampleResult:
        """As `Rule.judge`."""
        if not self.was_generated:
            return line
        if line.argmax_correct is not None:
            return replace(line, correct=line.argmax_correct)
        if line.margin is None or line.margin == 0:
            raise InputError(
                f"the answer rule {self.name} cannot be applied to the sample "
                f"{short_repr(line.sample_id)}: "
                + (
                    "a text was judged, and its line has no log-probabilities"
                    if line.margin is None
                    else "two options are equally probable, and its line does not say which won"
                )
            )
        return replace(line, correct=line.margin > 0)


@dataclass(frozen=True)
class InEveryOrder:
    """Right is a question with options that is right in every order of its options.

    It is the circular evaluation of MMBench (Liu et al. 2023, section 4.1), from the samples of
    the control option-rotation. Other samples stay as they are.
    """

    groups: Mapping[str, Sequence[SampleResult]]
    was_argmax: bool
    name: str = CIRCULAR_RULE
    criterion: str = "right in every order of the options"

    @classmethod
    def of(cls, results: Results) -> "InEveryOrder":
        """The rule for a run.

        Raises:
            InputError: no question was asked in several orders.
        """
        groups: dict[str, list[SampleResult]] = {}
        for line in results.control_samples:
            if isinstance(original := line.fields.get("variant_of"), str):
                groups.setdefault(original, []).append(line)
        if not groups:
            raise InputError(
                f"the answer rule {CIRCULAR_RULE} needs questions that were asked with their "
                f"options in other orders, and {results.path} has none: run it with --controls "
                "option-rotation, on needles with choices"
            )
        return cls(groups, was_argmax=criterion_of(results) != GENERATED)

    def judge(self, line: SampleResult) -> SampleResult | None:
        """As `Rule.judge`."""
        others = self.groups.get(line.sample_id, ())
        if not others:
            return line
        outcomes = [line.correct, *(other.correct for other in others)]
        if False in outcomes:
            return with_outcome(line, False, was_argmax=self.was_argmax)
        if failed := next((other for other in others if other.error is not None), None):
            return as_error(line, f"{failed.sample_id} could not be run: {failed.error}")
        if len(outcomes) != others[0].fields.get("num_variants"):
            return None
        return with_outcome(line, True, was_argmax=self.was_argmax)


@dataclass
class ByText:
    """Right is what a rule says of the text that a model wrote.

    Args:
        name: of the rule.
        match: the rule.
        task: scores the samples.
        samples: as the task makes them, by their ids.
        accepted: further accepted answers, by the answer that they stand for.
    """

    name: str
    match: MatchRule
    task: Task
    samples: Mapping[str, Sample]
    accepted: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._was_asked = False
        self._fault: str | None = None

    @property
    def is_usual(self) -> bool:
        """True if this is the rule by which every run is judged."""
        return self.name == "whole" and not self.accepted

    @property
    def criterion(self) -> str:
        """As `Rule.criterion`."""
        found = GENERATED if self.name == "whole" else f"{GENERATED}, by the rule {self.name}"
        extra = "; ".join(f"{a} = {' | '.join(t)}" for a, t in sorted(self.accepted.items()))
        return f"{found}, accepting also {extra}" if extra else found

    def judge(self, line: SampleResult) -> SampleResult:
        """As `Rule.judge`."""
        sample = self.samples[line.sample_id]
        if line.prediction is None:
            raise InputError(
                f"the answer rule {self.name} needs what the model wrote, and the sample "
                f"{short_repr(line.sample_id)} has no prediction"
            )
        self._was_asked, self._fault = False, None
        # A task may judge by a rule of its own where no other is asked for.
        rule = match_answer if self.is_usual else self._match
        said = GeneratedText(line.prediction, line.predicted_ids, rule)
        reading = Reading(line.seconds or 0.0, generated=said, prompt_tokens=line.prompt_tokens)
        scored = result_of(self.task, sample, (reading,))
        if self._fault is not None:
            raise InputError(
                f"the answer rule {self.name} {self._fault}, at the sample "
                f"{short_repr(line.sample_id)}"
            )
        if scored.error is not None:
            return as_error(line, scored.error)
        if not (self._was_asked or self.is_usual):
            raise InputError(
                f"the task {self.task.name} reads texts by a rule of its own, which --answer-rules "
                "and --accept do not replace; leave them out to judge by that rule anew"
            )
        if line.logprob is not None:  # its other numbers are those of the logits
            return replace(line, correct=scored.correct)
        return replace(line, correct=scored.correct, variant=scored.variant, fields=scored.fields)

    def _match(
        self, text: str, answers: Sequence[str], choices: Sequence[str] | None = None
    ) -> str | None:
        """What the rule says; what is wrong with it is kept, as the task must not score it."""
        self._was_asked = True
        more = [text for answer in answers for text in self.accepted.get(answer, ())]
        allowed = [*answers, *more]
        try:
            found: Any = self.match(text, allowed, choices)
        except Exception as error:  # noqa: BLE001  # somebody's rule may raise anything
            self._fault = f"failed: {type(error).__name__}: {first_line(error)}"
            return None
        if found is not None and found not in allowed:
            self._fault = f"gave {short_repr(found)}, which is no accepted answer and not None"
            return None
        return None if found is None else str(found)


def text_rule(
    source: str,
    task: Task,
    samples: Iterable[Sample],
    accepted: Mapping[str, Sequence[str]],
) -> ByText:
    """The rule for texts of a name, or that a factory makes.

    Raises:
        InputError: the factory fails or gives something that cannot be called; or nothing accepts
            an answer for which others are to be accepted.
    """
    by_id = {sample.sample_id: sample for sample in samples}
    known = {text for one in by_id.values() for text in (*one.candidates, one.answer)}
    if unknown := [answer for answer in accepted if answer not in known]:
        raise InputError(
            f"no sample accepts the answer {short_repr(unknown[0])}, so that nothing can stand for "
            "it; give an answer as the needle set has it"
        )
    match: Callable[..., Any] | None = TEXT_RULES.get(source)
    if match is None:
        match = call_factory(source, {}, InputError)
    if not callable(match):
        raise InputError(
            f"{source} gave {short_repr(match)}; it must return a function that takes a text, the "
            "accepted answers, and the options or None, and gives the accepted answer or None"
        )
    return ByText(source, match, task, by_id, accepted)


def with_outcome(line: SampleResult, is_right: bool, *, was_argmax: bool) -> SampleResult:
    """A line with another outcome. What the argmax said, if it decided, is kept beside it."""
    by_argmax = line.correct if was_argmax and line.argmax_correct is None else line.argmax_correct
    return replace(line, correct=is_right, argmax_correct=by_argmax)


def as_error(line: SampleResult, error: str) -> SampleResult:
    """A line whose sample has no outcome by this rule."""
    return replace(line, correct=None, rank=None, argmax_correct=None, error=error)
