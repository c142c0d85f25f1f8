"""Whether what a model wrote could be read as answers at all."""

from collections.abc import Collection, Sequence

from vniah.answers import has_fixed_form, is_readable, normalize
from vniah.errors import quoted
from vniah.results import Results, SampleResult
from vniah.tasks.base import Sample

_FEWEST_REPLIES = 10
_LEAST_SHARE = 0.1
_SHOWN_CHARACTERS = 80
_LEAST_HOLDING = 0.5
_MOST_CHARACTERS = 20_000
_COMMON_WORDS = ("", "a", "i")


def warn_of_unreadable(samples: Sequence[Sample], results: Results) -> str | None:
    """A warning if hardly any reply has the form of an answer; None if enough have.

    A score of 0 then says how the model writes, not what it sees: its replies are sentences, or
    reasoning that was cut off, or in a wrapper that is not known. At least ten replies are needed
    for a warning, and it is given where less than a tenth of them can be read. Where at least ten
    are to questions for options or numbers, only these are judged: any word could be an answer to
    the others. If there are not, it is given as well where all replies are one text that is right
    nowhere. Right answers among other words are named before all of this, where these are half of
    the replies.

    Args:
        samples: all samples of the run; they hold the accepted answers and the choices.
        results: the run, whose predictions are generated texts. Controls do not count.
    """
    by_id = {sample.sample_id: sample for sample in samples}
    replies = [
        (result.prediction, by_id[result.sample_id], bool(result.correct))
        for result in results.samples
        if result.prediction is not None and result.sample_id in by_id
    ]
    if len(replies) < _FEWEST_REPLIES:
        return None
    if (words_around := _warn_of_words_around(results)) is not None:
        return words_around
    fixed = [one for one in replies if has_fixed_form(one[1].candidates, one[1].choices)]
    judged = fixed if len(fixed) >= _FEWEST_REPLIES else replies
    num_read, unread = 0, dict[str, None]()
    for text, sample, is_right in judged:
        if is_right or is_readable(text, sample.candidates, sample.choices):
            num_read += 1
        else:
            unread[text] = None
        if num_read >= _LEAST_SHARE * len(judged):
            if len(fixed) >= _FEWEST_REPLIES:
                return None
            return _one_wrong_text(results, {one.answer for _, one, _ in replies})
    examples = " and ".join(quoted(text, _SHOWN_CHARACTERS) for text in list(unread)[:2])
    of_form = "to questions for options or numbers " if len(judged) < len(replies) else ""
    return (
        f"only {num_read} of {len(judged)} replies {of_form}could be read as an answer, right or "
        f"wrong, so the score says little about what the model sees; it wrote {examples}. Let the "
        "questions ask for a single word, leave more tokens for reasoning, or add the form to the "
        "accepted answers"
    )


def _one_wrong_text(results: Results, answers: Collection[str]) -> str | None:
    """A warning if all replies are one text, and right nowhere, though several answers are."""
    replies = [result for result in results.samples if result.prediction is not None]
    texts = {result.prediction for result in replies}
    if len(texts) > 1 or len(answers) < 2 or any(result.correct for result in replies):
        return None
    return (
        f"all {len(replies)} replies are {quoted(str(texts.pop()), _SHOWN_CHARACTERS)}, which is "
        "right nowhere, so the score says little about what the model sees: look whether it was "
        "asked as intended, and whether its answers were taken over"
    )


def _warn_of_words_around(results: Results) -> str | None:
    """A warning if at least ten replies, and half of all, hold the right answer but are wrong.

    They may say "I see 7" as well as "not 7", so none of them is right; but the score then says as
    much about the words around the answers as about what the model sees.
    """
    replies = [result for result in results.samples if result.prediction is not None]
    holding = [result for result in replies if not result.correct and _holds_answer(result)]
    if len(holding) < max(_FEWEST_REPLIES, _LEAST_HOLDING * len(replies)):
        return None
    texts = dict.fromkeys(str(result.prediction) for result in holding)
    examples = " and ".join(quoted(text, _SHOWN_CHARACTERS) for text in list(texts)[:2])
    return (
        f"{len(holding)} of {len(replies)} replies hold the right answer among other words, and "
        f"are wrong because all of a reply must be the answer; it wrote {examples}. Let the "
        "questions ask for a single word, or add the form to the accepted answers"
    )


def _holds_answer(result: SampleResult) -> bool:
    answer = normalize(result.answer)
    text = (result.prediction or "")[:_MOST_CHARACTERS]
    return answer not in _COMMON_WORDS and f" {answer} " in f" {normalize(text)} "
