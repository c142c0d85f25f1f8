"""Runs the branches of a prefix tree, each as one pass.

Where memory runs out and `vniah.forward.memory` has nothing left to give, the longest sequences are
given up, with an error that says what they would have needed, and the rest goes on.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vniah.errors import ModelError
from vniah.forward.attention import Kernel
from vniah.forward.costs import DecoderShape
from vniah.forward.greedy import Generated, GreedyDecoder
from vniah.forward.inputs import SequenceInputs, deepstack_rows
from vniah.forward.kernels import choose_kernel
from vniah.forward.kv_cache import Kept, Place, Span
from vniah.forward.memory import MEMORY_ERRORS, NoRoomError, PassMemory, is_out_of_memory
from vniah.forward.prefill import walk
from vniah.forward.prefix_tree import Branch, Leaf, leading
from vniah.forward.ring import Ring
from vniah.forward.suffixes import SuffixRows


@dataclass(frozen=True)
class Reading:
    """What was read for some equal sequences.

    Attributes:
        sequences: their indices.
        logits: ``[rows, vocabulary]`` fp32 on the CPU; None if there is an error.
        seconds: their share of the time of the pass.
        error: why it could not be run.
        generated: what greedy decoding gave behind the prompt; None where nothing was decoded.
    """

    sequences: tuple[int, ...]
    logits: Tensor | None
    seconds: float
    error: str | None = None
    generated: Generated | None = None


@dataclass(frozen=True)
class Pass:
    """What running one branch gave.

    Attributes:
        readings: of its own leaves.
        past: what its branches go on from; each reads it up to its start.
        failed: branches that cannot go on, by number, and why.
    """

    readings: tuple[Reading, ...]
    past: tuple[Kept, ...]
    failed: Mapping[int, str] = field(default_factory=dict)


class BranchRunner:
    """Runs branches.

    Args:
        decoder: a transformers causal language model.
        inputs: what the decoder reads for the sequences of the branches.
        kernel: computes the attention; by default the fastest that is right on the device.
        ring: the processes that run every pass together.
        tile_size: rows at once; by default as many as fit, up to 4,096 (2,048 on the CPU).
        place: where to keep keys and values; by default the fastest where they fit.
        scratch_dir: for the file on disk.
        on_note: called with a line when memory ran out and something was changed.
        greedy: decodes behind the leaves of passes that are kept whole.
    """

    def __init__(
        self,
        decoder: Any,
        inputs: SequenceInputs,
        *,
        kernel: Kernel | None = None,
        ring: Ring | None = None,
        tile_size: int | None = None,
        place: Place | None = None,
        scratch_dir: Path | None = None,
        on_note: Callable[[str], None] | None = None,
        greedy: GreedyDecoder | None = None,
    ) -> None:
        self._decoder = decoder
        self._greedy = greedy
        self._inputs = inputs
        self._ring = ring
        self._like: Tensor = decoder.lm_head.weight
        self.shape = DecoderShape.of(decoder)
        self.kernel = kernel or choose_kernel(self._like.device, self._like.dtype, self.shape.heads)
        self._memory = PassMemory(
            self.shape,
            like=self._like,
            ring=ring,
            tile_size=tile_size,
            place=place,
            scratch_dir=scratch_dir,
            on_note=on_note,
        )

    def choose(self, branches: Sequence[Branch]) -> tuple[int, Place]:
        """Tile size and place for some branches with what is behind them; they stay chosen."""
        return self._memory.choose(branches)

    def run_all(self, branch: Branch, past: Sequence[Kept] = ()) -> Iterator[Reading]:
        """A branch and everything behind it, parents first."""
        result = self.run(branch, past)
        yield from result.readings
        for number in range(len(branch.branches)):
            yield from self.run_behind(branch, result, number)

    def run_behind(self, branch: Branch, result: Pass, number: int) -> Iterator[Reading]:
        """One of the branches that go on from a branch that was run."""
        child = branch.branches[number]
        if number in result.failed:
            yield Reading(child.sequences, None, 0.0, result.failed[number])
        else:
            before = self._inputs.positions(_sequence_through(branch))
            _require_equal(self._inputs.positions(_sequence_through(child)), before, child.start)
            yield from self.run_all(child, [kept.until(child.start) for kept in result.past])

    def run(self, branch: Branch, past: Sequence[Kept] = ()) -> Pass:
        """One pass; what does not fit into memory at all comes back as an error."""
        if not self._memory.is_chosen:
            self.choose([branch])
        given_up: list[Reading] = []
        failed: dict[int, str] = {}
        remaining: Branch | None = branch
        while remaining is not None:
            try:
                result = self._run_once(remaining, past)
            except NoRoomError as error:
                if self._ring is not None:
                    raise ModelError(str(error)) from error
                for number in range(len(branch.branches)):
                    failed.setdefault(number, str(error))
                self._memory.note(f"some sequences cannot be run: {error}")
                leaves = remaining.leaves
                if remaining.is_kept:
                    given_up += [Reading(x.sequences, None, 0.0, str(error)) for x in leaves]
                    leaves = ()
                remaining = _shortened(remaining, leaves, (), self._inputs.size)
                continue
            except MEMORY_ERRORS as error:
                if not is_out_of_memory(error):
                    raise
                if self._ring is not None:  # the other processes wait for this one
                    raise ModelError(self._memory.needed_by(remaining)) from error
                del error  # it holds the tensors of the frames that it passed
                if self._memory.retreat(remaining, past):
                    continue
            else:
                return replace(result, readings=(*result.readings, *given_up), failed=failed)
            message = self._memory.needed_by(remaining)
            self._memory.note(f"some sequences cannot be run: {message}")
            longest = max(_ends(remaining))
            for leaf in remaining.leaves:
                if leaf.start == longest:
                    given_up.append(Reading(leaf.sequences, None, 0.0, message))
            for number, child in enumerate(branch.branches):
                if child.start >= longest:
                    failed.setdefault(number, message)
            remaining = _shortened(
                remaining,
                tuple(leaf for leaf in remaining.leaves if leaf.start < longest),
                tuple(child for child in remaining.branches if child.start < longest),
                self._inputs.size,
            )
        return Pass(tuple(given_up), (), failed)

    def _run_once(self, branch: Branch, past: Sequence[Kept]) -> Pass:
        started = time.perf_counter()
        hidden = self._embed_share(branch)
        positions = self._inputs.positions(_sequence_through(branch))
        kept = self._memory.make_room(branch)
        has_deepstack = self._inputs.num_deepstack_layers > 0
        read = walk(
            self._decoder,
            hidden,
            positions[..., branch.start : branch.stop],
            [self._suffix_rows(leaf, positions) for leaf in branch.leaves],
            past=past,
            keep=kept,
            tile_size=self._memory.tile_size,
            kernel=self.kernel,
            ring=self._ring,
            deepen=partial(self._deepen_share, branch) if has_deepstack else None,
        )
        logits = [rows.cpu() for rows in read]
        behind = (*past, kept) if kept is not None else ()
        generated: Sequence[Generated | None] = (None,) * len(branch.leaves)
        if self._greedy is not None and branch.is_kept:
            del hidden  # decoding needs its room no more than the branches do
            generated = self._greedy.decode(branch, behind, tile_size=self._memory.tile_size)
        num_sequences = sum(len(leaf.sequences) for leaf in branch.leaves)
        seconds = (time.perf_counter() - started) / max(1, num_sequences)
        readings = [
            Reading(leaf.sequences, rows, seconds, generated=tokens)
            for leaf, rows, tokens in zip(branch.leaves, logits, generated, strict=True)
        ]
        return Pass(tuple(readings), behind if branch.branches else ())

    def _embed_share(self, branch: Branch) -> Tensor:
        """The main rows that this process computes, ``[n, H]``."""
        if self._ring is None:
            return self._inputs.embed(branch.segments, 0, branch.num_tokens)
        layout = self._ring.layout(0, branch.num_tokens)
        hidden = self._like.new_zeros(layout.num_rows(self._ring.rank), self.shape.hidden_size)
        for rows, inside in self._share(branch):
            hidden[rows] = self._inputs.embed(branch.segments, *inside)
        return hidden

    def _deepen_share(self, branch: Branch, layer: int, hidden: Tensor) -> None:
        """Adds what comes to this process's main rows behind a layer."""
        if layer < self._inputs.num_deepstack_layers:
            for rows, inside in self._share(branch):
                self._inputs.add_deepstack(layer, hidden[rows], branch.segments, *inside)

    def _share(self, branch: Branch) -> Iterator[tuple[slice, Span]]:
        """Which rows of this process are which tokens of a branch."""
        if self._ring is None:
            yield slice(0, branch.num_tokens), Span(0, branch.num_tokens)
            return
        for span, row in self._ring.layout(0, branch.num_tokens).located(self._ring.rank):
            inside = span.clip(0, branch.num_tokens)
            if inside.num_tokens:
                yield slice(row, row + inside.num_tokens), inside

    def _suffix_rows(self, leaf: Leaf, before: Tensor) -> SuffixRows:
        index, inputs = leaf.sequences[0], self._inputs
        whole = inputs.positions(index)
        _require_equal(whole, before, leaf.start)
        positions = whole[..., leaf.start : leaf.stop].clone()
        hidden = inputs.embed(leaf.segments, 0, leaf.num_tokens)
        deep = deepstack_rows(inputs, leaf.segments, hidden)
        seen = (Span(0, leaf.start),)
        return SuffixRows(seen, hidden, positions, inputs.num_answer_rows(index), deep)


def _ends(branch: Branch) -> list[int]:
    """Where something hangs."""
    return [*(x.start for x in branch.leaves), *(x.start for x in branch.branches)]


def _shortened(
    branch: Branch,
    leaves: tuple[Leaf, ...],
    branches: tuple[Branch, ...],
    size: Callable[[Any], int],
) -> Branch | None:
    """The branch with only some of what hangs on it, and only as long as is still needed."""
    if not leaves and not branches:
        return None
    shorter = replace(branch, leaves=leaves, branches=branches)
    needed = max(_ends(shorter)) - branch.start
    return replace(shorter, segments=leading(branch.segments, needed, size), num_tokens=needed)


def _require_equal(positions: Tensor, others: Tensor, num_tokens: int) -> None:
    """Raises `ModelError` unless two sequences have the same positions where they share tokens."""
    one, other = positions[..., :num_tokens], others[..., :num_tokens]
    if not torch.equal(one, other):
        token = int((one != other).reshape(-1, num_tokens).any(0).nonzero()[0])
        raise ModelError(
            f"position ids depend on what follows: those of token {token} are "
            f"{one[..., token].tolist()} in one sequence and {other[..., token].tolist()} in "
            "another; remove has_causal_positions from the model, or set shares_prefixes = False"
        )


def _sequence_through(branch: Branch) -> int:
    """A sequence that holds everything of the branch."""
    at, index = max(
        [(leaf.start, leaf.sequences[0]) for leaf in branch.leaves]
        + [(child.start, child.sequences[0]) for child in branch.branches]
    )
    assert at == branch.stop
    return index
