"""The control ``other-needle``: the question about another needle than the one that is shown."""

import re
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace

from vniah.answers import choice_letters, find_option, match_answer
from vniah.answers.option_lines import find_option_lines
from vniah.errors import counted
from vniah.needles import Needle, NeedleSet
from vniah.protocol import blended_source, needle_source
from vniah.tasks.base import Sample
from vniah.tasks.controls.base import Finding, Row, listed, name_of
from vniah.tasks.controls.guessing import Asked, guessing_in_words, is_above_chance

_NUMBER = re.compile(r"[\d.,]+")
_LEAST_SHARE = 0.5


@dataclass(frozen=True)
class _Pair:
    """A question about another needle, and how the answer of the shown needle is named in it.

    Attributes:
        asked: the needle that is asked for.
        answers: what a model says that reads the shown needle all the same.
    """

    asked: Needle
    answers: tuple[str, ...]


class OtherNeedle:
    """Shows one needle, and asks the question of another, which is not shown.

    ``correct`` of its results says that the model answers with what *was* shown. A model that does
    so wherever it reads the needle looks for the odd frame, and does not use the question.
    """

    name = "other-needle"

    def samples(self, samples: Sequence[Sample], needles: NeedleSet) -> Iterator[Sample]:
        """As `vniah.tasks.controls.base.Control.samples`.

        Which other question is asked depends on the needle set alone, and on what else a sample
        shows. Samples whose question is not the needle's own have no such control.
        """
        partners = _Partners(needles)
        known = {needle.needle_id: needle for needle in needles}
        for sample in samples:
            needle = known.get(str(sample.fields.get("needle_id")))
            if needle is None or not _asks_for(sample, needle):
                continue
            pair = partners.find(needle, {span.source for span in sample.shown})
            if pair is not None:
                asked_id = pair.asked.needle_id
                yield replace(
                    sample,
                    sample_id=f"{sample.sample_id}/{asked_id}/{self.name}",
                    question=pair.asked.question,
                    candidates=pair.answers,
                    answer=pair.answers[0],
                    choices=pair.asked.choices,
                    control=self.name,
                    fields={**sample.fields, "asked_needle_id": asked_id},
                )

    def left_out(self, samples: Sequence[Sample], needles: NeedleSet) -> str | None:
        """As `vniah.tasks.controls.base.Control`: the needles for which there is no other one."""
        partners = _Partners(needles)
        known = {needle.needle_id: needle for needle in needles}
        names = dict.fromkeys(str(sample.fields.get("needle_id")) for sample in samples)
        asked = {
            sample.fields.get("needle_id")
            for sample in samples
            if (needle := known.get(str(sample.fields.get("needle_id")))) is not None
            and _asks_for(sample, needle)
        }
        if not asked:
            return "all samples: the task asks other questions than those of its needles"
        without = [name for name in names if name in asked and partners.find(known[name]) is None]
        if not without:
            return None
        they_show = "it shows" if len(without) == 1 else "they show"
        return f"{listed(without)}: no other question can be answered with what {they_show}"

    def finding(
        self, tests: Sequence[Row], own: Sequence[Row], others: Mapping[str, Sequence[Row]]
    ) -> Finding | None:
        """As `vniah.tasks.controls.base.Control.finding`.

        Counted are the places at which the model reads the shown needle when it is asked for it. It
        "reads what stands out, ignores the question" if it answers with what was shown for at least
        half of the needles, and for more than guessing explains.
        """
        reads = {row.sample_id for row in tests if row.correct}
        groups: dict[str, list[Row]] = {}
        for row in own:
            name = name_of(row)
            if row.correct is not None and _tested_id(row, name) in reads:
                groups.setdefault(str(row.fields.get("needle_id")), []).append(row)
        if not groups:
            return None
        asked = [Asked.of(rows) for rows in groups.values()]
        num_right = sum(one.is_right for one in asked)
        summary = (
            f"answers with what was shown, asked for another needle, for {num_right} of "
            f"{counted(len(asked), 'needle')} that it reads; {guessing_in_words(asked)}"
        )
        is_odd = num_right >= _LEAST_SHARE * len(asked) and is_above_chance(asked)
        return Finding(summary, "reads what stands out, ignores the question" if is_odd else None)


def _tested_id(row: Row, name: str) -> str:
    """The id of the sample of the test that shows the same frames."""
    return row.sample_id.removesuffix(f"/{row.control}").removesuffix(f"/{name.split('/')[-1]}")


def _asks_for(sample: Sample, needle: Needle) -> bool:
    return sample.question == needle.question and sample.candidates == needle.answers


class _Partners:
    """Finds other questions that the answer of a needle could be given to.

    Declared distractors come first; then, in the order of the set and from its end on from its
    beginning, needles with an answer of the same form (a number, words, or an option); then all
    other open questions.

    Args:
        needles: all needles with a question.
    """

    def __init__(self, needles: NeedleSet) -> None:
        self._known = {needle.needle_id: needle for needle in needles}
        self._ordered: dict[str, tuple[str, ...]] = {}
        self._answers: dict[tuple[str, str], tuple[str, ...]] = {}

    def find(self, needle: Needle, shown: Set[str] = frozenset()) -> _Pair | None:
        """The first pair whose other needle is not among the sources of what is shown."""
        needle_id = needle.needle_id
        if needle_id not in self._ordered:
            self._ordered[needle_id] = self._order(needle)
        for other_id in self._ordered[needle_id]:
            other, key = self._known[other_id], (needle_id, other_id)
            if not shown.isdisjoint(_sources_of(other)):
                continue
            if key not in self._answers:
                self._answers[key] = _answers_in(needle, other)
            if answers := self._answers[key]:
                return _Pair(other, answers)
        return None

    def _order(self, needle: Needle) -> tuple[str, ...]:
        ids = list(self._known)
        place = ids.index(needle.needle_id)
        following = [*ids[place + 1 :], *ids[:place]]
        declared = [name for name in needle.distractors if name in self._known]
        form = _form_of(needle)
        alike = [name for name in following if _form_of(self._known[name]) == form]
        return tuple(dict.fromkeys((*declared, *alike, *following)))


def _sources_of(needle: Needle) -> set[str]:
    blended = {blended_source(needle.needle_id, number) for number in range(needle.num_frames)}
    return {needle_source(needle.needle_id), *blended}


def _form_of(needle: Needle) -> str:
    if needle.choices is not None:
        return "option"
    return "number" if all(map(_NUMBER.fullmatch, needle.answers)) else "words"


def _answers_in(needle: Needle, other: Needle) -> tuple[str, ...]:
    """How the answer of a needle is named in the question of another one; none if it cannot be.

    Among options it has to be one of them, and in an open question there are no letters. It must
    not be right in both, and the questions must differ.
    """
    if needle.question == other.question:
        return ()
    if other.choices is None:
        if needle.choices is not None or _is_same(needle, other):
            return ()
        return needle.answers
    content = _content_of(needle)
    lines = find_option_lines(other.question)
    options = other.choices if lines is None else lines.words
    place = None if content is None else find_option(content, options)
    if place is None or place == find_option(other.answer, other.choices):
        return ()
    letters = choice_letters(other.choices)
    return (letters[place] if other.answer in letters else other.choices[place],)


def _content_of(needle: Needle) -> str | None:
    """The answer in words."""
    if needle.choices is None:
        return needle.answer
    lines, place = find_option_lines(needle.question), find_option(needle.answer, needle.choices)
    if place is None:
        return None
    return needle.choices[place] if lines is None else lines.words[place]


def _is_same(needle: Needle, other: Needle) -> bool:
    """Whether an answer of one needle is right for the other one."""
    pairs = ((needle.answers, other.answers), (other.answers, needle.answers))
    return any(match_answer(text, right) is not None for said, right in pairs for text in said)
