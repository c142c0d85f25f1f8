"""Who asks a model behind a server: several questions at once, each answer as it arrives.

Before the first question, a few prompts of different lengths show whether the server reads every
frame (`vniah.engines.prompt_tokens`); every answer is held against what they showed. A server that
drops frames is not measured.
"""

import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress
from typing import Any

import numpy as np

from vniah.engines.base import Outcome
from vniah.engines.prompt_tokens import Growth, Reading, before_end, short_lengths
from vniah.errors import CheckError, ModelError, RequestLimitError, first_line
from vniah.haystacks.haystack import Haystack
from vniah.models.server.client import ServerModel
from vniah.models.server.responses import Reply
from vniah.needles import Needle, NeedleSet
from vniah.scoring import score_words
from vniah.tasks.vniah import Question


@dataclass(frozen=True)
class Pictures:
    """All that is shown, encoded once and shared by all requests.

    Attributes:
        frames: the haystack's.
        needles: one for each needle, by its id.
    """

    frames: Sequence[str]
    needles: Mapping[str, str]

    @classmethod
    def of(
        cls,
        model: ServerModel,
        haystack: Haystack,
        needles: NeedleSet,
        num_frames: int,
        *,
        on_damage: Callable[[str], None] | None = None,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> "Pictures":
        """The first ``num_frames`` frames of a haystack, and a needle set."""
        frames = []
        for frame in haystack.frames(stop=num_frames, on_damage=on_damage):
            frames.append(model.encode_picture(frame.image))
            on_progress(len(frames), num_frames)
        return cls(frames, _encode_needles(model, needles))

    @classmethod
    def of_needles(cls, model: ServerModel, needles: NeedleSet, num_frames: int) -> "Pictures":
        """A needle set's own pictures, again and again, as a haystack."""
        encoded = _encode_needles(model, needles)
        own = list(encoded.values())
        return cls((own * -(-num_frames // len(own)))[:num_frames], encoded)

    def show(self, needle: Needle, needle_index: int, num_frames: int) -> list[str]:
        """The frames of a cell, in order."""
        picture = self.needles[needle.needle_id]
        return [*self.frames[:needle_index], picture, *self.frames[needle_index:num_frames]]


def _encode_needles(model: ServerModel, needles: NeedleSet) -> dict[str, str]:
    return {n.needle_id: model.encode_picture(np.array(n.image)) for n in needles}


@dataclass(frozen=True)
class Probe:
    """What a server was found to read.

    Attributes:
        words: its answer to the shortest prompt.
        growth: how the tokens of prompts grew; None if it does not say.
        refused: why it refused the longest prompts, by their number of frames.
    """

    words: str
    growth: Growth | None
    refused: Mapping[int, str] = field(default_factory=dict)

    def record(self) -> Mapping[str, Any]:
        """For the manifest."""
        if self.growth is None:
            return {"prompt_tokens": None}
        readings = sorted({*self.growth.short, *self.growth.end}, key=lambda r: r.num_frames)
        return {
            "prompt_tokens": {str(r.num_frames): r.prompt_tokens for r in readings},
            "tokens_per_frame": round(self.growth.tokens_per_frame, 2),
            **({"refused_frames": sorted(self.refused)} if self.refused else {}),
        }


def probe(
    model: ServerModel, pictures: Pictures, needles: NeedleSet, lengths: Sequence[int]
) -> Probe:
    """Asks one question at several lengths, and reads how many tokens each prompt had.

    The needle comes first and the question is the shortest, so that no other prompt has fewer
    tokens than by this question's bytes.

    Args:
        model: the server.
        pictures: at least as many frames as the longest.
        needles: one of them is shown.
        lengths: numbers of frames that will be measured.

    Raises:
        ModelError: it does not answer short prompts.
        ServerError: it is not to be asked at all.
    """
    needle = min(needles, key=lambda n: len(n.question.encode()))

    def ask(num_frames: int) -> Reply:
        return model.ask(pictures.show(needle, 0, num_frames), needle.question)

    first, second = short_lengths(lengths)
    try:
        replies = {num_frames: ask(num_frames) for num_frames in (first, second)}
    except ModelError as error:
        raise ModelError(f"nothing was measured: {first_line(error)}") from None
    words = replies[first].text
    if any(reply.prompt_tokens is None for reply in replies.values()):
        return Probe(words, growth=None)
    refused: dict[int, str] = {}
    for num_frames in sorted({n for n in lengths if n > second}, reverse=True):
        try:
            replies[num_frames] = ask(num_frames)
        except ModelError as error:  # most likely too long; the sweep will say so for every sample
            refused[num_frames] = first_line(error)
            continue
        break
    longest = max(replies)
    if longest > second and (before := before_end(longest, short=second)) not in replies:
        replies[before] = ask(before)
    readings = {n: Reading(n, reply.prompt_tokens or 0) for n, reply in replies.items()}
    end = (readings[before], readings[longest]) if longest > second else ()
    growth = Growth(
        (readings[first], readings[second]), end, slack_tokens=len(needle.question.encode())
    )
    return Probe(words, growth, refused)


class ServerAsker:
    """Asks many questions at once; all of them are one unit of `vniah.engines.base.Asker`.

    Args:
        model: the server.
        pictures: what is shown.
        needles: as they are asked.
    """

    def __init__(self, model: ServerModel, pictures: Pictures, needles: NeedleSet) -> None:
        self._model = model
        self._pictures = pictures
        self._needles = needles
        self._wanted: Sequence[Question] = ()
        self._lengths: Sequence[int] = ()
        self._growth: Growth | None = None

    def prepare(self, questions: Sequence[Question], is_wanted: Sequence[bool]) -> int:
        """As `vniah.engines.base.Asker.prepare`."""
        self._wanted = list(compress(questions, is_wanted))
        self._lengths = sorted({question.cell.num_frames for question in self._wanted})
        return 1

    def check(self) -> Probe:
        """Whether the server reads every frame; before `ask`.

        Raises:
            CheckError: it does not, or does not let one see it and has to.
            ModelError: it does not answer short prompts.
            ServerError: it is not to be asked at all.
        """
        found = probe(self._model, self._pictures, self._needles, self._lengths)
        if found.growth is None:
            if self._model.options.needs_usage:
                raise CheckError(f"{NO_USAGE}. Nothing was measured; add --allow-no-usage to go on")
        elif complaint := found.growth.complaint():
            raise CheckError(f"{complaint}. Nothing was measured")
        self._growth = found.growth
        return found

    def ask(self, unit: int) -> Iterator[tuple[Question, Outcome]]:
        """As `vniah.engines.base.Asker.ask`: answers as they arrive, in any order.

        What has arrived when it is stopped, by Ctrl-C or an error, is given before it ends; answers
        that are on their way are not waited for, unless it is the number of requests that ends it.
        """
        desk = _Desk(self._wanted)
        for _ in range(min(self._model.options.concurrency, len(self._wanted))):
            desk.hire(self._answer)
        try:
            yield from desk.arrivals()
        except KeyboardInterrupt:
            desk.stopped.set()
            yield from desk.arrived()
            raise
        finally:
            desk.stopped.set()

    def record(self) -> Mapping[str, Any]:
        """As `vniah.engines.base.Asker.record`."""
        return {"share": "none", **self._model.record()}

    def _answer(self, question: Question, stopped: threading.Event) -> Outcome:
        cell, needle = question.cell, question.needle
        shown = self._pictures.show(needle, cell.needle_index, cell.num_frames)
        try:
            reply = self._model.ask(shown, needle.question, stopped=stopped)
        except ModelError as error:
            return first_line(error)
        if self._growth is not None:
            if reply.prompt_tokens is None:
                return "this answer of the server's gives no usage.prompt_tokens"
            reading = Reading(cell.num_frames, reply.prompt_tokens)
            if complaint := self._growth.complaint_about(reading):
                raise CheckError(f"{complaint}. What was measured before is kept")
        return score_words(
            reply.text, needle, seconds=reply.seconds, prompt_tokens=reply.prompt_tokens
        )


NO_USAGE = (
    "the server gives no usage.prompt_tokens, so that nobody can say whether it reads every frame"
)

_Answer = Callable[[Question, threading.Event], Outcome]


class _Desk:
    """Hands questions out to threads, and takes their answers in.

    The threads are daemons: none of them keeps the process from ending at Ctrl-C.
    """

    def __init__(self, questions: Sequence[Question]) -> None:
        self.stopped = threading.Event()
        self._questions: queue.SimpleQueue[Question] = queue.SimpleQueue()
        for question in questions:
            self._questions.put(question)
        self._inbox: queue.SimpleQueue[tuple[Question, Outcome] | BaseException | None] = (
            queue.SimpleQueue()
        )
        self._num_threads = 0

    def hire(self, answer: _Answer) -> None:
        """One more thread."""
        self._num_threads += 1
        name = f"vniah-question-{self._num_threads}"
        threading.Thread(target=self._work, args=(answer,), name=name, daemon=True).start()

    def _work(self, answer: _Answer) -> None:
        ended: BaseException | None = None
        try:
            while not self.stopped.is_set():
                question = self._questions.get_nowait()
                self._inbox.put((question, answer(question, self.stopped)))
        except queue.Empty:
            pass
        except BaseException as error:  # noqa: BLE001  # raised again by the thread that waits
            ended = error
        self._inbox.put(ended)

    def arrivals(self) -> Iterator[tuple[Question, Outcome]]:
        """Every answer, then whatever ended a thread."""
        error: BaseException | None = None
        while self._num_threads:
            message = self._inbox.get()
            if isinstance(message, tuple):
                yield message
                continue
            self._num_threads -= 1
            error = error or message
            if error is not None and not isinstance(error, RequestLimitError):
                self.stopped.set()
                yield from self.arrived()
                break
        if error is not None:
            raise error

    def arrived(self) -> Iterator[tuple[Question, Outcome]]:
        """What is there already."""
        while True:
            try:
                message = self._inbox.get_nowait()
            except queue.Empty:
                return
            if isinstance(message, tuple):
                yield message
