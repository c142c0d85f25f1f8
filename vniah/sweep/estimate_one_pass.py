"""Estimates a sweep whose needles share the states of the haystack: the map from one pass.

It is planned as for the run, without frames; see `vniah.engines.one_pass`.
"""

from collections.abc import Sequence

from vniah.engines.base import EngineOptions
from vniah.engines.inputs import compose_candidates, num_deepstack_layers, positions_of
from vniah.engines.one_pass import OnePassEngine, PlannedMap
from vniah.engines.planning import SampleSequences, make_plan
from vniah.engines.splicing import SplicedSequence
from vniah.errors import InputError
from vniah.forward.costs import DecoderShape, Flops
from vniah.forward.devices import free_bytes
from vniah.forward.kv_cache import Span
from vniah.forward.prefill import CHUNK_SIZE
from vniah.forward.prefix_tree import Branch
from vniah.forward.splice_costs import SplicedSize, spliced_pass_parts
from vniah.models.outline import missing_bytes
from vniah.needles import NeedleSet
from vniah.options.approximation import Approximation
from vniah.protocol import DecoderModel, LanguageModel, TokenSequence
from vniah.sweep.approximate import choose_approximation, require_can_approximate
from vniah.sweep.estimated import NO_BYTES, Memory, OnePass, Work
from vniah.sweep.run import SweepOptions
from vniah.sweep.throughput import Rates
from vniah.tasks import Sample, Task
from vniah.tasks.controls.exact import is_exact_copy


def require_one_pass(
    task: Task, samples: Sequence[Sample], approximation: Approximation, num_ranks: int
) -> None:
    """Raises `InputError` for a sweep that is not run in this way."""
    window, verify = approximation.window, approximation.verify
    choose_approximation(SweepOptions(share="one-pass", window=window, verify=verify), task)
    require_can_approximate(samples)
    if getattr(task, "answer_tokens", None) is not None:
        raise InputError(
            f"the task {task.name} judges what a model writes, and states that all needles share "
            "are read by the argmax"
        )
    if num_ranks > 1:
        raise InputError("states that all needles share are held by one process")


def estimate_one_pass(
    model: DecoderModel | LanguageModel,
    samples: Sequence[Sample],
    copies: Sequence[Sample],
    approximation: Approximation,
    *,
    attention: str,
    rates: Rates,
) -> OnePass:
    """What the map from one pass takes.

    Args:
        model: as `vniah.sweep.estimate.estimate`.
        samples: all but the copies.
        copies: the samples of the control ``exact``.
        approximation: of the sweep.
        attention: as `vniah.sweep.estimate.estimate`.
        rates: those of the device.

    Raises:
        ModelError: the decoder, or the positions of the model, cannot share states in this way.
    """
    options = EngineOptions(share="one-pass", attention=attention, approximation=approximation)
    engine = OnePassEngine(model, options, is_exact=is_exact_copy)
    engine.prepare(None, NeedleSet.none(), 0)
    every = [*samples, *copies]
    engine.plan(every, [True] * len(every))
    planned, shape = engine.planned, DecoderShape.of(model.decoder)
    exact = [every[number] for number in planned.exact]
    work = map_work(planned, shape, rates)
    roots, sequences = _tree(model, exact)
    without, _ = _tree(model, [sample for sample in exact if not is_exact_copy(sample)])
    return OnePass(
        approximation,
        num_verified=len(copies),
        unverified=work + Work.of_tree(shape, without, rates),
        work=work + Work.of_tree(shape, roots, rates),
        memory=map_memory(model, planned, shape),
        exact=Memory.of_tree(
            shape,
            roots,
            sequences,
            model.decoder.lm_head.weight.device,
            missing=missing_bytes(model, shape),
        ),
    )


def _tree(
    model: DecoderModel | LanguageModel, samples: Sequence[Sample]
) -> tuple[Sequence[Branch], Sequence[TokenSequence]]:
    """The passes that run some samples exactly, and all their sequences."""
    composed = SampleSequences()
    for sample in samples:
        composed.add(compose_candidates(model, sample))
    plan = make_plan(model, composed.sequences, groups=composed.groups)
    return plan.branches, composed.sequences


def map_work(planned: PlannedMap, shape: DecoderShape, rates: Rates) -> Work:
    """The work of all parts; where there are several, the trunk has a pass of its own."""
    if not planned.parts:
        return Work.at(shape, rates, Flops(), num_passes=0, num_tokens=0)
    indices = [index for part in planned.parts for index in part]
    spliced = planned.spliced
    num_rows = sum(
        members[0].num_own + sum(one.suffix.num_tokens for one in members)
        for members in spliced.branches(indices)
    )
    return Work.at(
        shape,
        rates,
        spliced.flops(shape, indices),
        num_passes=len(planned.parts) + (len(planned.parts) > 1),
        num_tokens=spliced.num_trunk + num_rows,
    )


def map_memory(
    model: DecoderModel | LanguageModel, planned: PlannedMap, shape: DecoderShape
) -> Memory:
    """The memory of the largest pass; the trunk's keys and values wait on the device."""
    spliced, device = planned.spliced, model.decoder.lm_head.weight.device
    in_parts = [
        [_size_of(members, planned.sequences) for members in spliced.branches(part)]
        for part in planned.parts
    ]
    is_kept = len(in_parts) > 1
    num_trunk = spliced.num_trunk
    num_position_rows = positions_of(model, planned.sequences[0]).ndim * 2 - 1  # one, or three
    passes: list[tuple[int, int, list[SplicedSize]]] = [(num_trunk, 0, [])] if is_kept else []
    passes += [(0, num_trunk, part) if is_kept else (num_trunk, 0, part) for part in in_parts]
    largest = max(
        (
            spliced_pass_parts(
                shape,
                part,
                num_trunk=computed,
                num_past=past,
                chunk_size=CHUNK_SIZE,
                num_position_rows=num_position_rows,
                num_deepstack_layers=num_deepstack_layers(model),
            )
            for computed, past, part in passes
        ),
        key=lambda parts: parts.total,
        default=NO_BYTES,
    )
    missing = missing_bytes(model, shape)
    return Memory(
        weights=shape.weight_bytes,
        hidden=largest.hidden,
        keys_values=largest.keys_values,
        chunk=largest.chunk,
        chunk_size=CHUNK_SIZE,
        store=shape.store_bytes(num_trunk) if is_kept else 0,
        kv_location="device",
        device=str(device),
        free=free_bytes(device) - missing,
        host_weights=shape.host_weight_bytes,
        missing=missing,
    )


def _size_of(members: Sequence[SplicedSequence], sequences: Sequence[TokenSequence]) -> SplicedSize:
    """The size of a branch: its own rows are those of the longest of its sequences."""
    longest = members[0]
    blocks = [(longest, gap) for gap in longest.gaps] + [(one, one.suffix) for one in members]
    seen = [_seen(one, rows) for one, rows in blocks]
    return SplicedSize(
        num_rows=sum(rows.num_tokens for _, rows in blocks),
        num_entries=sum(num for num, _ in seen),
        num_turned=sum(num for _, num in seen),
        num_own_seen=sum(one.num_own for one in members),
        num_read=sum(len(sequences[one.index].answer_ids) for one in members),
    )


def _seen(one: SplicedSequence, rows: Span) -> tuple[int, int]:
    """How many pairs of a row and a run there are, and how often rows are turned back."""
    runs = [run for run in one.runs if run.stop <= rows.start]
    shifts = {run.start - run.trunk for run in runs} - {0}
    return rows.num_tokens * len(runs), rows.num_tokens * len(shifts)
