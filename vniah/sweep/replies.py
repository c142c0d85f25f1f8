"""Whether what a model wrote could be read as answers at all."""

from collections.abc import Sequence

from vniah.answers import is_readable
from vniah.errors import quoted
from vniah.results import Results
from vniah.tasks.base import Sample

_FEWEST_REPLIES = 10
_LEAST_SHARE = 0.1
_SHOWN_CHARACTERS = 80


def warn_of_unreadable(samples: Sequence[Sample], results: Results) -> str | None:
    """A warning if hardly any reply has the form of an answer; None if enough have.

    A score of 0 then says how the model writes, not what it sees: its replies are sentences, or
    reasoning that was cut off, or in a wrapper that is not known. At least ten replies are needed
    for a warning, and it is given where less than a tenth of them can be read.

    Args:
        samples: all samples of the run; they hold the accepted answers and the choices.
        results: the run, whose predictions are generated texts. Controls do not count.
    """
    by_id = {sample.sample_id: sample for sample in samples}
    replies = [
        (result.prediction, by_id[result.sample_id])
        for result in results.samples
        if result.prediction is not None and result.sample_id in by_id
    ]
    if len(replies) < _FEWEST_REPLIES:
        return None
    num_read, unread = 0, dict[str, None]()
    for text, sample in replies:
        if is_readable(text, sample.candidates, sample.choices):
            num_read += 1
        else:
            unread[text] = None
        if num_read >= _LEAST_SHARE * len(replies):
            return None
    examples = " and ".join(quoted(text, _SHOWN_CHARACTERS) for text in list(unread)[:2])
    return (
        f"only {num_read} of {len(replies)} replies could be read as an answer, right or wrong, so "
        f"the score says little about what the model sees; it wrote {examples}. Let the questions "
        "ask for a single word, leave more tokens for reasoning, or add the form to the accepted "
        "answers"
    )
