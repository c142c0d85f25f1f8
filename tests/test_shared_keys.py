"""Layers that use the keys of earlier layers, and inputs of single layers (the small Gemma 4)."""

from dataclasses import replace

import pytest
import torch
from decoder_models import DecoderStandIn, RandomFrames, ask, make_runner
from layer_kinds import build_kind, token_ids_of
from test_greedy import by_plain_passes, tokens_of
from test_kinds import NUM_TOKENS, case, ids_in
from test_prefill import build_decoder, embeddings
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from vniah.engines.inputs import DecoderInputs, SequenceCheck
from vniah.engines.planning import make_plan
from vniah.errors import ModelError
from vniah.forward.costs import DecoderShape
from vniah.forward.kinds.choosing import kinds_of, last_with_own_keys, open_cache
from vniah.forward.kinds.full import FullAttention
from vniah.forward.kinds.shared import ReusedKeys, SharedKeys
from vniah.forward.kinds.window import SlidingWindow
from vniah.forward.kv_cache import Layout
from vniah.forward.losses import token_losses
from vniah.forward.prefill import answer_logits, prefill, run_alone
from vniah.protocol import FrameSegment, FrameSpan, TextSegment


def test_kinds_say_which_layers_store_and_which_use_it_again():
    body = build_kind("gemma4_small").model
    window, full = SlidingWindow(10, 4, 2, 16), FullAttention(4, 2, 32)
    own = [window, SharedKeys(window), SharedKeys(full)]
    assert list(kinds_of(body)) == [*own, ReusedKeys(window), ReusedKeys(window), ReusedKeys(full)]
    assert last_with_own_keys(kinds_of(body)) == 2
    like = torch.zeros(1)
    cache = open_cache(body, Layout.whole(0, 50), ends=(50,), like=like, kv_location="device")
    shapes = [[tuple(t.shape) for t in cache.store.tensors(layer)] for layer in range(6)]
    assert shapes == [[(1, 2, 9, 16)] * 2] * 2 + [[(1, 2, 50, 32)] * 2] + [[]] * 3


@pytest.mark.parametrize("finishes", [False, True])
def test_main_rows_end_in_the_last_layer_with_keys_of_its_own(finishes, monkeypatch):
    decoder, rows, positions, _ = case("gemma4_small")
    calls = []
    for index, layer in enumerate(decoder.model.layers):
        for name in ("self_attn", "mlp"):
            part = getattr(layer, name)
            monkeypatch.setattr(
                part,
                "forward",
                lambda *args, forward=part.forward, at=(index, name), **kwargs: (
                    calls.append(at) or forward(*args, **kwargs)
                ),
            )
    ids = ids_in(decoder)
    prefill(decoder, rows.clone(), positions, [], token_ids=ids, finishes=finishes)
    whole = [(index, name) for index in range(6) for name in ("self_attn", "mlp")]
    assert calls == (whole if finishes else whole[:5])


@pytest.mark.parametrize("name", ["gemma4", "gemma4_small"])
@pytest.mark.parametrize("chunk_size", [1000, 40, 7])
def test_losses_equal_those_of_the_own_forward(name, chunk_size):
    """Where all main rows go through all layers."""
    decoder, rows, positions, logits = case(name)
    targets = torch.arange(60) % 97
    how = {"chunk_size": chunk_size, "token_ids": ids_in(decoder)}
    found = token_losses(decoder, rows.clone(), positions, targets, **how)
    expected = cross_entropy(logits[-61:-1], targets, reduction="none")
    assert (found - expected).abs().max() < 1e-4


def test_each_token_id_counts():
    decoder, rows, positions, expected = case("gemma4_small")
    for token in (70, NUM_TOKENS - 3):
        ids = ids_in(decoder).clone()
        ids[token] = (ids[token] + 1) % 97
        found = answer_logits(decoder, rows.clone(), positions, num_rows=5, token_ids=ids)
        assert (found - expected[-5:]).abs().max() > 0.01
    with pytest.raises(ModelError, match="something of every token's id, and these rows come with"):
        answer_logits(decoder, rows.clone(), positions, num_rows=5)


def test_ids_of_frames_are_those_of_padding():
    decoder = build_kind("gemma4_small", pad_token_id=5)
    inputs = DecoderInputs(DecoderStandIn(decoder), [], RandomFrames())
    frames = FrameSpan("haystack", 0, 2, before=(8, 9))
    segments = (TextSegment((1, 2)), FrameSegment("needle", 0), frames, TextSegment((3,)))
    ids = [1, 2, 5, 5, 5, *(8, 9, 5, 5, 5) * 2, 3]
    assert inputs.token_ids(segments, 0, len(ids)).tolist() == ids
    assert inputs.token_ids(segments, 1, 12).tolist() == ids[1:12]
    others = DecoderInputs(DecoderStandIn(build_decoder("qwen2")), [], RandomFrames())
    assert others.token_ids(segments, 0, len(ids)) is None


def test_token_without_an_input_of_the_layers_is_refused():
    decoder = build_kind("gemma4_small", vocab_size_per_layer_input=90)
    model = DecoderStandIn(decoder)
    with pytest.raises(ModelError, match="gave the token id 93; its decoder has embeddings for 0 "):
        SequenceCheck(model).require_readable(replace(ask(model, 3, None), answer_ids=(93, 1)))


@pytest.mark.parametrize("max_suffix_tokens", [0, 512])
def test_generated_tokens_are_those_of_the_own_forward(max_suffix_tokens):
    model = DecoderStandIn(build_kind("gemma4_small", std=0.2))
    sequences = [ask(model, n, ("a", 2), answer=answer) for n in (4, 9) for answer in ("7", "no")]
    found = tokens_of(model, sequences, max_suffix_tokens=max_suffix_tokens, chunk_size=10)
    assert found == by_plain_passes(model, sequences)
    assert len(set(found)) > 1


def test_operations_are_those_that_torch_counts():
    model = DecoderStandIn(build_kind("gemma4_small"))
    sequences = [ask(model, 14, None), ask(model, 9, None)]
    (root,) = make_plan(model, sequences, max_suffix_tokens=512).branches
    runner = make_runner(model, sequences, chunk_size=10)
    with FlopCounterMode(display=False) as counter:
        list(runner.run_all(root))
    counts = counter.get_flop_counts()["Global"]
    counted = counts[torch.ops.aten.mm] + counts.get(torch.ops.aten.addmm, 0)
    shape = DecoderShape.of(model.decoder)
    head = sum(2 * 64 * 97 * len(sequence.answer_ids) for sequence in sequences)
    flops = shape.flops_of([root])
    assert flops.linear + head == counted
    pairs = [
        sum(kind.num_pairs(suffix.start, suffix.num_tokens) for suffix in root.suffixes)
        + (index < 2) * kind.num_pairs(0, root.num_tokens)
        for index, kind in enumerate(kinds_of(model.decoder.model))
    ]
    sizes = [16, 16, 32] * 2
    assert flops.attention == sum(4 * 4 * d * num for d, num in zip(sizes, pairs, strict=True))
    assert shape.intermediate_size == 2 * 48  # of the layers without keys of their own


def test_a_row_is_multiplied_by_the_chosen_experts_only():
    decoder = build_kind("gemma4")
    matrices = [m for m in decoder.model.layers.modules() if isinstance(m, torch.nn.Linear)]
    dense = sum(m.weight.numel() for m in matrices)
    of_one = 3 * 64 * 16
    assert DecoderShape.of(decoder).linear_weights == dense + 4 * 2 * of_one


def test_layers_run_alone_for_measuring():
    decoder = build_kind("gemma4_small")
    for index in range(6):
        rows = embeddings(9)
        run_alone(decoder, index, rows)
        assert torch.isfinite(rows).all() and (rows - embeddings(9)).abs().max() > 0.1


def test_what_other_decoders_share_is_refused():
    decoder = build_kind("gemma3")
    decoder.config.num_kv_shared_layers = 2
    rows = embeddings(9)
    with pytest.raises(ModelError, match="gemma3_text has num_kv_shared_layers = 2 in its config"):
        answer_logits(decoder, rows, torch.arange(9), num_rows=1)
    decoder = build_kind("gemma4_small")
    for layer in decoder.model.layers:
        layer.self_attn.store_full_length_kv = False
    with pytest.raises(ModelError, match=r"layer 3 .* of which none is of its sizes"):
        answer_logits(
            decoder, rows, torch.arange(9), num_rows=1, token_ids=token_ids_of(decoder, 9)
        )
