"""Rules for models that read text: do they count the tokens of the prompts that they compose?

Contexts are measured in `token_ends`, and `compose_text` is what is run. Where the two disagree,
every length on the map is wrong, and nothing fails.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from vniah.checks.findings import Examination, Finding
from vniah.errors import InputError
from vniah.needles import NeedleSet
from vniah.protocol import LanguageModel, TokenSequence

_NUM_TEXTS = 4


@dataclass(frozen=True)
class TextTrial:
    """A model, and prompts to try it on.

    Attributes:
        model: the model.
        prompts: each begins with the one before.
        answers: two answers of any prompt.
    """

    model: LanguageModel
    prompts: tuple[str, ...]
    answers: tuple[str, str]

    @classmethod
    def of(cls, model: LanguageModel, needles: NeedleSet) -> "TextTrial":
        """Prompts from the texts of a needle set.

        Raises:
            InputError: its needles are pictures.
        """
        texts = [needle.text for needle in needles]
        if None in texts:
            raise InputError(
                f"{model.name} reads text, and the needles of {needles.name} are pictures; give "
                "--needles numbers"
            )
        one = "".join(map(str, texts))
        first = needles.needles[0]
        prompts = tuple(one * count + first.question for count in range(1, _NUM_TEXTS))
        # Another answer, of which a tokenizer knows all that it knows of the first.
        return cls(model, prompts, (first.answer, first.answer * 2))

    def compose(self, prompt: str, answer: str) -> TokenSequence:
        """What the model composes.

        Raises:
            InputError: it is no token sequence.
        """
        found: object = self.model.compose_text(prompt, answer)
        if not isinstance(found, TokenSequence):
            raise InputError(
                f"compose_text of {self.model.name} gave {type(found).__name__}, not a "
                "TokenSequence"
            )
        return found


def examine_texts(examination: Examination, trial: TextTrial) -> None:
    """Applies all rules for models that read text."""
    if examination.apply(trial, _counts_what_it_composes):
        examination.apply(trial, _ends_lie_in_the_text, _prompt_does_not_depend_on_the_answer)


def _counts_what_it_composes(trial: TextTrial) -> Iterator[Finding]:
    for prompt in trial.prompts:
        sequence = trial.compose(prompt, trial.answers[0])
        num_composed = sequence.num_tokens(0) - len(sequence.answer_ids) + 1
        num_counted = len(trial.model.token_ends(prompt))
        if num_composed != num_counted:
            yield Finding(
                f"compose_text gives a prompt of {len(prompt):,} characters {num_composed:,} "
                f"tokens, and token_ends counts {num_counted:,}; lengths would be wrong"
            )
            return


def _ends_lie_in_the_text(trial: TextTrial) -> Iterator[Finding]:
    prompt = trial.prompts[-1]
    ends = list(trial.model.token_ends(prompt))
    is_ascending = all(before <= after for before, after in pairwise(ends))
    if not is_ascending or not ends or ends[-1] != len(prompt):
        yield Finding(
            "token_ends must ascend and end with the number of characters, "
            f"{len(prompt):,}, got {ends[-3:]} at its end"
        )


def _prompt_does_not_depend_on_the_answer(trial: TextTrial) -> Iterator[Finding]:
    one, other = (trial.compose(trial.prompts[0], answer) for answer in trial.answers)
    if not one.has_prompt_of(other):
        yield Finding("compose_text gives another prompt when the answer is another one")
