"""The control ``option-rotation``: the options of multiple choice in all rotated orders."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from vniah.answers.option_lines import find_option_lines, rotate_options
from vniah.errors import counted
from vniah.needles import NeedleSet
from vniah.results.chance import num_right_options
from vniah.results.debiased import complete_variants
from vniah.tasks.base import Sample
from vniah.tasks.controls.base import Finding, Row, listed
from vniah.tasks.controls.guessing import is_unlikely, tail_of

_ALWAYS = 0.9
_NONE = "no letter is preferred"


class OptionRotation:
    """Multiple-choice questions with their options moved on by 1, 2, ... places.

    A model that sees the needle follows the content of the right option. One that prefers a letter
    is right in one order of k. The mean over all orders, the test's own included, is the debiased
    accuracy (`vniah.results.Results.debiased`); guessing gives 1/k, and m/k where m options are
    right.
    """

    name = "option-rotation"

    def samples(self, samples: Sequence[Sample], needles: NeedleSet) -> Iterator[Sample]:
        """As `vniah.tasks.controls.base.Control.samples`."""
        for sample in samples:
            if sample.choices is None:
                continue
            num_options = len(sample.choices)
            for steps in range(1, num_options):
                rotated = rotate_options(
                    sample.question, sample.choices, sample.candidates, sample.answer, steps=steps
                )
                if rotated is None:
                    break
                yield replace(
                    sample,
                    sample_id=f"{sample.sample_id}/{steps}/{self.name}",
                    question=rotated.question,
                    candidates=rotated.candidates,
                    answer=rotated.answer,
                    choices=rotated.choices,
                    control=self.name,
                    fields={
                        **sample.fields,
                        "variant_of": sample.sample_id,
                        "num_variants": num_options,
                    },
                )

    def left_out(self, samples: Sequence[Sample], needles: NeedleSet) -> str | None:
        """As `vniah.tasks.controls.base.Control`: what asks for an option and does not list it."""
        without = dict.fromkeys(
            str(sample.fields.get("needle_id", sample.sample_id))
            for sample in samples
            if sample.choices is not None
            and rotate_options(
                sample.question, sample.choices, sample.candidates, sample.answer, steps=1
            )
            is None
        )
        if not without:
            return None
        return (
            f"{listed(list(without))}: their questions do not list the options on lines of their "
            "own, each behind its letter, such as 'A. red'"
        )

    def finding(
        self, tests: Sequence[Row], own: Sequence[Row], others: Mapping[str, Sequence[Row]]
    ) -> Finding | None:
        """As `vniah.tasks.controls.base.Control.finding`.

        In all orders of a question the right option stands behind every letter equally often. The
        model "always answers B" if it chooses one letter in so many orders that following the
        content, or guessing, explains it with a probability of at most 0.01, and in at least
        (1 + 1/k) / 2 of them, halfway between even and always; "mostly" if in less than nine of
        ten samples. Where that holds at some numbers of frames only, these are named.
        """
        # Samples with a score in all orders only; else one order would weigh more.
        rows = [row for group in complete_variants(tests, own) for row in group]
        orders = _read_orders(rows)
        if not orders:
            return None
        letter, share = _preferred(orders)
        num_right = sum(bool(row.correct) for row in rows)
        chance = sum(order.chance for order in orders) / len(orders)
        num_questions = len({row.question for row in rows if row.control is None})
        summary = (
            f"{num_right / len(rows):.2f} right over all orders of the options of "
            f"{counted(num_questions, 'question')}; guessing gives {chance:.2f}. "
            + (
                f"{letter} is chosen most often, in {_share_of(letter, rows):.0%} of the samples"
                if share
                else _NONE
            )
        )
        if not _is_unexplained(len(orders), orders):
            summary += ", and the orders are too few to tell"
        return Finding(summary, _verdict(rows))


@dataclass(frozen=True)
class _Order:
    """One order of the options of one question, over all of its samples.

    Attributes:
        letter: what is chosen in most of them; None if that is no option, or if none is where
            different letters are right.
        num_options: how many there are.
        num_right: how many of them are right.
    """

    letter: str | None
    num_options: int
    num_right: int

    @property
    def chance(self) -> float:
        """What guessing gives; and the share of orders in which a letter may be right."""
        return self.num_right / self.num_options


def _verdict(rows: Sequence[Row]) -> str | None:
    if found := _constant_letter(rows):
        return found
    by_length: dict[int | None, list[Row]] = {}
    for row in rows:
        by_length.setdefault(row.num_frames, []).append(row)
    lengths: dict[str, list[str]] = {}
    for num_frames, some in by_length.items():
        found = _constant_letter(some, num_tests=len(by_length))
        if found is not None:
            lengths.setdefault(found, []).append(f"{num_frames:,}")
    parts = [
        f"{found} at the length{'s' * (len(names) > 1)} {listed(names)}"
        for found, names in lengths.items()
    ]
    return "; ".join(parts) or None


def _constant_letter(rows: Sequence[Row], *, num_tests: int = 1) -> str | None:
    """That one letter is chosen in spite of the content; None if that cannot be said."""
    orders = _read_orders(rows)
    letter, share = _preferred(orders)
    num_chosen = sum(order.letter == letter for order in orders)
    is_clear = share >= (1 + max(order.chance for order in orders)) / 2
    if not is_clear or not _is_unexplained(num_chosen, orders, num_tests=num_tests):
        return None
    return f"{'always' if _share_of(letter, rows) >= _ALWAYS else 'mostly'} answers {letter}"


def _is_unexplained(num_chosen: int, orders: Sequence[_Order], *, num_tests: int = 1) -> bool:
    """Whether neither content nor guesses explain one letter in so many of the orders."""
    chances = [order.chance for order in orders]
    num_letters = max(order.num_options for order in orders)
    return is_unlikely(num_letters * tail_of(num_chosen, chances), num_tests=num_tests)


def _share_of(letter: str, rows: Sequence[Row]) -> float:
    return sum(_chosen_letter(row) == letter for row in rows) / len(rows)


def _preferred(orders: Sequence[_Order]) -> tuple[str, float]:
    """The letter that is chosen most often, and in which share of the orders."""
    chosen = Counter(order.letter for order in orders if order.letter is not None)
    letter, count = chosen.most_common(1)[0] if chosen else ("no letter", 0)
    return letter, count / len(orders)


def _read_orders(rows: Sequence[Row]) -> list[_Order]:
    """The orders in which questions were asked, each with the letter that was chosen."""
    chosen: dict[str, Counter[str | None]] = {}
    answers: dict[str, set[str]] = {}
    num_right: dict[str, int] = {}
    for row in rows:
        num_right[row.question] = num_right_options(row.fields)
        chosen.setdefault(row.question, Counter())[_chosen_letter(row)] += 1
        answers.setdefault(row.question, set()).add(row.answer)
    orders = []
    for question, letters in chosen.items():
        lines = find_option_lines(question)
        if lines is not None:
            letter, count = letters.most_common(1)[0]
            if len(answers[question]) > 1 and 2 * count <= letters.total():
                letter = None  # different letters are right, and the model gives different ones
            orders.append(_Order(letter, len(lines.words), num_right[question]))
    return orders


def _chosen_letter(row: Row) -> str | None:
    """The letter of the option that the model named; None if it named none."""
    lines = find_option_lines(row.question)
    text = row.answer if row.correct else row.prediction
    return None if lines is None or text is None else lines.chosen(text)
