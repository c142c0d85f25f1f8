"""Plans of passes: what is shared gives what every sequence gives by itself and in plain."""

from dataclasses import replace

import pytest
import torch
from decoder_models import (
    DecoderStandIn,
    RandomFrames,
    ask,
    build_half,
    ids,
    largest_difference,
    plain,
    plain_sweep,
    run,
    sweep_of,
)
from test_prefill import FAMILIES, SIZES, build_decoder, three_rows
from transformers import Gemma2Config, Gemma2ForCausalLM

from vniah.engines.inputs import DecoderInputs, positions_of
from vniah.engines.planning import make_plan
from vniah.errors import ModelError
from vniah.protocol import Frames, FrameSegment, FrameSpan, TextSegment, TokenSequence

NEAR = 1e-4


@pytest.mark.parametrize("max_suffix_tokens", [0, 512])
@pytest.mark.parametrize("family", FAMILIES)
def test_tree_equals_the_plain_forward(family, max_suffix_tokens):
    model = DecoderStandIn(build_decoder(family))
    sequences = sweep_of(model)
    plan = make_plan(model, sequences, max_suffix_tokens=max_suffix_tokens)
    assert plan.note is None and plan.refused == {}
    assert plan.cost.num_tokens < 0.8 * plan.cost_alone.num_tokens
    assert max_suffix_tokens == 512 or any(root.branches for root in plan.branches)
    found = run(model, sequences, plan, chunk_size=10)
    assert largest_difference(found, plain_sweep(family)) < NEAR


@pytest.mark.parametrize("family", FAMILIES)
def test_single_passes_equal_the_plain_forward(family):
    model = DecoderStandIn(build_decoder(family))
    found = run(model, sweep_of(model), share=False, chunk_size=10)
    assert largest_difference(found, plain_sweep(family)) < NEAR


@pytest.mark.parametrize("family", FAMILIES)
def test_tree_in_bf16_is_as_near_to_fp32_as_the_plain_forward(family):
    half = DecoderStandIn(build_half(family))
    assert half.decoder.model.rotary_emb.inv_freq.dtype == torch.float32
    sequences = sweep_of(half)
    exact = torch.cat(plain_sweep(family))
    error = (torch.cat(plain(half, sequences)) - exact).abs()
    for share in (True, False):
        found = torch.cat(run(half, sequences, share=share, max_suffix_tokens=0, chunk_size=10))
        assert (found - exact).abs().mean() < 1.5 * error.mean()
        assert (found - exact).abs().max() < 2 * error.max()


def test_equal_sequences_are_read_once():
    model = DecoderStandIn(build_decoder("qwen2"))
    one, other = ask(model, 5, ("a", 2)), ask(model, 5, ("a", 2), answer="8")
    plan = make_plan(model, [one, one, other])
    (root,) = plan.branches
    assert [suffix.sequences for suffix in root.suffixes] == [(0, 1, 2)], (
        "the same is read for 7 and 8"
    )
    assert plan.cost.num_tokens == one.num_tokens(3)
    assert plan.cost_alone.num_tokens == 3 * one.num_tokens(3)


def test_nothing_is_shared_when_it_is_not_asked_for():
    model = DecoderStandIn(build_decoder("qwen2"))
    plan = make_plan(model, sweep_of(model), share=False)
    assert plan.note is None and plan.cost == plan.cost_alone
    assert all(len(root.suffixes) == 1 and not root.branches for root in plan.branches)


class SaysNo(DecoderStandIn):
    shares_prefixes = False


def reversed_positions(num_tokens):
    return torch.arange(num_tokens).flip(0)


def offset_by_length(num_tokens):
    """Text behind the frames goes on from a number that depends on how many there are."""
    return three_rows(num_tokens) + num_tokens // 7


def rope_model(rope_type, **rope):
    scaled = {"rope_type": rope_type, "rope_theta": 1e4, "factor": 4.0, **rope}
    return DecoderStandIn(
        build_decoder("llama", rope_parameters=scaled, max_position_embeddings=64)
    )


def longrope_model():
    """Sequences of `sweep_of` have 29 to 80 tokens: before and behind the original length."""
    half = 8  # of a head's size
    return rope_model(
        "longrope",
        original_max_position_embeddings=48,
        short_factor=[1.0 + k / 10 for k in range(half)],
        long_factor=[2.0 + k for k in range(half)],
    )


@pytest.mark.parametrize(
    ("make_model", "note"),
    [
        (lambda: SaysNo(build_decoder("qwen2")), "stand-in says that its prefixes cannot"),
        (lambda: rope_model("dynamic"), "RoPE of the kind 'dynamic' depends on the length"),
        (longrope_model, "RoPE of the kind 'longrope' depends on the length"),
        (
            lambda: DecoderStandIn(build_decoder("qwen2"), reversed_positions),
            "position ids depend on what follows",
        ),
        (
            lambda: DecoderStandIn(build_decoder("qwen2_vl"), offset_by_length),
            "position ids depend on what follows",
        ),
    ],
)
def test_every_sequence_runs_by_itself_where_sharing_would_be_wrong(make_model, note):
    model = make_model()
    sequences = sweep_of(model)[::2]
    plan = make_plan(model, sequences, max_suffix_tokens=0)
    assert plan.note is not None and note in plan.note
    assert plan.refused == {} and plan.cost == plan.cost_alone
    expected = [plain(make_model(), [sequence])[0] for sequence in sequences]
    assert largest_difference(run(model, sequences, plan, chunk_size=10), expected) < NEAR
    again = run(model, sequences[::-1], share=True, chunk_size=64)
    assert largest_difference(again, expected[::-1]) < NEAR, "no length is remembered"


def test_longrope_is_tried_on_both_sides_of_the_original_length():
    model = longrope_model()
    lengths = [sequence.num_tokens(3) for sequence in sweep_of(model)]
    assert min(lengths) < 48 < max(lengths)


class CountsFirst(DecoderStandIn):
    """Its prompt begins with the number of frames."""

    def compose(self, frames, question, answer):
        inner = super().compose(frames, question, answer)
        return TokenSequence((TextSegment((len(frames),)), *inner.segments), inner.answer_ids)


def test_prompt_that_begins_with_what_follows_shares_nothing_and_is_right():
    model = CountsFirst(build_decoder("qwen2"))
    sequences = [ask(model, num_frames, None) for num_frames in (4, 9, 14)]
    plan = make_plan(model, sequences, max_suffix_tokens=0)
    assert plan.note is None and plan.cost == plan.cost_alone
    assert largest_difference(run(model, sequences, plan), plain(model, sequences)) < NEAR


def look_both_ways(decoder):
    decoder.config.use_bidirectional_attention = True
    return decoder


def look_ahead_once(decoder):
    decoder.model.layers[2].self_attn.is_causal = False
    return decoder


@pytest.mark.parametrize(
    ("make_decoder", "reason"),
    [
        (lambda: look_both_ways(build_decoder("llama")), "attends in both directions"),
        (lambda: look_ahead_once(build_decoder("llama")), "attends in both directions"),
        (lambda: build_decoder("llama").train(), "in training mode"),
        (
            lambda: Gemma2ForCausalLM(Gemma2Config(**SIZES, head_dim=16)).eval(),
            "got model_type 'gemma2'",
        ),
    ],
)
def test_decoder_that_cannot_be_run_exactly_is_refused(make_decoder, reason):
    model = DecoderStandIn(make_decoder())
    plan = make_plan(model, [ask(model, 4, None), ask(model, 9, None)])
    assert plan.branches == () and plan.refused.keys() == {0, 1}
    assert all(reason in text and "\n" not in text for text in plan.refused.values())


def test_soft_capped_scores_are_refused():
    decoder = build_decoder("qwen2")
    for layer in decoder.model.layers:
        layer.self_attn.forward = capped(layer.self_attn.forward)
    model = DecoderStandIn(decoder)
    with pytest.raises(ModelError, match="gives attention the argument 'softcap', which"):
        run(model, [ask(model, 4, None)])


def capped(forward):
    def with_cap(*args, **kwargs):
        return forward(*args, softcap=50.0, **kwargs)

    return with_cap


class DeepFrames(DecoderStandIn):
    frame_shape = (2, 3, 64)


@pytest.mark.parametrize("use", [make_plan, lambda m, _: DecoderInputs(m, [], RandomFrames())])
def test_frames_that_are_no_rows_are_refused(use):
    with pytest.raises(ModelError, match=r"stand-in has frame_shape \(2, 3, 64\)"):
        use(DeepFrames(build_decoder("qwen2")), [])


def test_prompt_without_tokens_is_refused():
    model = DecoderStandIn(build_decoder("qwen2"))
    plan = make_plan(model, [TokenSequence((TextSegment(()),), (7,)), ask(model, 4, None)])
    assert plan.refused == {0: "compose of stand-in gave no token before the answer"}
    assert len(plan.branches) == 1


def test_positions_of_another_shape_are_refused():
    model = DecoderStandIn(build_decoder("qwen2"), lambda n: torch.arange(n + 1))
    with pytest.raises(ModelError, match="one position for each of 29 tokens"):
        positions_of(model, ask(model, 4, None))


SEGMENTS = (
    TextSegment((1, 2, 3)),
    FrameSegment("x", 0),
    FrameSegment("x", 1),
    TextSegment(()),
    FrameSegment("y", 5),
    TextSegment((4, 5)),
    FrameSegment("x", 2),
)


def test_any_part_of_the_segments_is_looked_up():
    model = DecoderStandIn(build_decoder("qwen2"))
    inputs = DecoderInputs(model, [], RandomFrames())
    pieces = [inputs.embed([segment], 0, inputs.size(segment)) for segment in SEGMENTS]
    assert [len(piece) for piece in pieces] == [3, 3, 3, 0, 3, 2, 3]
    whole = torch.cat(pieces)
    for start in range(len(whole)):
        for stop in range(start, len(whole) + 1):
            assert torch.equal(inputs.embed(SEGMENTS, start, stop), whole[start:stop])


SPANS = (
    TextSegment((1, 2, 3)),
    FrameSpan("x", 0, 3),
    FrameSpan("x", 5, 8, before=(4, 5)),
    FrameSpan("y", 1, 3, before=(6,), after=(7, 8)),
    TextSegment((9,)),
    FrameSpan("x", 8, 9, after=(10,)),
)


class Runs:
    """In place of a `FrameStore`: pieces of up to two frames, whatever they belong to."""

    def read_runs(self, frames, *, part=None):
        rows = [*RandomFrames().read_runs(frames)]
        for start in range(0, len(rows), 2):
            yield torch.cat(rows[start : start + 2])


@pytest.mark.parametrize("store", [RandomFrames(), Runs()])
def test_spans_are_looked_up_as_their_frames_are(store):
    model = DecoderStandIn(build_decoder("qwen2"))
    inputs = DecoderInputs(model, [], store)
    single = TokenSequence(SPANS, (1,)).segments
    assert len(single) == 19
    whole = torch.cat([inputs.embed([segment], 0, inputs.size(segment)) for segment in single])
    assert len(whole) == sum(map(inputs.size, SPANS))
    for start in range(len(whole)):
        for stop in range(start, len(whole) + 1, 5):
            assert torch.equal(inputs.embed(SPANS, start, stop), whole[start:stop])
    is_frame = [torch.full((inputs.size(s),), isinstance(s, FrameSegment)) for s in single]
    assert torch.equal(inputs.is_frame(SPANS), torch.cat(is_frame))


class InSpans(DecoderStandIn):
    """Composes spans with text between their frames, where the stand-in composes frames."""

    def compose(self, frames, question, answer):
        spans = [replace(span, before=(7, 8), after=(9,)) for span in Frames.of(frames).spans]
        return TokenSequence((TextSegment((1, 2)), *spans, TextSegment((5, 6))), ids(answer))


class OneByOne(InSpans):
    def compose(self, frames, question, answer):
        sequence = super().compose(frames, question, answer)
        return TokenSequence(sequence.segments, sequence.answer_ids)


@pytest.mark.parametrize("max_suffix_tokens", [0, 512])
def test_what_is_composed_in_spans_and_frame_by_frame_gives_the_same_bits(max_suffix_tokens):
    decoder = build_decoder("qwen2")
    found = []
    for model in (InSpans(decoder), OneByOne(decoder)):
        sequences = sweep_of(model)
        plan = make_plan(model, sequences, max_suffix_tokens=max_suffix_tokens)
        assert plan.note is None and plan.cost.num_tokens < plan.cost_alone.num_tokens
        found.append((plan.cost, run(model, sequences, plan, chunk_size=10)))
    (cost, logits), (other_cost, others) = found
    assert cost == other_cost
    assert all(torch.equal(one, other) for one, other in zip(logits, others, strict=True))
    expected = plain(InSpans(decoder), sweep_of(InSpans(decoder)))
    assert largest_difference(logits, expected) < NEAR


def test_both_ways_to_compose_share_in_one_tree():
    decoder = build_decoder("qwen2")
    sequences = [ask(kind(decoder), n, ("a", 2)) for n in (4, 9) for kind in (InSpans, OneByOne)]
    (root,) = make_plan(InSpans(decoder), sequences).branches
    assert [suffix.sequences for suffix in root.suffixes] == [(0, 1), (2, 3)]


class Promises(DecoderStandIn):
    has_causal_positions = True


@pytest.mark.parametrize("max_suffix_tokens", [0, 512])
def test_broken_promise_about_positions_ends_the_run(max_suffix_tokens):
    model = Promises(build_decoder("qwen2"), reversed_positions)
    sequences = sweep_of(model)
    plan = make_plan(model, sequences, max_suffix_tokens=max_suffix_tokens)
    assert plan.note is None
    with pytest.raises(ModelError, match=r"position ids depend on what follows: those of token 0"):
        run(model, sequences, plan)


def test_kept_promise_about_positions_gives_the_same_plan():
    decoder = build_decoder("qwen2")
    plans = [
        make_plan(kind(decoder), sweep_of(kind(decoder))) for kind in (Promises, DecoderStandIn)
    ]
    assert plans[0] == plans[1]


def test_embeddings_have_the_dtype_of_the_decoder():
    model = DecoderStandIn(build_half("qwen2"))
    assert DecoderInputs(model, [], RandomFrames()).embed(SEGMENTS, 0, 17).dtype == torch.bfloat16
