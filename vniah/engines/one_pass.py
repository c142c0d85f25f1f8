"""The engine of a map from one pass: haystack states that all needles share, with a window.

It is an approximation (`vniah.forward.splices`), so it must never be mistaken for the protocol. The
samples that it is asked to run exactly are run by the tree, as in every other run.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from vniah.engines.alignment import TokenKeys
from vniah.engines.base import (
    ARGMAX,
    CheckReport,
    EngineOptions,
    OnFramesReady,
    Outcome,
    read_candidate,
)
from vniah.engines.decoder import DecoderEngine
from vniah.engines.inputs import compose_candidates, size_of_frame
from vniah.engines.planning import SampleSequences
from vniah.engines.splicing import SplicedMap, Trunk
from vniah.errors import InputError, ModelError, first_line
from vniah.forward.costs import DecoderShape
from vniah.forward.kv_cache import KeyValueCache
from vniah.forward.memory import MEMORY_ERRORS, is_out_of_memory
from vniah.forward.prefill import CHUNK_SIZE
from vniah.forward.splices import require_can_splice
from vniah.haystacks.frames import AnyHaystack
from vniah.needles import NeedleSet
from vniah.options import Decoding
from vniah.protocol import HAYSTACK, DecoderModel, FrameSpan, LanguageModel, TextSpan
from vniah.tasks.base import Sample

MAX_ROWS = 1 << 17
"""Rows besides the trunk's that are held between two layers."""

_OTHER_QUESTIONS = ("A", "Is it 7?")  # what prompts with both have in common is no question


class OnePassEngine:
    """Reads most samples by one pass over the plain haystack; a batch is a part of them.

    A sample is run by the tree where it is asked to be, and where it has less than half of its
    tokens in common with the plain haystack.

    Args:
        model: a model with a decoder, which reads frames or text.
        options: how samples are run.
        window: frames behind a needle, or tokens of text, that are computed with it in sight.
        is_exact: whether a sample is to be run exactly.

    Attributes:
        criterion: as `vniah.engines.base.Engine`.
        decoding: as `vniah.engines.base.Engine`: none.

    Raises:
        ModelError: the decoder cannot share states in this way.
        InputError: an option does not go with it.
    """

    criterion = ARGMAX
    decoding: Decoding | None = None

    def __init__(
        self,
        model: DecoderModel | LanguageModel,
        options: EngineOptions | None = None,
        *,
        window: int,
        is_exact: Callable[[Sample], bool] = lambda sample: False,
    ) -> None:
        options = options or EngineOptions()
        if window < 0:
            raise InputError(f"the window must be 0 or more, got {window}")
        if options.scorer != "argmax":
            raise InputError(
                "states that all needles share are read by the argmax: leave out --scorer "
                f"{options.scorer}, or share the tree"
            )
        if options.group is not None:
            raise InputError(
                "states that all needles share are held by one process: leave out "
                f"--context-parallel {options.group.size()}, or share the tree"
            )
        require_can_splice(model.decoder)
        self._model = model
        self._window = window
        self._is_exact = is_exact
        self._exact = DecoderEngine(model, replace(options, share="tree"))
        self._samples: Sequence[Sample] = ()
        self._sequences = SampleSequences()
        self._map: SplicedMap | None = None
        self._parts: list[list[int]] = []
        self._trunk: KeyValueCache | None = None
        self._num_exact = 0

    @property
    def notes(self) -> list[str]:
        """As `vniah.engines.base.Engine.notes`."""
        return self._exact.notes

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
        """As `vniah.engines.base.Engine.prepare`."""
        self._exact.prepare(
            haystack, needles, num_frames, shown=shown, cache=cache, on_progress=on_progress
        )

    def plan(self, samples: Sequence[Sample], is_pending: Sequence[bool]) -> int:
        """As `vniah.engines.base.Engine.plan`; the parts of the pass come first.

        Parts are those of all samples, whether or not they are still to be run.
        """
        sequences = SampleSequences()
        self._samples, self._sequences = samples, sequences
        for sample in samples:
            sequences.add(compose_candidates(self._model, sample))
        plain = [sample for sample in samples if sample.control is None] or list(samples)
        trunk = find_trunk(self._model, plain)
        unit = 1 if plain[0].text is not None else self._tokens_of_frame(trunk)
        self._map = SplicedMap(
            self._model,
            sequences.sequences,
            trunk,
            self._exact.frames.store,
            window=self._window * unit,
        )
        exact = [
            self._is_exact(sample) or not all(map(self._is_shared, sequences.members[number]))
            for number, sample in enumerate(samples)
        ]
        self._num_exact = sum(exact)
        sequences.is_pending = [
            pending and not one for pending, one in zip(is_pending, exact, strict=True)
        ]
        shared = [index for index, owner in enumerate(sequences.owners) if not exact[owner]]
        parts = self._map.parts(shared, MAX_ROWS)
        self._parts = [part for part in parts if any(map(sequences.is_read, part))]
        self._trunk = None
        pending = [one and other for one, other in zip(is_pending, exact, strict=True)]
        chosen = [number for number, one in enumerate(exact) if one]
        num_batches = self._exact.plan(
            [samples[number] for number in chosen], [pending[number] for number in chosen]
        )
        return len(self._parts) + num_batches

    @property
    def planned_flops(self) -> int:
        """As `vniah.engines.base.Engine.planned_flops`."""
        return self._own_flops + (self._exact.planned_flops or 0 if self._num_exact else 0)

    def check(self) -> Mapping[str, Any]:
        """As `vniah.engines.base.Engine.check`: of what is run exactly."""
        return self._exact.check()

    def run(self, batch: int) -> Iterator[tuple[Sample, Outcome]]:
        """As `vniah.engines.base.Engine.run`."""
        if batch >= len(self._parts):
            self._trunk = None  # makes room
            yield from self._exact.run(batch - len(self._parts))
            return
        assert self._map is not None, "plan comes first"
        part, sequences = self._parts[batch], self._sequences
        numbers = dict.fromkeys(
            sequences.owners[index] for index in filter(sequences.is_read, part)
        )
        started = time.perf_counter()
        try:
            logits = self._run_part(part)
        except MEMORY_ERRORS as error:
            if not is_out_of_memory(error):
                raise
            for number in numbers:
                yield self._samples[number], f"out of memory: {first_line(error)}"
            return
        seconds = (time.perf_counter() - started) / len(part)
        for number in numbers:
            try:
                outcome: Outcome = tuple(
                    read_candidate(
                        self._model, sequences.sequences[index], logits[index], seconds=seconds
                    )
                    for index in sequences.members[number]
                )
            except ModelError as error:
                outcome = first_line(error)
            yield self._samples[number], outcome

    def describe(self) -> Mapping[str, Any]:
        """As `vniah.engines.base.Engine.describe`."""
        return {
            **self._exact.describe(),
            "share": "one-pass",
            "window": self._window,
            "approximate": True,
            "flops": self.planned_flops,
            "exact_samples": self._num_exact,
        }

    def why_not_without_frames(self, sample: Sample) -> str | None:
        """As `vniah.engines.base.Engine.why_not_without_frames`."""
        return self._exact.why_not_without_frames(sample)

    def examine(
        self, needles: NeedleSet, *, cache: Path | None, on_prepared: Callable[[], None]
    ) -> CheckReport:
        """As `vniah.engines.base.Engine.examine`: of what is run exactly."""
        return self._exact.examine(needles, cache=cache, on_prepared=on_prepared)

    @property
    def _own_flops(self) -> int:
        assert self._map is not None, "plan comes first"
        indices = [index for part in self._parts for index in part]
        return self._map.flops(DecoderShape.of(self._model.decoder), indices).total

    def _run_part(self, part: Sequence[int]) -> Mapping[int, Tensor]:
        """The logits of a part; the trunk's keys and values are kept where there are several."""
        assert self._map is not None, "plan comes first"
        if len(self._parts) > 1 and self._trunk is None:
            self._trunk = self._map.keep_trunk(chunk_size=CHUNK_SIZE)
        return self._map.run(part, chunk_size=CHUNK_SIZE, past=self._trunk)

    def _tokens_of_frame(self, trunk: Trunk) -> int:
        """Tokens from the beginning of a frame to that of the next, with any text between them."""
        per_frame = size_of_frame(self._model)
        keys = TokenKeys(per_frame).of(trunk.sequence.input_pieces)[: trunk.num_tokens]
        rows = np.flatnonzero(keys < 0)[:: max(1, per_frame)]
        return int(rows[1] - rows[0]) if len(rows) > 1 else per_frame

    def _is_shared(self, index: int) -> bool:
        """Whether a sequence has half of its tokens from the trunk, or no needle before them."""
        assert self._map is not None
        one = self._map.spliced[index]
        return one.is_exact or 2 * one.num_shared >= one.suffix.stop


def find_trunk(model: DecoderModel | LanguageModel, samples: Sequence[Sample]) -> Trunk:
    """Opening and haystack, as far as any of some samples shows them.

    Args:
        model: composes them.
        samples: all show frames, or all show text.
    """
    plain = _plain(samples)
    keys = TokenKeys(size_of_frame(model))
    one, other = (
        compose_candidates(model, replace(plain, question=question))[0]
        for question in _OTHER_QUESTIONS
    )
    own, its = keys.of(one.input_pieces), keys.of(other.input_pieces)
    num = min(len(own), len(its))
    differs = own[:num] != its[:num]
    common = own[: int(differs.argmax()) if differs.any() else num]
    if plain.text is None:  # what follows the last frame is the beginning of every question
        common = common[: int(np.flatnonzero(common < 0).max(initial=-1)) + 1]
    return Trunk(one, len(common))


def _plain(samples: Sequence[Sample]) -> Sample:
    """A sample that shows all of the haystack that any of them shows, and nothing else."""
    first = samples[0]
    if first.text is None:
        last = max(
            (span.stop for one in samples for span in one.shown if span.source == HAYSTACK),
            default=0,
        )
        return replace(first, shown=(FrameSpan(HAYSTACK, 0, last),) if last else ())
    opening = [piece for piece in first.text[:1] if isinstance(piece, str)]
    parts = [
        piece
        for one in samples
        for piece in one.text or ()
        if isinstance(piece, TextSpan) and piece.source == HAYSTACK
    ]
    longest = max(parts, key=lambda part: part.stop, default=None)
    whole = () if longest is None else (replace(longest, start=0),)
    return replace(first, text=(*opening, *whole))
