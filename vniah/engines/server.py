"""The engine of models behind a server: it sends several samples at once.

Before the first sample, a few prompts of different lengths show whether the server reads every
frame (`vniah.engines.prompt_tokens`). Later the number of prompt tokens of every sample is compared
with theirs. A server that drops frames is not measured. Likewise of texts: what the server counts
is held against what is counted here (`vniah.engines.prompt_text`).
"""

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import compress
from pathlib import Path
from typing import Any

from vniah.engines.base import (
    GENERATED,
    CheckReport,
    OnFramesReady,
    Outcome,
    Pictures,
    repeat_pictures,
    shows_text,
    trial_sample,
    trial_text,
)
from vniah.engines.prompt_text import TextProbe, counted, probe_texts
from vniah.engines.prompt_tokens import Growth, TokenCount, before_end, short_lengths
from vniah.engines.workers import Workers
from vniah.errors import CheckError, InputError, ModelError, first_line
from vniah.haystacks.frames import AnyHaystack
from vniah.models.server.client import ServerModel
from vniah.models.server.responses import Reply
from vniah.needles import NeedleSet
from vniah.options import Decoding
from vniah.protocol import Frames, FrameSpan
from vniah.scoring import GeneratedText, Reading
from vniah.tasks.base import Sample

_LOG = logging.getLogger("vniah")

# Numbers of frames in a trial; many servers drop all frames after the first 32.
_TRIAL_LENGTHS = (4, 16, 40)
_TRIAL_TEXTS = 200  # needles, one after the other


@dataclass(frozen=True)
class Probe:
    """What the prompts of a trial showed of a server.

    Attributes:
        words: its answer to the shortest prompt.
        growth: how the number of prompt tokens grew; None if the server does not report it.
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
    model: ServerModel,
    pictures: Pictures[str],
    trial: Callable[[int], Sample],
    lengths: Sequence[int],
) -> Probe:
    """Asks one question at several lengths, and records how many tokens each prompt had.

    The question is the shortest of all. So a prompt of the same length with another question has
    fewer tokens by at most this question's bytes.

    Args:
        model: the server.
        pictures: at least as many frames as the largest length.
        trial: gives the sample that is asked with a number of frames, and one frame more.
        lengths: numbers of frames that will be measured.

    Raises:
        ModelError: the server does not answer short prompts.
        ServerError: the server answers no requests at all.
    """

    def ask(num_frames: int) -> Reply:
        sample = trial(num_frames)
        return model.ask(pictures.show(sample.shown), sample.question)

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
        except ModelError as error:  # most likely too long: every such sample will be an error
            refused[num_frames] = first_line(error)
            continue
        break
    longest = max(replies)
    if longest > second and (before := before_end(longest, short=second)) not in replies:
        replies[before] = ask(before)
    readings = {n: TokenCount(n, reply.prompt_tokens or 0) for n, reply in replies.items()}
    end = (readings[before], readings[longest]) if longest > second else ()
    growth = Growth(
        (readings[first], readings[second]), end, slack_tokens=len(trial(first).question.encode())
    )
    return Probe(words, growth, refused)


class ServerEngine:
    """Sends many samples at once; all of them are one batch.

    Args:
        model: the server.
    """

    criterion = GENERATED
    decoding: Decoding | None = None
    planned_flops: int | None = None

    def __init__(self, model: ServerModel) -> None:
        self._model = model
        self.notes: list[str] = []
        self._pictures: Pictures[str] | None = None
        self._needles: NeedleSet | None = None
        self._pending: Sequence[Sample] = ()
        self._growth: Growth | None = None
        self._texts: TextProbe | None = None
        self._num_answers = self._num_cut = 0
        self._counting = threading.Lock()

    def prepare(
        self,
        haystack: AnyHaystack,
        needles: NeedleSet,
        num_frames: int,
        *,
        shown: Iterable[FrameSpan] = (),
        cache: Path | None = None,
        on_progress: OnFramesReady | None = None,
    ) -> None:
        """As `vniah.engines.base.Engine.prepare`: encodes every picture as it is sent."""
        self._needles = needles
        self._pictures = Pictures.of(
            haystack,
            needles,
            num_frames,
            self._model.encode_picture,
            notes=self.notes,
            shown=shown,
            on_progress=on_progress,
        )

    def plan(self, samples: Sequence[Sample], is_pending: Sequence[bool]) -> int:
        """As `vniah.engines.base.Engine.plan`.

        Raises:
            InputError: an answer would be hidden as a part of the key, and so be taken for wrong.
        """
        self._pending = list(compress(samples, is_pending))
        answers = {text for s in self._pending for text in (*s.candidates, *(s.choices or ()))}
        if any(map(self._model.key_is_in, answers)):
            raise InputError(
                "an answer to the questions looks like a part of the server's key, and would be "
                "hidden in what the model says; use another key"
            )
        return 1

    def check(self) -> Mapping[str, Any]:
        """As `vniah.engines.base.Engine.check`: does the server read every frame, or all text?

        Raises:
            CheckError: it does not, or it does not report prompt tokens although it has to.
            ModelError: it does not answer short prompts.
            ServerError: it answers no requests at all.
        """
        tests = [sample for sample in self._pending if sample.control is None] or self._pending
        if any(sample.text is not None for sample in tests):
            return self._check_texts(tests)
        found = self._probe(sorted({_num_shown(sample) for sample in tests}))
        if found.growth is None:
            if self._model.options.needs_usage:
                raise CheckError(f"{NO_USAGE}. Nothing was measured; add --allow-no-usage to run")
            self.notes.append(NO_USAGE)
        elif complaint := found.growth.complaint():
            raise CheckError(f"{complaint}. Nothing was measured")
        self._growth = found.growth
        self.notes += self._model.notes()
        return found.record()

    def _check_texts(self, samples: Sequence[Sample]) -> Mapping[str, Any]:
        found = probe_texts(self._model, samples)
        if not found.prompts:
            if self._model.options.needs_usage:
                raise CheckError(
                    f"{NO_USAGE_OF_TEXT}. Nothing was measured; add --allow-no-usage to run"
                )
            self.notes.append(NO_USAGE_OF_TEXT)
        elif complaint := found.complaint():
            raise CheckError(f"{complaint}. Nothing was measured")
        self._texts = found
        self.notes += self._model.notes()
        return found.record()

    def run(self, batch: int) -> Iterator[tuple[Sample, Outcome]]:
        """As `vniah.engines.base.Engine.run`: outcomes as they arrive, in any order.

        When Ctrl-C or an error ends it, it first gives the outcomes that have arrived. It does not
        wait for requests that are on their way, unless the limit of requests is what ends it.
        """
        num_threads = min(self._model.options.concurrency, len(self._pending))
        workers = Workers(self._pending, self._answer, num_threads)
        try:
            yield from workers.outcomes()
        except KeyboardInterrupt:
            workers.stopped.set()
            yield from workers.arrived()
            raise
        finally:
            workers.stopped.set()
            self._warn_of_cut_answers()

    def _warn_of_cut_answers(self) -> None:
        if self._num_cut:
            _LOG.warning(
                f"{self._num_cut:,} of {self._num_answers:,} answers were cut off after "
                f"{self._model.options.max_tokens:,} tokens (finish_reason length) and scored as "
                "they are; raise --max-tokens if they should be longer"
            )

    def describe(self) -> Mapping[str, Any]:
        """As `vniah.engines.base.Engine.describe`."""
        return {"share": "none", **self._model.record()}

    def why_not_without_frames(self, sample: Sample) -> str | None:
        """As `vniah.engines.base.Engine.why_not_without_frames`: every server takes words alone."""
        return None

    def examine(
        self, needles: NeedleSet, *, cache: Path | None, on_prepared: Callable[[], None]
    ) -> CheckReport:
        """As `vniah.engines.base.Engine.examine`: one question at several lengths."""
        if shows_text(needles):
            on_prepared()
            return self._examine_texts(needles)
        self.prepare(repeat_pictures(needles), needles, max(_TRIAL_LENGTHS))
        on_prepared()
        found = self._probe(_TRIAL_LENGTHS)
        lines = [f"{self._model.name} answers in words, e.g. {found.words!r}"]
        lines += self._model.notes()
        lines += [f"refused at {n} frames: {why}" for n, why in sorted(found.refused.items())]
        if found.growth is None:
            return CheckReport((*lines, NO_USAGE), not self._model.options.needs_usage)
        counts = found.record()["prompt_tokens"].items()
        lines.append("prompt_tokens: " + ", ".join(f"{n:,} for {k} frames" for k, n in counts))
        complaint = found.growth.complaint()
        lines.append(
            complaint or f"every frame counts: {found.growth.tokens_per_frame:,.1f} tokens each"
        )
        return CheckReport(tuple(lines), complaint is None)

    def _examine_texts(self, needles: NeedleSet) -> CheckReport:
        sample = trial_text(needles, needles.needles[0], length=_TRIAL_TEXTS, index=0)
        found = probe_texts(self._model, [sample])
        lines = [f"{self._model.name} answers in words, e.g. {found.words!r}"]
        lines += self._model.notes()
        lines += [f"refused at {n:,} tokens: {why}" for n, why in sorted(found.refused.items())]
        if not found.prompts:
            return CheckReport((*lines, NO_USAGE_OF_TEXT), not self._model.options.needs_usage)
        complaint = found.complaint()
        lines.append(
            complaint
            or f"it counts what the tokenizer {found.tokenizer} does, and "
            f"{found.prompts[0].around:,} tokens more around every prompt"
        )
        return CheckReport(tuple(lines), complaint is None)

    def _probe(self, lengths: Sequence[int]) -> Probe:
        assert self._pictures is not None and self._needles is not None, "prepare comes first"
        trial = _trial_of(self._needles) if len(self._needles) else _shortened(self._pending)
        return probe(self._model, self._pictures, trial, lengths)

    def _answer(self, sample: Sample, stopped: threading.Event) -> Outcome:
        assert self._pictures is not None, "prepare comes first"
        shown = self._pictures.show(sample.shown)
        try:
            reply = self._model.ask(shown, sample.prompt, stopped=stopped)
        except ModelError as error:
            return first_line(error)
        with self._counting:
            self._num_answers += 1
            self._num_cut += reply.is_cut
        if self._texts is not None and self._texts.prompts:
            if reply.prompt_tokens is None:
                return _NO_USAGE_HERE
            if complaint := self._texts.complaint_about(counted(self._model, sample, reply)):
                raise CheckError(f"{complaint}. What was measured before is kept")
        if self._growth is not None:
            if reply.prompt_tokens is None:
                return _NO_USAGE_HERE
            reading = TokenCount(_num_shown(sample), reply.prompt_tokens)
            # Without frames there is none that the server could drop.
            if sample.shown and (complaint := self._growth.complaint_about(reading)):
                raise CheckError(f"{complaint}. What was measured before is kept")
        text = GeneratedText(reply.text)
        return (Reading(reply.seconds, generated=text, prompt_tokens=reply.prompt_tokens),)


def _trial_of(needles: NeedleSet) -> Callable[[int], Sample]:
    """Gives samples with the needle that has the shortest question, which is shown first."""
    needle = min(needles, key=lambda n: len(n.question.encode()))
    return lambda num_frames: trial_sample(needle, num_frames=num_frames, needle_index=0)


def _shortened(samples: Sequence[Sample]) -> Callable[[int], Sample]:
    """Gives the first frames of the longest sample, again and again, with the shortest question."""
    question = min((sample.question for sample in samples), key=lambda text: len(text.encode()))
    longest = max(samples, key=lambda sample: sample.num_shown)

    def trial(num_frames: int) -> Sample:
        times = num_frames // longest.num_shown + 1
        shown = Frames.of(longest.shown * times)[: num_frames + 1]
        return replace(longest, question=question, shown=shown.spans)

    return trial


def _num_shown(sample: Sample) -> int:
    """The number of pictures that a sample shows, less one, as `TokenCount` counts them."""
    return max(1, sample.num_shown - 1)


NO_USAGE = (
    "the server gives no usage.prompt_tokens, so that nobody can say whether it reads every frame"
)
NO_USAGE_OF_TEXT = (
    "the server gives no usage.prompt_tokens, so that nobody can say whether it reads the whole "
    "text, and whether the tokenizer is that of its model"
)
_NO_USAGE_HERE = "this answer of the server's gives no usage.prompt_tokens"
