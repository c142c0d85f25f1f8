"""Runs the branches of a prefix tree, each of them as one pass.

If memory runs out and `vniah.forward.memory` finds no way to take less of it, the longest sequences
of the branch are given up, with an error that says what they need. All others still run.
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
from vniah.forward.kv_cache import KeyValueCache, KVLocation, Span
from vniah.forward.memory import MEMORY_ERRORS, NoRoomError, PassMemory, is_out_of_memory
from vniah.forward.offload import offloaded
from vniah.forward.prefill import prefill
from vniah.forward.prefix_tree import Branch, Suffix
from vniah.forward.ring import Ring
from vniah.forward.segment_parts import leading
from vniah.forward.suffixes import WATCHES_NOTHING, SuffixRows, Watched


@dataclass(frozen=True)
class SuffixLogits:
    """The logits of one suffix, or why there are none.

    Attributes:
        sequences: indices of the sequences that end in this suffix.
        logits: ``[rows, vocabulary]`` fp32 on the CPU; None if there is an error.
        seconds: the time of each of the sequences: an equal share of the time of the pass.
        error: why the suffix could not be run.
        generated: tokens that greedy decoding gave after the prompt, or why it failed; None if
            nothing was to be decoded.
        watched: the attention mass of the watched tokens, ``[groups, layers, Hq, rows]`` fp32 on
            the CPU, NaN in layers without attention; None if nothing was watched.
    """

    sequences: tuple[int, ...]
    logits: Tensor | None
    seconds: float
    error: str | None = None
    generated: Generated | None = None
    watched: Tensor | None = None


@dataclass(frozen=True)
class Pass:
    """The result of running one branch.

    Attributes:
        read: the logits of the branch's own suffixes.
        past: keys and values from which its child branches continue; each of them reads these up
            to its own start.
        failed: why a child branch cannot run, by the child's number.
    """

    read: tuple[SuffixLogits, ...]
    past: tuple[KeyValueCache, ...]
    failed: Mapping[int, str] = field(default_factory=dict)


class BranchRunner:
    """Runs the branches of a prefix tree.

    Args:
        decoder: a transformers causal language model.
        inputs: the input of the sequences that the branches name by their indices.
        kernel: computes the attention; by default the fastest that is right on the device.
        ring: the processes that run every pass together, if there are several.
        chunk_size: as `vniah.forward.memory.PassMemory`.
        kv_location: as `vniah.forward.memory.PassMemory`.
        scratch_dir: as `vniah.forward.memory.PassMemory`.
        on_note: as `vniah.forward.memory.PassMemory`.
        greedy: generates answers after the prompts of branches that are stored to their end.
        watched: what is to be known of the attention in a sequence, by its index; the rows are
            among those of its suffix. By default nothing is watched. Not with a ring.
    """

    def __init__(
        self,
        decoder: Any,
        inputs: SequenceInputs,
        *,
        kernel: Kernel | None = None,
        ring: Ring | None = None,
        chunk_size: int | None = None,
        kv_location: KVLocation | None = None,
        scratch_dir: Path | None = None,
        on_note: Callable[[str], None] | None = None,
        greedy: GreedyDecoder | None = None,
        watched: Callable[[int], Watched] | None = None,
    ) -> None:
        self._decoder = decoder
        self._watched = watched
        self._greedy = greedy
        self._inputs = inputs
        self._ring = ring
        layers = offloaded(decoder.model)
        # If not, others wait for this process in every pass, so it cannot try one again by itself.
        self._is_alone = ring is None and (layers is None or layers.num_ranks == 1)
        self._like: Tensor = decoder.lm_head.weight
        self.shape = DecoderShape.of(decoder)
        self.kernel = kernel or choose_kernel(self._like.device, self._like.dtype, self.shape.heads)
        self._memory = PassMemory(
            decoder.model,
            self.shape,
            like=self._like,
            ring=ring,
            chunk_size=chunk_size,
            kv_location=kv_location,
            scratch_dir=scratch_dir,
            on_note=on_note,
        )

    def choose(self, branches: Sequence[Branch]) -> tuple[int, KVLocation]:
        """Chooses chunk size and location of keys and values, as `PassMemory.choose`."""
        return self._memory.choose(branches)

    def run_all(self, branch: Branch, past: Sequence[KeyValueCache] = ()) -> Iterator[SuffixLogits]:
        """Runs a branch and all its descendants, parents first."""
        result = self.run(branch, past)
        yield from result.read
        for number in range(len(branch.branches)):
            yield from self.run_child(branch, result, number)

    def run_child(self, branch: Branch, result: Pass, number: int) -> Iterator[SuffixLogits]:
        """Runs one of the child branches of a branch that was run, and all its descendants."""
        child = branch.branches[number]
        if number in result.failed:
            yield SuffixLogits(child.sequences, None, 0.0, result.failed[number])
        else:
            before = self._inputs.positions(_sequence_through(branch))
            _require_equal(self._inputs.positions(_sequence_through(child)), before, child.start)
            yield from self.run_all(child, [cache.until(child.start) for cache in result.past])

    def run(self, branch: Branch, past: Sequence[KeyValueCache] = ()) -> Pass:
        """Runs one branch; suffixes that do not fit into memory come back with an error."""
        if not self._memory.is_chosen:
            self.choose([branch])
        given_up: list[SuffixLogits] = []
        failed: dict[int, str] = {}
        remaining: Branch | None = branch
        while remaining is not None:
            try:
                result = self._run_once(remaining, past)
            except NoRoomError as error:
                if not self._is_alone:
                    raise ModelError(str(error)) from error
                for number in range(len(branch.branches)):
                    failed.setdefault(number, str(error))
                self._memory.note(f"some sequences cannot be run: {error}")
                suffixes = remaining.suffixes
                if remaining.is_kept:
                    given_up += [SuffixLogits(x.sequences, None, 0.0, str(error)) for x in suffixes]
                    suffixes = ()
                remaining = _shortened(remaining, suffixes, (), self._inputs.size)
                continue
            except MEMORY_ERRORS as error:
                if not is_out_of_memory(error):
                    raise
                if not self._is_alone:
                    raise ModelError(self._memory.needed_by(remaining)) from error
                del error  # its traceback keeps the tensors of the failed pass alive
                if self._memory.retreat(remaining, past):
                    continue
            else:
                return replace(result, read=(*result.read, *given_up), failed=failed)
            message = self._memory.needed_by(remaining)
            self._memory.note(f"some sequences cannot be run: {message}")
            longest = max(_ends(remaining))
            for suffix in remaining.suffixes:
                if suffix.start == longest:
                    given_up.append(SuffixLogits(suffix.sequences, None, 0.0, message))
            for number, child in enumerate(branch.branches):
                if child.start >= longest:
                    failed.setdefault(number, message)
            remaining = _shortened(
                remaining,
                tuple(suffix for suffix in remaining.suffixes if suffix.start < longest),
                tuple(child for child in remaining.branches if child.start < longest),
                self._inputs.size,
            )
        return Pass(tuple(given_up), (), failed)

    def _run_once(self, branch: Branch, past: Sequence[KeyValueCache]) -> Pass:
        started = time.perf_counter()
        if self._watched is not None:
            branch = _split(branch, self._watched)
        hidden = self._embed_share(branch)
        positions = self._inputs.positions(_sequence_through(branch))
        cache = self._memory.make_room(branch)
        has_deepstack = self._inputs.num_deepstack_layers > 0
        masses: dict[int, Tensor] = {}
        read = prefill(
            self._decoder,
            hidden,
            positions[..., branch.start : branch.stop],
            [self._suffix_rows(suffix, positions) for suffix in branch.suffixes],
            images=_moved(self._inputs.images(branch.segments), branch.start),
            token_ids=self._inputs.token_ids(branch.segments, 0, branch.num_tokens),
            past=past,
            cache=cache,
            chunk_size=self._memory.chunk_size,
            kernel=self.kernel,
            ring=self._ring,
            add_deepstack=partial(self._add_deepstack_share, branch) if has_deepstack else None,
            on_watched=None if self._watched is None else masses.__setitem__,
        )
        logits = [rows.cpu() for rows in read]
        kept = (*past, cache) if cache is not None else ()
        generated: Sequence[Generated | None] = (None,) * len(branch.suffixes)
        if self._greedy is not None and branch.is_kept:
            del hidden  # decoding does not need it
            generated = self._greedy.decode(branch, kept, chunk_size=self._memory.chunk_size)
        num_sequences = sum(len(suffix.sequences) for suffix in branch.suffixes)
        seconds = (time.perf_counter() - started) / max(1, num_sequences)
        found = [
            SuffixLogits(suffix.sequences, rows, seconds, None, tokens, masses.get(number))
            for number, (suffix, rows, tokens) in enumerate(
                zip(branch.suffixes, logits, generated, strict=True)
            )
        ]
        return Pass(tuple(found), kept if branch.branches else ())

    def _embed_share(self, branch: Branch) -> Tensor:
        """Input embeddings of the main rows that this process computes, ``[n, H]``."""
        if self._ring is None:
            return self._inputs.embed(branch.segments, 0, branch.num_tokens)
        layout = self._ring.layout(0, branch.num_tokens)
        hidden = self._like.new_zeros(layout.num_rows(self._ring.rank), self.shape.hidden_size)
        for rows, inside in self._share(branch):
            hidden[rows] = self._inputs.embed(branch.segments, *inside)
        return hidden

    def _add_deepstack_share(self, branch: Branch, layer: int, hidden: Tensor) -> None:
        """Adds DeepStack features to the main rows of this process, after a layer."""
        if layer < self._inputs.num_deepstack_layers:
            for rows, inside in self._share(branch):
                self._inputs.add_deepstack(layer, hidden[rows], branch.segments, *inside)

    def _share(self, branch: Branch) -> Iterator[tuple[slice, Span]]:
        """The rows of this process: slices of them, each with the span of tokens that they hold."""
        if self._ring is None:
            yield slice(0, branch.num_tokens), Span(0, branch.num_tokens)
            return
        for span, row in self._ring.layout(0, branch.num_tokens).located(self._ring.rank):
            inside = span.clip(0, branch.num_tokens)
            if inside.num_tokens:
                yield slice(row, row + inside.num_tokens), inside

    def _suffix_rows(self, suffix: Suffix, before: Tensor) -> SuffixRows:
        index, inputs = suffix.sequences[0], self._inputs
        whole = inputs.positions(index)
        _require_equal(whole, before, suffix.start)
        positions = whole[..., suffix.start : suffix.stop].clone()
        hidden = inputs.embed(suffix.segments, 0, suffix.num_tokens)
        deepstack = deepstack_rows(inputs, suffix.segments, hidden)
        seen = (Span(0, suffix.start),)
        images = tuple(inputs.images(suffix.segments))
        token_ids = inputs.token_ids(suffix.segments, 0, suffix.num_tokens)
        num_rows = inputs.num_answer_rows(index)
        watched = WATCHES_NOTHING if self._watched is None else self._watched(index)
        return SuffixRows(seen, hidden, positions, num_rows, deepstack, images, token_ids, watched)


def _split(branch: Branch, watched: Callable[[int], Watched]) -> Branch:
    """The branch with a suffix of its own for equal sequences of which other tokens are watched."""
    suffixes: list[Suffix] = []
    for suffix in branch.suffixes:
        alike: dict[Watched, list[int]] = {}
        for index in suffix.sequences:
            alike.setdefault(watched(index), []).append(index)
        suffixes += [replace(suffix, sequences=tuple(indices)) for indices in alike.values()]
    return replace(branch, suffixes=tuple(suffixes))


def _moved(spans: Sequence[Span], num_tokens: int) -> tuple[Span, ...]:
    """The same spans, so many tokens farther on."""
    return tuple(Span(span.start + num_tokens, span.stop + num_tokens) for span in spans)


def _ends(branch: Branch) -> list[int]:
    """The tokens at which its suffixes and its child branches begin."""
    return [*(x.start for x in branch.suffixes), *(x.start for x in branch.branches)]


def _shortened(
    branch: Branch,
    suffixes: tuple[Suffix, ...],
    branches: tuple[Branch, ...],
    size: Callable[[Any], int],
) -> Branch | None:
    """The branch with only some of its suffixes and children, no longer than these need it.

    Returns:
        None if no suffix and no child is left.
    """
    if not suffixes and not branches:
        return None
    shorter = replace(branch, suffixes=suffixes, branches=branches)
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
    """The index of a sequence that contains all tokens of the branch."""
    at, index = max(
        [(suffix.start, suffix.sequences[0]) for suffix in branch.suffixes]
        + [(child.start, child.sequences[0]) for child in branch.branches]
    )
    assert at == branch.stop
    return index
