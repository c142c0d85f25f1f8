"""The engine of a map from one pass: haystack states that all needles share, with a window.

It is an approximation (`vniah.forward.splices`), so it must never be mistaken for the protocol. The
samples that it is asked to run exactly are run by the tree, as in every other run.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from vniah.embeddings.oddness import oddness_record
from vniah.engines.agreement import Agreement, RoundingLimit, compare_logits, plain_logits
from vniah.engines.alignment import TokenKeys
from vniah.engines.base import (
    ARGMAX,
    CheckReport,
    EngineOptions,
    OnFramesReady,
    Outcome,
    read_candidate,
    shown_in_tests,
)
from vniah.engines.decoder import DecoderEngine
from vniah.engines.equivalence import require_agreement, trial_sequences
from vniah.engines.inputs import compose_candidates, size_of_frame
from vniah.engines.planning import Plan, SampleSequences, make_plan
from vniah.engines.splicing import SplicedMap, Trunk
from vniah.engines.trunks import common_beginning, find_trunk, tokens_of_frame
from vniah.errors import InputError, ModelError, first_line
from vniah.forward.costs import DecoderShape
from vniah.forward.kinds.choosing import require_can_splice
from vniah.forward.kv_cache import KeyValueCache
from vniah.forward.memory import MEMORY_ERRORS, is_out_of_memory
from vniah.forward.prefill import CHUNK_SIZE
from vniah.haystacks.frames import AnyHaystack
from vniah.needles import NeedleSet
from vniah.options import Decoding
from vniah.options.approximation import Approximation
from vniah.protocol import DecoderModel, FrameSpan, LanguageModel, TokenSequence
from vniah.scoring import Reading
from vniah.tasks.base import Sample

MAX_ROWS = 1 << 17
"""Rows besides the trunk's that are held between two layers; more of them only where these take no
more memory than the trunk's keys and values of all layers, which are kept where there are several
parts."""

_COPIES_OF_ROW = 4  # hidden rows, rows of slabs, angles and positions, about


@dataclass(frozen=True)
class PlannedMap:
    """What an engine runs, by the numbers of sequences and samples.

    Attributes:
        sequences: those of all samples.
        spliced: how they are spliced into the trunk.
        parts: sequences that go through the layers together.
        exact: samples that are run by the tree.
    """

    sequences: Sequence[TokenSequence]
    spliced: SplicedMap
    parts: Sequence[Sequence[int]]
    exact: Sequence[int]


class OnePassEngine:
    """Reads most samples by one pass over the plain haystack; a batch is a part of them.

    A sample is run by the tree where it is asked to be, and where it has less than half of its
    tokens in common with the plain haystack.

    Args:
        model: a model with a decoder, which reads frames or text.
        options: how samples are run; their ``approximation`` says what is computed with a needle in
            sight.
        is_exact: whether a sample is to be run exactly.

    Attributes:
        criterion: as `vniah.engines.base.Engine`.
        decoding: as `vniah.engines.base.Engine`: none.
        notes: as `vniah.engines.base.Engine`.

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
        is_exact: Callable[[Sample], bool] = lambda sample: False,
    ) -> None:
        options = options or EngineOptions()
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
        self._approximation = options.approximation or Approximation()
        self._is_exact = is_exact
        self._exact = DecoderEngine(model, replace(options, share="tree"))
        self.notes = self._exact.notes
        self._samples: Sequence[Sample] = ()
        self._sequences = SampleSequences()
        self._tree: Plan | None = None
        self._map: SplicedMap | None = None
        self._parts: list[list[int]] = []
        self._trunk: KeyValueCache | None = None
        self._exact_numbers: list[int] = []
        self._needles = NeedleSet.none()

    def prepare(
        self,
        haystack: AnyHaystack | None,
        needles: NeedleSet,
        num_frames: int,
        *,
        shown: Iterable[FrameSpan] = (),
        cache: Path | None = None,
        on_progress: OnFramesReady | None = None,
    ) -> None:
        """As `vniah.engines.base.Engine.prepare`."""
        self._needles = needles
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
        # Copies that are run exactly share the passes of what they are copies of.
        is_copy = [self._is_exact(samples[owner]) for owner in sequences.owners]
        counted = [index for index, one in enumerate(is_copy) if not one]
        groups = sequences.groups
        self._tree = tree = make_plan(
            self._model,
            [sequences.sequences[index] for index in counted],
            groups=None if groups is None else [groups[index] for index in counted],
        )
        if tree.note is not None:
            raise ModelError(
                f"haystack states of {self._model.name} cannot be shared by needles, because "
                f"{tree.note}; leave out --share one-pass"
            )
        plain = [sample for sample in samples if sample.control is None] or list(samples)
        trunk = find_trunk(self._model, plain)
        unit = 1 if plain[0].text is not None else tokens_of_frame(self._model, trunk)
        self._map = SplicedMap(
            self._model,
            sequences.sequences,
            trunk,
            self._exact.frames.store,
            window=self._approximation.window * unit,
            groups=sequences.owners,
        )
        refused = {sequences.owners[counted[index]] for index in tree.refused}
        exact = [
            number in refused
            or self._is_exact(sample)
            or not all(map(self._is_shared, sequences.members[number]))
            for number, sample in enumerate(samples)
        ]
        sequences.is_pending = [
            pending and not one for pending, one in zip(is_pending, exact, strict=True)
        ]
        shared = [index for index, owner in enumerate(sequences.owners) if not exact[owner]]
        parts = self._map.parts(shared, self._max_rows())
        self._parts = [part for part in parts if any(map(sequences.is_read, part))]
        self._trunk = None
        pending = [one and other for one, other in zip(is_pending, exact, strict=True)]
        self._exact_numbers = chosen = [number for number, one in enumerate(exact) if one]
        num_batches = self._exact.plan(
            [samples[number] for number in chosen], [pending[number] for number in chosen]
        )
        return len(self._parts) + num_batches

    def at_window(self, window: int) -> None:
        """Computes so many frames or tokens behind each needle with it in sight, from now on."""
        self._approximation = replace(self._approximation, window=window)

    @property
    def planned(self) -> PlannedMap:
        """What `plan` found."""
        assert self._map is not None, "plan comes first"
        return PlannedMap(self._sequences.sequences, self._map, self._parts, self._exact_numbers)

    @property
    def planned_flops(self) -> int:
        """As `vniah.engines.base.Engine.planned_flops`."""
        return self._own_flops + self._exact_flops

    def check(self) -> Mapping[str, Any]:
        """As `vniah.engines.base.Engine.check`.

        Besides what is run exactly, rows that are spliced into a trunk are compared with the
        model's own forward pass, with a window so wide that they have to be equal.
        """
        found = self._exact.check()
        agreement = self._check_splices()
        require_agreement([agreement], self._model.name)
        return {**found, agreement.way: dict(agreement.record())}

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
            found = self._run_part(part)
        except MEMORY_ERRORS as error:
            if not is_out_of_memory(error):
                raise
            for number in numbers:
                yield self._samples[number], f"out of memory: {first_line(error)}"
            return
        seconds = (time.perf_counter() - started) / len(part)
        for number in numbers:
            yield (
                self._samples[number],
                _outcome([found[index] for index in sequences.members[number]], seconds),
            )

    def describe(self) -> Mapping[str, Any]:
        """As `vniah.engines.base.Engine.describe`."""
        exact = self._exact.description
        shape = DecoderShape.of(self._model.decoder)
        assert self._tree is not None, "plan comes first"
        return {
            **exact,
            "share": "one-pass",
            "passes": len(self._parts) + exact["passes"] * bool(self._exact_numbers),
            "flops": self.planned_flops,
            "flops_of_exact_samples": self._exact_flops,
            "flops_of_tree": shape.flops_of(self._tree.branches).total,
            "flops_not_shared": shape.flops_of(self._tree.alone).total,
            "exact_samples": len(self._exact_numbers),
            "tile_size": CHUNK_SIZE,
            **oddness_record(self._exact.frames, shown_in_tests(self._samples)),
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

    @property
    def _exact_flops(self) -> int:
        return (self._exact.planned_flops or 0) if self._exact_numbers else 0

    def _check_splices(self) -> Agreement:
        """Short sequences, spliced into the longest of them without a needle."""
        model, frames = self._model, self._exact.frames
        sequences = trial_sequences(model, self._needles, frames.num_frames)
        keys = TokenKeys(size_of_frame(model))
        own, other = (keys.of(one.input_pieces) for one in sequences[-2:])
        trunk = Trunk(sequences[-1], len(common_beginning(own, other)))
        window = sum(one.num_tokens(size_of_frame(model)) for one in sequences)
        spliced = SplicedMap(model, sequences, trunk, frames.store, window=window)
        found = spliced.run(
            range(len(sequences)),
            lambda index, logits: logits.cpu(),
            chunk_size=CHUNK_SIZE,
            kernel=self._exact.kernel,
        )
        plain = [plain_logits(model, sequence, frames.store) for sequence in sequences]
        limit = RoundingLimit.of(model, sequences, frames.store, plain)
        return compare_logits(
            "one pass, whole window", plain, [found[index] for index in range(len(found))], limit
        )

    def _max_rows(self) -> int:
        """How many rows may be in a part (`MAX_ROWS`)."""
        assert self._map is not None
        shape = DecoderShape.of(self._model.decoder)
        kept = shape.store_bytes(self._map.num_trunk)
        return max(MAX_ROWS, kept // (_COPIES_OF_ROW * shape.hidden_bytes))

    def _run_part(self, part: Sequence[int]) -> Mapping[int, Reading | str]:
        """What is read of the sequences of a part, or why it cannot be.

        The trunk's keys and values are kept where there are several parts.
        """
        assert self._map is not None, "plan comes first"
        kernel = self._exact.kernel
        if len(self._parts) > 1 and self._trunk is None:
            self._trunk = self._map.keep_trunk(chunk_size=CHUNK_SIZE, kernel=kernel)
        return self._map.run(
            part, self._read, chunk_size=CHUNK_SIZE, past=self._trunk, kernel=kernel
        )

    def _read(self, index: int, logits: Tensor) -> Reading | str:
        assert self._map is not None
        sequence = self._sequences.sequences[index]
        try:
            found = read_candidate(self._model, sequence, logits, seconds=0.0)
        except ModelError as error:
            return first_line(error)
        return replace(found, is_approximate=not self._map.spliced[index].is_exact)

    def _is_shared(self, index: int) -> bool:
        """Whether a sequence has half of its tokens from the trunk, or no needle before them."""
        assert self._map is not None
        one = self._map.spliced[index]
        return one.is_exact or 2 * one.num_shared >= one.suffix.stop


def _outcome(read: Sequence[Reading | str], seconds: float) -> Outcome:
    """The readings of a sample's candidates, or why one of them cannot be read."""
    readings = []
    for one in read:
        if isinstance(one, str):
            return one
        readings.append(replace(one, seconds=seconds))
    return tuple(readings)
