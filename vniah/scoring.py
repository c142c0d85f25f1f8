"""Scores the readings of an engine: is the argmax right at every position of the answer?

Each position is conditioned on the right tokens before it, so the argmax is right everywhere
exactly if greedy decoding would begin with this answer. Generated text, of a chat model or of
greedy decoding, is judged by the rules of `vniah.answers`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from vniah.answers import MatchRule, find_ambiguous, match_answer
from vniah.errors import ModelError, TaskError, quoted, short_repr

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor


@dataclass(frozen=True)
class LogitsScore:
    """The score of one candidate answer by its logits.

    Attributes:
        predicted_ids: the argmax token at every position of the answer.
        correct: whether all of them are the tokens of the answer.
        logprob: natural logarithm of the answer's probability, summed over its tokens.
        rank: the worst rank of an answer token; 1 is the argmax, a token that ties with it has 2.
        margin: smallest difference, in logits, between the right token and the best other one.
    """

    predicted_ids: tuple[int, ...]
    correct: bool
    logprob: float
    rank: int
    margin: float


@dataclass(frozen=True)
class GeneratedText:
    """What a model wrote after the question.

    Attributes:
        text: the text, without the stop token.
        token_ids: its tokens, with the stop token at the end if there is one; empty for chat
            models, whose tokens are unknown.
        rule: says which of the accepted answers it is; another one only where a run is judged anew
            (`vniah.sweep.rescoring`).
    """

    text: str
    token_ids: tuple[int, ...] = ()
    rule: MatchRule = match_answer


@dataclass(frozen=True)
class NeedleAttention:
    """How much attention the tokens of the question and of the answer pay to the needle.

    Attributes:
        mass: for each layer, head and row, the share of the row's attention on the tokens of the
            needle, in [0, 1], fp32 ``[layers, heads, rows]``; NaN in layers without attention. The
            rows are all tokens behind the last frame, or the last character of the text, but the
            last token of the answer.
        behind: the same on the tokens right behind the needle's pictures or sentences, which may
            hold a copy of them; not on one of the rows.
        num_answer_rows: how many of the rows predict the answer, at the end.
        num_needle_tokens: tokens of the needle.
        num_tokens_behind: tokens right behind the needle, one for each picture or sentence.
        num_tokens: tokens of the prompt.
    """

    mass: "NDArray[np.float32]"
    behind: "NDArray[np.float32]"
    num_answer_rows: int
    num_needle_tokens: int
    num_tokens_behind: int
    num_tokens: int


@dataclass(frozen=True)
class Reading:
    """What an engine found for one candidate answer of a sample.

    Attributes:
        seconds: wall-clock time of the reading.
        answer_ids: the candidate's tokens; empty for chat models.
        logits: the score by the logits; None for chat models.
        prediction: the text of the argmax tokens; None if the model cannot decode tokens.
        generated: what the model wrote, the same for all candidates of a sample; None where nothing
            was generated.
        prompt_tokens: number of prompt tokens as a server counted them; None for other models.
        is_approximate: whether the logits are not those of a forward pass over what is shown, but
            of one that shares haystack states among needles.
        attention: how much attention is paid to the needle; None where that was not traced, or no
            needle is shown.
    """

    seconds: float
    answer_ids: tuple[int, ...] = ()
    logits: LogitsScore | None = None
    prediction: str | None = None
    generated: GeneratedText | None = None
    prompt_tokens: int | None = None
    is_approximate: bool = False
    attention: NeedleAttention | None = None


@dataclass(frozen=True)
class Score:
    """The score of a sample; the fields are those of `vniah.results.SampleResult`.

    Attributes:
        measures: further numbers of the task's own by name, such as an error in seconds. They
            become columns of the results beside the sample's ``fields``.
        num_options: where the candidates were options, of which one is right, how many there were:
            a guess is right in one of as many. It is a column, too, unless the sample has it.
    """

    prediction: str | None
    predicted_ids: tuple[int, ...]
    correct: bool
    logprob: float | None
    rank: int | None
    margin: float | None
    seconds: float
    prompt_tokens: int | None = None
    variant: str | None = None
    argmax_correct: bool | None = None
    greedy_correct: bool | None = None
    measures: Mapping[str, Any] = field(default_factory=dict)
    num_options: int | None = None


def score_accepted(
    answers: Sequence[str], readings: Sequence[Reading], choices: Sequence[str] | None = None
) -> Score:
    """The score of a sample whose candidates are all accepted answers: is one of them right?

    Generated text is judged where there is any, else the argmax. Of several candidates the one with
    the highest log-probability counts, among the right ones if there are any.

    Args:
        answers: the accepted answers, the main one first.
        readings: one for each answer, in the same order; for a chat model one in all.
        choices: the options of a multiple-choice question.

    Raises:
        TaskError: the model wrote a text, and the rules of `vniah.answers` cannot tell the options
            apart.
    """
    first = readings[0]
    if first.logits is None:
        return _score_text(answers, first, choices)
    score = _best_by_logits(answers, readings)
    if first.generated is None:
        return score
    token_ids = first.generated.token_ids
    return replace(
        score,
        prediction=first.generated.text,
        predicted_ids=token_ids,
        correct=_match(first.generated, answers, choices) is not None,
        argmax_correct=score.correct,
        greedy_correct=any(
            token_ids[: len(reading.answer_ids)] == reading.answer_ids for reading in readings
        ),
    )


def score_options(
    options: Sequence[str],
    readings: Sequence[Reading],
    answer: str,
    *,
    choices: Sequence[str] | None = None,
) -> Score:
    """The score of a sample whose candidates are options: is the right one the most probable?

    The model chooses the option with the highest log-probability, the first of equal ones. Where it
    wrote a text, as chat models do, it chooses the option that the text names.

    Args:
        options: all candidates.
        readings: one for each option, in the same order; for a chat model one in all.
        answer: the right option.
        choices: where the options are letters, the words that they stand for, in the same order; a
            generated text may name either.

    Returns:
        ``logprob``, ``rank`` and ``margin`` are those of the right option: the rank among the
        options, and its log-probability minus that of the best other one.

    Raises:
        TaskError: the right option is not among them; the model reads two options as the same
            tokens, so that it cannot choose between them; or it wrote a text, and the rules of
            `vniah.answers` cannot tell the options apart.
    """
    if answer not in options:
        raise TaskError(f"the answer {answer!r} is not among the options {list(options)}")
    text = readings[0].generated
    named = options if choices is None else choices
    if readings[0].logits is None:
        by_text = _score_text([answer], readings[0], named)
        return replace(by_text, num_options=len(options))
    _require_different(options, readings)
    logprobs = [one.logits.logprob for one in readings if one.logits is not None]
    right = list(options).index(answer)
    chosen = max(range(len(options)), key=lambda number: logprobs[number])
    others = [logprob for number, logprob in enumerate(logprobs) if number != right]
    score = Score(
        prediction=options[chosen],
        predicted_ids=readings[chosen].answer_ids,
        correct=chosen == right,
        logprob=logprobs[right],
        rank=1 + sum(logprob > logprobs[right] for logprob in others),
        margin=logprobs[right] - max(others) if others else None,
        seconds=sum(one.seconds for one in readings),
        num_options=len(options),
    )
    if text is None:
        return score
    is_right = _match(text, [answer], named) is not None
    return replace(score, prediction=text.text, predicted_ids=text.token_ids, correct=is_right)


def _require_different(options: Sequence[str], readings: Sequence[Reading]) -> None:
    option_of: dict[object, str] = {}
    for option, reading in zip(options, readings, strict=True):
        other = option_of.setdefault((reading.answer_ids, reading.logits), option)
        if other != option:
            raise TaskError(
                f"the model reads the options {quoted(other, 60)} and {quoted(option, 60)} as the "
                "same tokens, so it cannot choose between them; word them in its vocabulary, or, "
                "where the task has it, ask for words: --task-option answers=words"
            )


def _score_text(answers: Sequence[str], reading: Reading, choices: Sequence[str] | None) -> Score:
    assert reading.generated is not None, "a reading has logits or text"
    matched = _match(reading.generated, answers, choices)
    return Score(
        prediction=reading.generated.text,
        predicted_ids=(),
        correct=matched is not None,
        logprob=None,
        rank=None,
        margin=None,
        seconds=reading.seconds,
        prompt_tokens=reading.prompt_tokens,
        variant=matched if len(answers) > 1 else None,
    )


def _match(
    said: GeneratedText, answers: Sequence[str], choices: Sequence[str] | None
) -> str | None:
    """What its rule says of a text; raises `TaskError` where none could name one of the options."""
    if choices is not None and (ambiguous := find_ambiguous(tuple(choices))):
        raise TaskError(
            f"the options {short_repr(list(choices))} cannot be told apart in generated text: "
            f"{quoted(ambiguous[0], 60)} may mean {quoted(ambiguous[1], 60)}; word one differently"
        )
    return said.rule(said.text, answers, choices)


def _best_by_logits(answers: Sequence[str], readings: Sequence[Reading]) -> Score:
    def strength(number: int) -> tuple[bool, float]:
        logits = readings[number].logits
        assert logits is not None, "all candidates of a sample are read in one way"
        return logits.correct, logits.logprob if math.isfinite(logits.logprob) else -math.inf

    best = max(range(len(readings)), key=strength)
    reading = readings[best]
    assert reading.logits is not None
    return Score(
        prediction=reading.prediction,
        predicted_ids=reading.logits.predicted_ids,
        correct=reading.logits.correct,
        logprob=reading.logits.logprob,
        rank=reading.logits.rank,
        margin=reading.logits.margin,
        seconds=sum(one.seconds for one in readings),
        variant=answers[best] if len(answers) > 1 else None,
    )


def score_logits(logits: "Tensor", answer_ids: Sequence[int]) -> LogitsScore:
    """Scores the rows of logits of an answer.

    Args:
        logits: ``[len(answer_ids), vocabulary]``.
        answer_ids: the tokens of the answer.

    Raises:
        ModelError: a logit is NaN or infinity, or a token is not in the vocabulary.
    """
    import torch  # the rest of this module, and all tasks, need no tensors

    logits = logits.detach().float().cpu()
    answer = torch.tensor(answer_ids)
    if int(answer.max()) >= logits.shape[1]:
        raise ModelError(
            f"the answer holds token {int(answer.max())}, the logits only {logits.shape[1]} tokens"
        )
    right = logits.gather(1, answer[:, None])
    # A model may mask tokens by minus infinity, but not the answer's.
    if not (torch.isfinite(right).all() and (logits < torch.inf).all()):
        raise ModelError("the model's logits hold NaN or infinity; try --dtype float32 or bfloat16")
    predicted = logits.argmax(-1)
    num_better = torch.where(predicted == answer, 0, (logits > right).sum(-1).clamp(min=1))
    others = logits.scatter(1, answer[:, None], -torch.inf)
    logprobs = right[:, 0] - logits.logsumexp(-1)
    return LogitsScore(
        predicted_ids=tuple(predicted.tolist()),
        correct=bool((predicted == answer).all()),
        logprob=float(logprobs.sum()),
        rank=int(num_better.max()) + 1,
        margin=float((right[:, 0] - others.max(-1).values).min()),
    )
