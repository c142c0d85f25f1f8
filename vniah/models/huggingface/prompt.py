"""The prompt of a chat template, cut where the frames stand.

What the model reads is the template's text with a row of placeholder tokens for every frame. It is
tokenised as a whole, with one placeholder for each frame, and cut there: a placeholder is a special
token, on whose two sides a tokenizer works alike whether one or many of it follow one another. So
the pieces are the very tokens that the family's own processor gives.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import groupby
from typing import Any

from vniah.errors import ModelError
from vniah.models.huggingface.templates import render
from vniah.protocol import Frames, FrameSpan, TextSegment

Pieces = tuple[tuple[int, ...], ...]

_PROBE = "?"
_NUM_LENGTHS = 64  # numbers of frames whose text is kept
_NUM_ENDS = 65536  # ends of a prompt that are kept
_NUM_TEXTS = 65536  # texts between frames of which there is one object each


class Prompt:
    """What stands before, between and after the frames, and how the answer begins.

    Without frames, all of the prompt is the text after the frames.

    Args:
        tokenizer: of transformers.
        template: the chat template, in Jinja.
        content: called with a number of frames, gives the entries of the user's message that stand
            for them, e.g. ``[{"type": "video"}]``.
        expand: called with the template's text and the numbers of some frames, gives the text
            with one ``placeholder`` for each of them and all that the family writes around them.
        placeholder: the token that stands for a row of a frame.
    """

    def __init__(
        self,
        tokenizer: Any,
        template: str,
        *,
        content: Callable[[int], Sequence[Mapping[str, str]]],
        expand: Callable[[str, range], str],
        placeholder: str,
    ) -> None:
        self._tokenizer = tokenizer
        self._template = template
        self._content = content
        self._expand = expand
        self._placeholder = placeholder
        self._placeholder_id = _special_id(tokenizer, placeholder)
        self._text = lru_cache(maxsize=_NUM_TEXTS)(TextSegment)
        self._before = lru_cache(maxsize=_NUM_LENGTHS)(self._find_before)
        self._runs = lru_cache(maxsize=_NUM_LENGTHS)(self._find_runs)
        self._after = lru_cache(maxsize=_NUM_ENDS)(self._find_after)

    def before(self, num_frames: int) -> tuple[TextSegment, ...]:
        """The text before each of so many frames, which may be empty.

        Equal texts are one object, whatever the number of frames: a sweep compares millions.
        """
        return self._before(num_frames)

    def put_before(self, frames: Frames) -> Iterator[TextSegment | FrameSpan]:
        """The frames with the text before each of them; where it is the same again, in spans."""
        for text, start, stop in self._runs(len(frames)):
            for span in frames[start:stop].spans:
                if span.num_frames == 1 and text.token_ids:
                    yield text
                elif text.token_ids:
                    span = replace(span, before=text.token_ids)
                yield span

    def after(self, num_frames: int, question: str) -> TextSegment:
        """The text after the last frame: question and closing, up to where the answer begins."""
        return self._text(self._after(num_frames, question, None))

    def answer(self, num_frames: int, question: str, answer: str) -> tuple[int, ...]:
        """The tokens of the answer, as they follow the prompt.

        Where the template puts white space before what the assistant says (``Assistant: Yes``) and
        ends the prompt without it, the answer begins with it.
        """
        prompt = self._after(num_frames, question, None)
        whole = self._after(num_frames, question, answer)
        if len(whole) > len(prompt) and whole[: len(prompt)] == prompt:
            return whole[len(prompt) :]
        return tuple(self._tokenizer.encode(answer, add_special_tokens=False))

    def _find_before(self, num_frames: int) -> tuple[TextSegment, ...]:
        pieces = self._cut(self._render(num_frames, _PROBE), range(num_frames))
        if pieces[-1] != self._after(num_frames, _PROBE, None):
            raise ModelError(
                "the chat template writes another text after the frames when there are "
                f"{num_frames} of them; such a model plugs in as package.module:factory"
            )
        return tuple(map(self._text, pieces[:-1]))

    def _find_runs(self, num_frames: int) -> tuple[tuple[TextSegment, int, int], ...]:
        """The texts before frames: each stands before the frames ``start`` to ``stop - 1``."""
        runs = []
        stop = 0
        for text, equal in groupby(self.before(num_frames)):
            start, stop = stop, stop + sum(1 for _ in equal)
            runs.append((text, start, stop))
        return tuple(runs)

    def _find_after(self, num_frames: int, question: str, answer: str | None) -> tuple[int, ...]:
        """By a prompt of the last frame alone, which has the number that it has among all."""
        last = range(max(0, num_frames - 1), num_frames)
        text = self._render(len(last), question)
        if answer is not None:
            text += self._lead(len(last), question, text) + answer
        return self._cut(text, last)[-1]

    def _lead(self, num_frames: int, question: str, prompt: str) -> str:
        """White space that the template puts between the prompt's end and an answer."""
        said = "0"
        reply = {"role": "assistant", "content": [{"type": "text", "text": said}]}
        try:
            whole = self._render(num_frames, question, reply)
        except ModelError:
            return ""  # a template that takes no list of contents from an assistant
        lead = whole.removeprefix(prompt).partition(said)[0]
        return lead if whole.startswith(prompt) and not lead.strip() else ""

    def _render(
        self, num_frames: int, question: str, reply: Mapping[str, Any] | None = None
    ) -> str:
        shown = self._content(num_frames) if num_frames else ()
        content = [*shown, {"type": "text", "text": question}]
        chat: list[Mapping[str, Any]] = [{"role": "user", "content": content}]
        if reply is not None:
            chat.append(reply)
        return render(self._tokenizer, self._template, chat, asks=reply is None)

    def _cut(self, text: str, frames: range) -> Pieces:
        """The tokens of the template's text with some frames, cut at their placeholders."""
        if frames:
            text = self._expand(text, frames)
        bos = self._tokenizer.bos_token
        begins = bos is not None and text.startswith(bos)
        ids = self._tokenizer(text, add_special_tokens=not begins)["input_ids"]
        pieces: list[tuple[int, ...]] = []
        start = 0
        for at, token in enumerate(ids):
            if token == self._placeholder_id:
                pieces.append(tuple(ids[start:at]))
                start = at + 1
        pieces.append(tuple(ids[start:]))
        if len(pieces) != len(frames) + 1:
            raise ModelError(
                f"the prompt holds {len(pieces) - 1} places for {len(frames)} frames: neither the "
                f"chat template nor a question may add a {self._placeholder!r}"
            )
        return tuple(pieces)


def _special_id(tokenizer: Any, token: str) -> int:
    ids = tokenizer.encode(token, add_special_tokens=False)
    if len(ids) != 1 or ids[0] == tokenizer.unk_token_id:
        raise ModelError(
            f"the tokenizer has no token {token!r}, by which this family marks its frames"
        )
    return int(ids[0])
