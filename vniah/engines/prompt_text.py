"""Checks by the number of prompt tokens whether a server reads the whole text that it is sent.

The length of a text is what its tokenizer counts (`vniah.models.tokenizers`). The server counts the
same tokens and those that its chat template puts around every prompt, which are equally many each
time. So the difference of both counts is the same for a short and for a long prompt, unless the
tokenizer is not that of the model, or the server cuts what is too long for it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vniah.errors import ModelError, first_line
from vniah.models.server.client import ServerModel
from vniah.models.server.responses import Reply
from vniah.tasks.base import Sample

_MOST_AROUND = 2_000  # tokens of a chat template and of a system prompt
_SLACK = 8  # tokens that may merge where the template and the prompt meet


@dataclass(frozen=True)
class CountedPrompt:
    """The tokens of one prompt.

    Attributes:
        counted: by the tokenizer.
        reported: by the server, as its ``usage.prompt_tokens``.
    """

    counted: int
    reported: int

    @property
    def around(self) -> int:
        """Those that the server counts besides."""
        return self.reported - self.counted


@dataclass(frozen=True)
class TextProbe:
    """What the prompts of a trial showed of a server that reads text.

    Attributes:
        words: its answer to the shortest prompt.
        tokenizer: the name of the tokenizer that counts.
        prompts: the shortest prompt and the longest that was accepted; empty if the server does
            not report tokens.
        refused: why it refused the longest prompts, by their number of tokens.
    """

    words: str
    tokenizer: str
    prompts: tuple[CountedPrompt, ...] = ()
    refused: Mapping[int, str] = field(default_factory=dict)

    def record(self) -> Mapping[str, Any]:
        """For the manifest."""
        if not self.prompts:
            return {"prompt_tokens": None}
        return {
            "prompt_tokens": {str(prompt.counted): prompt.reported for prompt in self.prompts},
            "tokens_around_prompt": self.prompts[0].around,
            **({"refused_tokens": sorted(self.refused)} if self.refused else {}),
        }

    def complaint(self) -> str | None:
        """What is wrong, in one sentence; None where the server reads what was counted."""
        return next(filter(None, map(self.complaint_about, self.prompts)), None)

    def complaint_about(self, prompt: CountedPrompt) -> str | None:
        """What is wrong with one prompt; None where nothing is, or the server reports no tokens."""
        if not self.prompts:
            return None
        expected = self.prompts[0]
        is_template = -_SLACK <= expected.around <= _MOST_AROUND
        if is_template and abs(prompt.around - expected.around) <= _SLACK:
            return None
        return (
            f"prompt_tokens is {prompt.reported:,} where the tokenizer {self.tokenizer} counts "
            f"{prompt.counted:,}, and {expected.reported:,} where it counts {expected.counted:,}: "
            "the server cuts texts, or its model has another tokenizer; give that of the model by "
            "--tokenizer"
        )


def probe_texts(model: ServerModel, samples: Sequence[Sample]) -> TextProbe:
    """Asks the question of a sample without its text, and then the longest of the samples.

    Args:
        model: the server; it has a tokenizer.
        samples: at least one, each with a text.

    Raises:
        ModelError: the server does not answer the shortest prompt.
        ServerError: the server answers no requests at all.
    """
    count = counter_of(model)
    shortest = min((sample.question for sample in samples), key=len)
    try:
        reply = model.ask([], shortest)
    except ModelError as error:
        raise ModelError(f"nothing was measured: {first_line(error)}") from None
    found = TextProbe(reply.text, model.tokenizer_name)
    if reply.prompt_tokens is None:
        return found
    prompts = [CountedPrompt(count(shortest), reply.prompt_tokens)]
    refused: dict[int, str] = {}
    by_length = {count(sample.prompt): sample.prompt for sample in samples}
    for length in sorted(by_length, reverse=True):
        try:
            longest = model.ask([], by_length[length])
        except ModelError as error:  # most likely too long: every such sample will be an error
            refused[length] = first_line(error)
            continue
        prompts.append(CountedPrompt(length, longest.prompt_tokens or 0))
        break
    return TextProbe(reply.text, model.tokenizer_name, tuple(prompts), refused)


def counter_of(model: ServerModel) -> Callable[[str], int]:
    """Gives the number of tokens of a prompt."""
    return lambda text: len(model.token_ends(text))


def counted(model: ServerModel, sample: Sample, reply: Reply) -> CountedPrompt:
    """The tokens of a sample's prompt, of which the server reported its own."""
    return CountedPrompt(counter_of(model)(sample.prompt), reply.prompt_tokens or 0)
