"""Plain text as a decoder reads it: without a chat template, tokenized as a whole.

So its tokens are those that the tokenizer gives for it, whatever pieces the text was made of.
"""

from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Any

from vniah.errors import ModelError
from vniah.models.vocabulary import require_counting, token_ends
from vniah.protocol import TextSegment, TokenSequence

# Prompts share whole segments. So a pass reads up to so many tokens less one more than it must.
_SEGMENT_TOKENS = 32
_NUM_SEGMENTS = 1 << 16  # segments of which there is one object each
_TAIL = 256  # characters of a prompt with which an answer is tokenized


class PlainText:
    """Prompts of plain text, by a tokenizer.

    Args:
        tokenizer: of transformers.
        name: of its model, for messages.
        frame_token: the token that stands for a frame, which no text may hold.

    Raises:
        ModelError: the tokenizer does not say where the tokens of a whole prompt end.
    """

    def __init__(self, tokenizer: Any, name: str, *, frame_token: str | None = None) -> None:
        require_counting(tokenizer, name)
        self._tokenizer = tokenizer
        self._name = name
        self._frame_token = frame_token
        self._frame_id = frame_token and tokenizer.convert_tokens_to_ids(frame_token)
        self._segment = lru_cache(maxsize=_NUM_SEGMENTS)(TextSegment)

    def compose(self, text: str, answer: str) -> TokenSequence:
        """As `vniah.protocol.LanguageModel.compose_text`.

        White space stands between the prompt and the answer. What the tokenizer would merge there
        is not merged, since a prompt does not depend on its answer.

        Raises:
            ModelError: the text holds the token of a frame, or the answer holds something that the
                tokenizer has no tokens for.
        """
        ids = self._read(text)["input_ids"]
        if self._frame_id is not None and self._frame_id in ids:
            raise ModelError(
                f"the text holds {self._frame_token!r}, which stands for a frame in the prompts of "
                f"{self._name}; give a text without it"
            )
        segments = tuple(
            self._segment(tuple(ids[start : start + _SEGMENT_TOKENS]))
            for start in range(0, len(ids), _SEGMENT_TOKENS)
        )
        answer_ids = self._answer(text, answer)
        unknown = self._tokenizer.unk_token_id
        if unknown is not None and unknown in answer_ids:
            # Any other answer with such a part would have the same tokens, and be right as well.
            raise ModelError(
                f"the tokenizer of {self._name} has no tokens for all of the answer {answer!r}: it "
                f"reads a part of it as {self._tokenizer.unk_token}; give other needles"
            )
        return TokenSequence(segments, answer_ids)

    def token_ends(self, text: str) -> Sequence[int]:
        """As `vniah.protocol.LanguageModel.token_ends`."""
        return token_ends(self._tokenizer, text)

    def _read(self, text: str, **options: Any) -> Any:
        """The tokens of a whole prompt, with those that the tokenizer puts before every one."""
        # "verbose" warns of texts longer than the model was trained on; here they are measured.
        return self._tokenizer(text, verbose=False, **options)

    def _answer(self, text: str, answer: str) -> tuple[int, ...]:
        tail = text[-_TAIL:]
        lead = "" if tail[-1:].isspace() else " "
        prompt = self._read(tail, add_special_tokens=False)["input_ids"]
        whole = self._read(tail + lead + answer, add_special_tokens=False)["input_ids"]
        if len(whole) > len(prompt) and whole[: len(prompt)] == prompt:
            return tuple(whole[len(prompt) :])
        return tuple(self._read(lead + answer, add_special_tokens=False)["input_ids"])


class ReadsText:
    """A model whose decoder also reads plain text: `vniah.protocol.LanguageModel`.

    A vision-language model with it is measured on tasks of text as the language model that it is.
    Its tokenizer is examined when the first text is read.
    """

    name: str
    _tokenizer: Any
    _frame_token: str | None = None

    @cached_property
    def _plain_text(self) -> PlainText:
        return PlainText(self._tokenizer, self.name, frame_token=self._frame_token)

    def compose_text(self, text: str, answer: str) -> TokenSequence:
        """As `vniah.protocol.LanguageModel.compose_text`."""
        return self._plain_text.compose(text, answer)

    def token_ends(self, text: str) -> Sequence[int]:
        """As `vniah.protocol.LanguageModel.token_ends`."""
        return self._plain_text.token_ends(text)
