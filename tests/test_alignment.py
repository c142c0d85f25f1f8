"""What a sequence has in common with the plain haystack, and how it is spliced into it."""

import numpy as np
import pytest
import torch
from decoder_models import (
    TOKENS_PER_FRAME,
    DecoderStandIn,
    RandomFrames,
    ask,
    plain,
    sweep_of,
)
from test_prefill import build_decoder, three_rows

from vniah.engines.alignment import Run, TokenKeys, runs_of
from vniah.engines.splicing import SplicedMap, Trunk
from vniah.errors import ModelError
from vniah.protocol import FrameSpan, TextSegment

TRUNK = np.arange(100, 200)


def keys(*parts):
    return np.concatenate([np.array(part, np.int64) for part in parts])


@pytest.mark.parametrize(
    ("sequence", "runs"),
    [
        ([TRUNK[:40]], [Run(0, 0, 40)]),
        ([TRUNK[:40], [1, 2, 3]], [Run(0, 0, 40)]),
        ([TRUNK[:40], [1, 2, 3], TRUNK[40:70], [9]], [Run(0, 0, 40), Run(43, 40, 30)]),
        ([[1, 2], TRUNK[:70]], [Run(2, 0, 70)]),
        ([TRUNK, [1, 2]], [Run(0, 0, 100)]),
        ([TRUNK[:40], [1], TRUNK[43:70]], [Run(0, 0, 40), Run(41, 43, 27)]),
        (
            [TRUNK[:10], [1] * 5, TRUNK[10:30], [2] * 50, TRUNK[30:60], [3]],
            [Run(0, 0, 10), Run(15, 10, 20), Run(85, 30, 30)],
        ),
        ([TRUNK[:10], [1], TRUNK[10:13]], [Run(0, 0, 10)]),  # too little to be sure of
        ([TRUNK[:10], [1], TRUNK[60:]], [Run(0, 0, 10)]),  # too far away
        ([TRUNK[:10], TRUNK[5:30]], [Run(0, 0, 10), Run(15, 10, 20)]),
        ([[1, 2, 3]], []),
        ([[]], []),
    ],
)
def test_runs_are_found_around_what_is_put_in(sequence, runs):
    own = keys(*sequence)
    found = runs_of(own, TRUNK)
    assert list(found) == runs
    for run in found:
        assert np.array_equal(own[run.start : run.stop], TRUNK[run.trunk : run.trunk_stop])


def test_runs_are_disjoint_and_equal_whatever_is_put_in():
    draw = np.random.default_rng(0)
    for _ in range(200):
        trunk = draw.integers(0, 3, 120)  # few different tokens: runs are everywhere
        cuts = np.sort(draw.integers(0, 120, 3))
        parts = [trunk[: cuts[0]], draw.integers(0, 3, 7), trunk[cuts[0] : cuts[1]]]
        own = keys(*parts, draw.integers(3, 5, 4), trunk[cuts[1] : cuts[2]], [9])
        at = behind = 0
        for run in runs_of(own, trunk):
            assert run.start >= at and run.trunk >= behind and run.num_tokens
            assert np.array_equal(own[run.start : run.stop], trunk[run.trunk : run.trunk_stop])
            at, behind = run.stop, run.trunk_stop


def test_keys_are_equal_where_the_model_reads_the_same():
    of = TokenKeys(3).of
    whole = of((TextSegment((5, 6)), FrameSpan("a", 2, 5, before=(7,), after=(8, 9))))
    assert whole[:3].tolist() == [5, 6, 7] and whole[6:8].tolist() == [8, 9]
    assert len(whole) == 2 + 3 * (1 + 3 + 2)
    assert len(np.unique(whole[whole < 0])) == 9
    assert np.array_equal(of((FrameSpan("a", 3, 4),)), whole[9:12])
    assert not np.isin(of((FrameSpan("b", 0, 9),)), whole).any()


def trunk_of(model, num_frames=14):
    return Trunk(ask(model, num_frames, None), 4 + TOKENS_PER_FRAME * num_frames)


def read(model, sequences, trunk, *, window, max_rows=10_000):
    spliced = SplicedMap(model, sequences, trunk, RandomFrames(), window=window)
    parts = spliced.parts(range(len(sequences)), max_rows)
    assert sorted(index for part in parts for index in part) == list(range(len(sequences)))
    past = spliced.keep_trunk(chunk_size=16) if len(parts) > 1 else None
    found = {}
    for part in parts:
        found |= spliced.run(part, lambda index, logits: logits, chunk_size=16, past=past)
    return spliced, [found[index] for index in range(len(sequences))]


@pytest.mark.parametrize("family", ["qwen2", "qwen2_vl"])
@pytest.mark.parametrize("max_rows", [1, 60, 10_000])
def test_a_whole_sweep_is_exact_where_windows_reach_the_questions(family, max_rows):
    model = DecoderStandIn(build_decoder(family))
    sequences = sweep_of(model)
    spliced, found = read(model, sequences, trunk_of(model), window=1000, max_rows=max_rows)
    assert all(one.is_exact for one in spliced.spliced)
    for one, expected in zip(found, plain(model, sequences), strict=True):
        assert one.shape == expected.shape and (one - expected).abs().max() < 1e-4


def test_without_a_window_what_stands_before_the_needle_is_exact_and_nothing_else():
    model = DecoderStandIn(build_decoder("qwen2"))
    sequences = sweep_of(model)
    spliced, found = read(model, sequences, trunk_of(model), window=0)
    close = [
        bool((one - expected).abs().max() < 1e-4)
        for one, expected in zip(found, plain(model, sequences), strict=True)
    ]
    assert close == [one.is_exact for one in spliced.spliced]
    assert 0 < sum(close) < len(close)


def test_parts_of_a_run_give_what_one_pass_gives():
    model = DecoderStandIn(build_decoder("llama"))
    sequences = sweep_of(model)
    spliced, whole = read(model, sequences, trunk_of(model), window=TOKENS_PER_FRAME)
    _, parts = read(model, sequences, trunk_of(model), window=TOKENS_PER_FRAME, max_rows=1)
    assert all((a - b).abs().max() < 1e-5 for a, b in zip(whole, parts, strict=True))
    assert any(not one.is_exact for one in spliced.spliced)


def test_positions_that_do_not_move_as_one_are_refused():
    def stretched(num_tokens):
        """Every second token behind the 25th stands still where the sequence is long."""
        at = torch.arange(num_tokens)
        return torch.where((at > 25) & (num_tokens % 2 == 0), at + at // 7, at)

    model = DecoderStandIn(build_decoder("qwen2"), stretched)
    sequences = [ask(model, 14, ("a", 2), answer=answer) for answer in ("1", "12")]
    with pytest.raises(ModelError, match="stand-in behind it by different distances"):
        read(model, sequences, trunk_of(model), window=0)


def test_three_rows_of_positions_move_by_three_numbers():
    model = DecoderStandIn(build_decoder("qwen2_vl"), three_rows)
    (spliced, (found,)) = read(model, [ask(model, 9, ("a", 9))], trunk_of(model), window=0)
    (expected,) = plain(model, [ask(model, 9, ("a", 9))])
    assert spliced.spliced[0].is_exact and (found - expected).abs().max() < 1e-4
