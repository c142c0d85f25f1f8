"""Engines that run samples one by one, for models with their own forward pass and chat models."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vniah.embeddings.encode import EncodedFrames
from vniah.embeddings.oddness import oddness_record
from vniah.engines.base import (
    ARGMAX,
    GENERATED,
    CheckReport,
    OnFramesReady,
    Outcome,
    Pictures,
    decode_by_passes,
    find_refusal,
    put_into_words,
    read_candidate,
    repeat_pictures,
    require_logits,
    require_text,
    shown_in_tests,
    trial_directory,
    trial_sample,
    try_sample,
)
from vniah.engines.inputs import compose_candidates
from vniah.haystacks.frames import AnyHaystack
from vniah.needles import NeedleSet
from vniah.options import Decoding
from vniah.protocol import ChatModel, FrameSpan, TokenSequence, VisionLanguageModel
from vniah.scoring import GeneratedText, Reading
from vniah.tasks.base import Sample

_TRIAL_FRAMES = 4


class _OneByOne:
    """The common part of both engines: every pending sample is a batch of its own."""

    decoding: Decoding | None = None
    planned_flops: int | None = None
    notes: list[str]

    def __init__(self) -> None:
        self.notes = []
        self._samples: Sequence[Sample] = ()
        self._pending: Sequence[Sample] = ()

    def plan(self, samples: Sequence[Sample], is_pending: Sequence[bool]) -> int:
        """As `vniah.engines.base.Engine.plan`."""
        self._samples, self._pending = samples, list(compress(samples, is_pending))
        return len(self._pending)

    def check(self) -> Mapping[str, Any]:
        """As `vniah.engines.base.Engine.check`: there is nothing to compare."""
        return {}

    def run(self, batch: int) -> Iterator[tuple[Sample, Outcome]]:
        """As `vniah.engines.base.Engine.run`."""
        sample = self._pending[batch]
        yield sample, try_sample(sample, self._read)

    def describe(self) -> Mapping[str, Any]:
        """As `vniah.engines.base.Engine.describe`."""
        return {"share": "none"}

    def _read(self, sample: Sample) -> tuple[Reading, ...]:
        raise NotImplementedError


class PerSampleEngine(_OneByOne):
    """Runs a model's own forward pass for every candidate answer.

    Args:
        model: a model without a decoder that vniah runs.
        decoding: if given, the model also generates an answer, by a forward pass for each token.
    """

    def __init__(self, model: VisionLanguageModel, decoding: Decoding | None = None) -> None:
        super().__init__()
        self._model = model
        self._frames: EncodedFrames | None = None
        self.decoding = decoding
        self.criterion = ARGMAX if decoding is None else GENERATED

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
        """As `vniah.engines.base.Engine.prepare`: encodes what is not encoded yet."""
        self._frames = EncodedFrames.of(
            self._model,
            haystack,
            needles,
            num_frames,
            shown=shown,
            cache=cache,
            on_progress=on_progress,
        )
        self.notes += self._frames.notes

    def describe(self) -> Mapping[str, Any]:
        """As `vniah.engines.base.Engine.describe`."""
        assert self._frames is not None, "prepare comes first"
        oddness = oddness_record(self._frames, shown_in_tests(self._samples))
        return {**super().describe(), **oddness}

    def why_not_without_frames(self, sample: Sample) -> str | None:
        """As `vniah.engines.base.Engine.why_not_without_frames`: the question is asked once."""

        def ask() -> None:
            sequence = compose_candidates(self._model, sample)[0]
            read_candidate(self._model, sequence, self._logits(sequence), seconds=0.0)

        return find_refusal(self._model, ask)

    def examine(
        self, needles: NeedleSet, *, cache: Path | None, on_prepared: Callable[[], None]
    ) -> CheckReport:
        """As `vniah.engines.base.Engine.examine`: there is nothing to compare."""
        self.prepare(repeat_pictures(needles), needles, _TRIAL_FRAMES, cache=trial_directory(cache))
        on_prepared()
        first = next(iter(needles))
        reading = self._read(trial_sample(first, num_frames=_TRIAL_FRAMES, needle_index=2))[0]
        return CheckReport(
            (
                f"{self._model.name} runs its own forward pass, every cell by itself; there is "
                "nothing to compare. Its answer_logits gave a row for each answer token "
                f"({len(reading.answer_ids)}), as it must",
            ),
            True,
        )

    def _read(self, sample: Sample) -> tuple[Reading, ...]:
        sequences = compose_candidates(self._model, sample)
        readings = []
        for sequence in sequences:
            started = time.perf_counter()
            logits = self._logits(sequence)
            seconds = time.perf_counter() - started
            readings.append(read_candidate(self._model, sequence, logits, seconds=seconds))
        if self.decoding is not None:
            started = time.perf_counter()
            needed = max(len(sequence.answer_ids) for sequence in sequences)
            tokens = decode_by_passes(self._logits, sequences[0], self.decoding, num_needed=needed)
            text = put_into_words(self._model, tokens, self.decoding)
            seconds = (time.perf_counter() - started) / len(readings)
            readings = [
                replace(one, generated=text, seconds=one.seconds + seconds) for one in readings
            ]
        return tuple(readings)

    def _logits(self, sequence: TokenSequence) -> Tensor:
        """Answer logits by the model's own forward pass, ``[len(answer_ids), vocabulary]``."""
        if sequence.frames:
            assert self._frames is not None, "prepare comes first"
            embeds = self._frames.store.read(sequence.frames)
        else:
            dtype = getattr(self._model, "dtype", None)
            embeds = torch.empty(0, *self._model.frame_shape, dtype=dtype)
        logits = self._model.answer_logits(sequence, embeds)
        require_logits(self._model, sequence, logits)
        return logits


class ChatEngine(_OneByOne):
    """Shows pictures to a chat model; all frames are read into memory once.

    Args:
        model: the chat model.
    """

    criterion = GENERATED

    def __init__(self, model: ChatModel) -> None:
        super().__init__()
        self._model = model
        self._pictures: Pictures[np.ndarray] | None = None

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
        """As `vniah.engines.base.Engine.prepare`: decodes all frames."""
        self._pictures = Pictures.of(
            haystack,
            needles,
            num_frames,
            lambda image: image,
            notes=self.notes,
            shown=shown,
            on_progress=on_progress,
        )

    def why_not_without_frames(self, sample: Sample) -> str | None:
        """As `vniah.engines.base.Engine.why_not_without_frames`: only the model can say so."""
        return find_refusal(self._model, lambda: None)

    def run(self, batch: int) -> Iterator[tuple[Sample, Outcome]]:
        """As `vniah.engines.base.Engine.run`; an error without frames is that of the sample."""
        sample = self._pending[batch]
        if not sample.shows_nothing:
            yield from super().run(batch)
            return
        outcomes: list[Outcome] = []
        refusal = find_refusal(self._model, lambda: outcomes.append(self._read(sample)))
        yield sample, outcomes[0] if refusal is None else refusal

    def examine(
        self, needles: NeedleSet, *, cache: Path | None, on_prepared: Callable[[], None]
    ) -> CheckReport:
        """As `vniah.engines.base.Engine.examine`: asks one question about one picture."""
        on_prepared()
        first = next(iter(needles))
        words = self._answer([np.array(first.frames[0])], first.question)
        return CheckReport((f"{self._model.name} answers in words, e.g. {words!r}",), True)

    def _read(self, sample: Sample) -> tuple[Reading, ...]:
        assert self._pictures is not None, "prepare comes first"
        started = time.perf_counter()
        words = self._answer(self._pictures.show(sample.shown), sample.prompt)
        return (Reading(time.perf_counter() - started, generated=GeneratedText(words)),)

    def _answer(self, pictures: Sequence[np.ndarray], question: str) -> str:
        words: object = self._model.answer(pictures, question)
        return require_text(words, f"answer of {self._model.name}")
