"""All kinds of layers in the prefill, against each decoder's own forward pass."""

import sys
from functools import cache

import pytest
import torch
from decoder_models import DecoderStandIn, largest_difference, plain, run, sweep_of
from layer_kinds import DECODERS, build_kind, positions_of, token_ids_of
from test_prefill import allocated_bytes, build_decoder, embeddings

from vniah.engines.planning import make_plan
from vniah.errors import ModelError
from vniah.forward import rotation
from vniah.forward.costs import DecoderShape
from vniah.forward.kinds.base import PassTokens, chunks_of
from vniah.forward.kinds.choosing import (
    heads_of,
    kinds_of,
    open_cache,
    require_can_ring,
    require_can_splice,
)
from vniah.forward.kinds.full import FullAttention
from vniah.forward.kinds.latent import LatentAttention
from vniah.forward.kinds.recurrent import Recurrent
from vniah.forward.kinds.window import ChunkedAttention, SlidingWindow
from vniah.forward.kv_cache import KeyValueCache, Layout, Span
from vniah.forward.prefill import answer_logits, prefill
from vniah.forward.prefix_tree import Branch, Suffix
from vniah.forward.suffixes import SuffixRows
from vniah.protocol import TextSegment, TokenSequence

NUM_TOKENS = 150
NEAR = 1e-4


@cache
def case(name, **changes):
    """A decoder, embeddings of a sequence, its positions, and its logits by the own forward."""
    decoder = build_kind(name, **changes)
    rows, positions = embeddings(NUM_TOKENS), positions_of(name, NUM_TOKENS)
    ids, more = token_ids_of(decoder, NUM_TOKENS), {}
    with torch.inference_mode():
        if ids is not None:
            more["per_layer_inputs"] = decoder.model.get_per_layer_inputs(ids[None])
        logits = decoder(
            inputs_embeds=rows[None],
            position_ids=positions[None] if positions.ndim == 1 else positions[:, None],
            use_cache=False,
            **more,
        ).logits[0]
    return decoder, rows, positions, logits


def ids_in(decoder, inside=slice(None)):
    """The ids of some tokens of the sequence, if the decoder asks for them."""
    ids = token_ids_of(decoder, NUM_TOKENS)
    return None if ids is None else ids[inside]


def is_near(found, expected):
    assert torch.equal(found.argmax(-1), expected.argmax(-1))
    return float((found - expected).abs().max()) < NEAR


# Chunks of one row take long: one decoder of each way to read what came before.
ROW_BY_ROW = ("gemma3", "gemma4_small", "llama4", "mistral4", "nemotron_h", "lfm3")


@pytest.mark.parametrize(
    ("name", "chunk_size"),
    [(name, size) for name in DECODERS for size in (1000, 64, 7)] + [(n, 1) for n in ROW_BY_ROW],
)
def test_chunks_give_what_the_own_forward_gives(name, chunk_size):
    decoder, rows, positions, expected = case(name)
    how = {"num_rows": 5, "chunk_size": chunk_size, "token_ids": ids_in(decoder)}
    found = answer_logits(decoder, rows.clone(), positions, **how)
    assert is_near(found, expected[-5:])


@pytest.mark.parametrize("window", [1, 2, 3, 64, 149, 150, 1000])
@pytest.mark.parametrize("chunk_size", [1000, 40, 3])
def test_windows_of_any_size_give_what_the_own_forward_gives(window, chunk_size):
    decoder, rows, positions, expected = case("gemma3", sliding_window=window)
    found = answer_logits(decoder, rows.clone(), positions, num_rows=40, chunk_size=chunk_size)
    assert is_near(found, expected[-40:])


@pytest.mark.parametrize("size", [1, 2, 149, 150, 1000])
def test_chunks_of_attention_of_any_size_give_what_the_own_forward_gives(size):
    decoder, rows, positions, expected = case("llama4", attention_chunk_size=size)
    found = answer_logits(decoder, rows.clone(), positions, num_rows=40, chunk_size=33)
    assert is_near(found, expected[-40:])


def suffixes_at(rows, positions, places, ids=None):
    """Suffixes of the sequence itself; all of their rows are read."""
    return [
        SuffixRows(
            (Span(0, at),),
            rows[at : at + n].clone(),
            positions[..., at : at + n],
            n,
            token_ids=None if ids is None else ids[at : at + n],
        )
        for at, n in places
    ]


def read(decoder, rows, positions, span, places, **how):
    """The logits of suffixes that stand at some places, after a pass over a span."""
    inside = slice(*span)
    suffixes = suffixes_at(rows, positions, places, ids_in(decoder))
    how["token_ids"] = ids_in(decoder, inside)
    return prefill(decoder, rows[inside].clone(), positions[..., inside], suffixes, **how)


def are_near(found, expected, places):
    return all(
        is_near(logits, expected[at : at + n])
        for logits, (at, n) in zip(found, places, strict=True)
    )


@pytest.mark.parametrize("name", DECODERS)
def test_suffixes_and_later_passes_go_on_anywhere(name):
    """In the middle of a window, of a chunk of attention, of a block of a recurrent layer."""
    decoder, rows, positions, expected = case(name)
    like = decoder.lm_head.weight

    def room(start, stop, ends, place):
        layout = Layout.whole(start, stop)
        return open_cache(decoder.model, layout, ends=ends, like=like, kv_location=place)

    # Of several lengths, not in order, two at one place, at the beginning and at the end.
    places = [(40, 9), (90, 9), (101, 20), (0, 4), (3, 9), (40, 1), (101, 9)]
    trunk = room(0, 101, (37, 71, 101), "host")
    found = read(decoder, rows, positions, (0, 101), places, cache=trunk, chunk_size=30)
    assert are_near(found, expected, places)
    places = [(120, 30), (71, 3), (80, 9)]
    found = read(decoder, rows, positions, (71, 120), places, past=[trunk.until(71)], chunk_size=20)
    assert are_near(found, expected, places)
    child = room(37, 60, (41, 60), "disk")
    read(decoder, rows, positions, (37, 60), [], past=[trunk.until(37)], cache=child)
    past = [trunk.until(37), child.until(41)]
    found = read(decoder, rows, positions, (41, 100), [(100, 30)], past=past, chunk_size=20)
    assert are_near(found, expected, [(100, 30)])
    # As tokens are generated: no main rows.
    places = [(60, 1), (41, 12), (60, 7)]
    found = read(decoder, rows, positions, (60, 60), places, past=[trunk.until(37), child])
    assert are_near(found, expected, places)


@pytest.mark.parametrize("name", ["nemotron_h", "qwen3_5", "lfm2"])
def test_no_row_behind_a_state_is_computed_alone(name):
    """transformers computes it by another formula, for Mamba-2 without a limit."""
    limit = {"time_step_min": 1.0} if name == "nemotron_h" else {}
    decoder, rows, positions, expected = case(name, **limit)
    like = decoder.lm_head.weight
    trunk = open_cache(
        decoder.model, Layout.whole(0, 100), ends=(49, 99, 100), like=like, kv_location="host"
    )
    places = [(50, 9), (51, 1), (52, 9), (54, 2), (98, 3), (99, 1), (100, 9)]
    found = read(decoder, rows, positions, (0, 100), places, cache=trunk, chunk_size=33)
    assert are_near(found, expected, places)
    places = [(120, 1), (121, 5), (103, 4), (119, 2)]
    for chunk_size in (1, 2, 3, 19, 20, 21):
        found = read(
            decoder,
            rows,
            positions,
            (99, 121),
            places,
            past=[trunk.until(99)],
            chunk_size=chunk_size,
        )
        assert are_near(found, expected, places), chunk_size


def test_what_no_pass_has_stored_is_not_read():
    for name in ("mistral", "qwen3_5"):
        decoder, rows, positions, _ = case(name)
        layout, like = Layout.whole(0, 71), decoder.lm_head.weight
        trunk = open_cache(decoder.model, layout, ends=(37, 71), like=like, kv_location="host")
        read(decoder, rows, positions, (0, 71), [], cache=trunk)
        with pytest.raises(AssertionError, match="has stored"):
            read(decoder, rows, positions, (50, 60), [(60, 3)], past=[trunk.until(50)])


class Spaced(DecoderStandIn):
    """With a token before each frame, as a decoder needs it whose images see themselves."""

    def compose(self, frames, question, answer):
        sequence = super().compose(frames, question, answer)
        spaced = []
        for segment in sequence.segments:
            spaced += [TextSegment((8,)), segment] if segment in sequence.frames else [segment]
        return TokenSequence(tuple(spaced), sequence.answer_ids)


TREES = (
    "gemma3",
    "gemma4",
    "gemma4_small",
    "gpt_oss",
    "llama4",
    "mistral4",
    "qwen3_5",
    "lfm3",
    "nemotron_h",
)


@pytest.mark.parametrize("name", TREES)
@pytest.mark.parametrize("max_suffix_tokens", [0, 512])
def test_tree_shares_and_gives_what_the_own_forward_gives(name, max_suffix_tokens):
    model = Spaced(build_kind(name, std=0.2), lambda num: positions_of(name, num))
    sequences = sweep_of(model)
    plan = make_plan(model, sequences, max_suffix_tokens=max_suffix_tokens)
    assert plan.note is None and plan.cost.num_tokens < plan.cost_alone.num_tokens
    found = run(model, sequences, plan, chunk_size=10)
    assert largest_difference(found, plain(model, sequences)) < NEAR


def test_rows_that_attend_to_nothing_before_differ():
    """The cases of this file would see a state, a window or a count that is forgotten."""
    for name in DECODERS:
        decoder, rows, positions, expected = case(name)
        ids = ids_in(decoder, slice(-12, None))
        how = {"num_rows": 5, "token_ids": ids}
        alone = answer_logits(decoder, rows[-12:].clone(), positions[..., -12:], **how)
        assert (alone - expected[-5:]).abs().max() > 0.05, name


# Images that see themselves.

IMAGES = [Span(12, 28), Span(31, 32), Span(40, 56), Span(60, 69), Span(90, 106)]


@cache
def case_with_images(name, window):
    decoder = build_kind(name, sliding_window=window)
    rows, positions = embeddings(NUM_TOKENS), torch.arange(NUM_TOKENS)
    image_of = torch.full((1, NUM_TOKENS), -1)
    for number, image in enumerate(IMAGES):
        image_of[:, slice(*image)] = number
    masks = sys.modules[type(decoder).__module__].create_masks_for_vision_model(
        config=decoder.config,
        inputs_embeds=rows[None],
        attention_mask=None,
        past_key_values=None,
        position_ids=positions[None],
        block_sequence_ids=image_of,
    )
    with torch.inference_mode():
        logits = decoder(inputs_embeds=rows[None], attention_mask=masks, use_cache=False).logits[0]
    return decoder, rows, positions, logits


@pytest.mark.parametrize(
    ("name", "window"),
    [("gemma3", w) for w in (2, 5, 16, 40, 400)] + [("gemma4", 5), ("gemma4", 40)],
)
@pytest.mark.parametrize("chunk_size", [1000, 64, 20, 7, 1])
def test_images_see_themselves(name, window, chunk_size):
    decoder, rows, positions, expected = case_with_images(name, window)
    found = answer_logits(
        decoder, rows.clone(), positions, num_rows=44, images=IMAGES, chunk_size=chunk_size
    )
    assert is_near(found, expected[-44:])
    without = answer_logits(decoder, rows.clone(), positions, num_rows=44)
    assert (without - expected[-44:]).abs().max() > 0.05


@pytest.mark.parametrize("name", ["gemma3", "gemma4"])
@pytest.mark.parametrize("window", [5, 40])
def test_passes_go_on_behind_an_image_and_suffixes_hold_images(name, window):
    decoder, rows, positions, expected = case_with_images(name, window)
    like, layout = decoder.lm_head.weight, Layout.whole(0, 59)
    trunk = open_cache(decoder.model, layout, ends=(36, 59), like=like, kv_location="host")
    suffix = SuffixRows(
        (Span(0, 35),), rows[35:70].clone(), positions[35:70], 35, None, (Span(5, 21), Span(25, 34))
    )
    (found,) = prefill(
        decoder,
        rows[:59].clone(),
        positions[:59],
        [suffix],
        images=IMAGES[:3],
        cache=trunk,
        chunk_size=20,
    )
    assert is_near(found, expected[35:70])
    suffixes = suffixes_at(rows, positions, [(110, 40), (107, 3)])
    found = prefill(
        decoder,
        rows[36:110].clone(),
        positions[36:110],
        suffixes,
        images=IMAGES[2:],
        past=[trunk.until(36)],
        chunk_size=30,
    )
    assert are_near(found, expected, [(110, 40), (107, 3)])


def test_chunks_end_nowhere_inside_an_image():
    tokens = tokens_of(NUM_TOKENS, chunk_size=10, images=tuple(IMAGES))
    chunks = chunks_of(tokens, sees_images=True)
    assert [chunk.start for chunk in chunks[1:]] == [chunk.stop for chunk in chunks[:-1]]
    assert (chunks[0].start, chunks[-1].stop) == (0, NUM_TOKENS)
    borders = {chunk.start for chunk in chunks}
    assert not any(image.start < border < image.stop for image in IMAGES for border in borders)
    inside = [
        (chunk.start + image.start, chunk.start + image.stop)
        for chunk in chunks
        for image in chunk.images
    ]
    assert inside == [tuple(image) for image in IMAGES]


def tokens_of(num_tokens, *, chunk_size=1000, ends=(), images=()):
    layout, like = Layout.whole(0, num_tokens), torch.zeros(1)
    return PassTokens(layout, 0, (), tuple(ends), images, chunk_size, None, None, like)


# What is refused.


def planted(name, layer, kind):
    decoder = build_kind(name)
    types = list(decoder.config.layer_types)
    types[layer] = kind
    decoder.config.layer_types = types
    return decoder


def with_layers(name, layer_types, **changes):
    """A config that states kinds of layers of which the decoder knows nothing."""
    decoder = build_kind(name)
    decoder.config.layer_types = layer_types
    for key, value in changes.items():
        setattr(decoder.config, key, value)
    return decoder


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (
            lambda: planted("qwen3_5", 1, "lightning_attention"),
            "layer 1 of the decoder qwen3_5_text is of the kind 'lightning_attention'; the "
            "forward pass knows full_attention, sliding_attention, ",
        ),
        (
            lambda: planted("qwen3_5", 0, "full_attention"),
            "layer 0 of the decoder qwen3_5_text is stated as 'full_attention', and has no",
        ),
        (
            lambda: with_layers("mistral", ["full_attention"] + ["sliding_attention"] * 3),
            "is stated as 'full_attention', and a decoder of this type has a sliding window in all "
            "layers, here of 7 tokens, or in none",
        ),
        (
            lambda: with_layers("ministral3", ["sliding_attention"] * 4, sliding_window=None),
            "is stated as 'sliding_attention', and config.json gives it no window",
        ),
        (
            lambda: with_layers("llama4", ["sliding_attention"] * 4, sliding_window=9),
            "its module Llama4TextAttention knows no sliding window",
        ),
        (
            lambda: with_layers("deepseek_v3", ["sliding_attention"] * 4, sliding_window=9),
            "its module DeepseekV3Attention knows no sliding window",
        ),
        (
            lambda: planted("gemma3", 0, "full_attention"),
            "its module Gemma3Attention is of the kind 'sliding_attention'",
        ),
        (
            lambda: planted("lfm3", 0, "linear_attention"),
            "its module is NoneType; of linear attention, gated delta rules and Mamba-2 are known",
        ),
        (
            lambda: build_kind("gemma3", attn_logit_softcapping=20.0),
            "the decoder gemma3_text has attn_logit_softcapping = 20.0 in its config.json, which "
            "the forward pass leaves out",
        ),
        (
            lambda: build_kind("gemma3", use_bidirectional_attention=True),
            "attends in both directions",
        ),
    ],
)
def test_what_would_be_left_out_is_refused_by_name(make, reason):
    decoder = make()
    with pytest.raises(ModelError) as caught:
        answer_logits(decoder, embeddings(30), positions_of("", 30), num_rows=1)
    assert reason in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("argument", "value"), [("softcap", 30.0), ("position_bias", torch.ones(1)), ("indices", [1])]
)
def test_argument_of_attention_that_nobody_handles_is_refused(argument, value, monkeypatch):
    decoder = build_decoder("qwen2")
    for layer in decoder.model.layers:
        forward = layer.self_attn.forward
        monkeypatch.setattr(
            layer.self_attn,
            "forward",
            lambda *args, forward=forward, **known: forward(*args, **{argument: value}, **known),
        )
    with pytest.raises(ModelError, match=f"gives attention the argument '{argument}', which"):
        answer_logits(decoder, embeddings(9), torch.arange(9), num_rows=1)


@pytest.mark.parametrize("name", ["gemma3", "gemma4", "llama4", "deepseek_v3", "qwen3_5", "lfm3"])
def test_kinds_that_cannot_be_shared_otherwise_are_named(name):
    decoder = build_kind(name)
    first = kinds_of(decoder.model)[0].name
    with pytest.raises(ModelError, match=f"where a layer has {first}, as layer 0 of"):
        require_can_splice(decoder)
    with pytest.raises(ModelError, match=f"has {first}, which several processes cannot"):
        require_can_ring(decoder.model)


def test_kinds_are_those_that_the_modules_say():
    def of(name):
        return [type(kind) for kind in kinds_of(build_kind(name).model)]

    assert of("lfm3") == [Recurrent, SlidingWindow, Recurrent, FullAttention]
    assert of("llama4") == [ChunkedAttention] * 3 + [FullAttention]
    assert of("mistral4") == [LatentAttention] * 4
    assert kinds_of(build_kind("mistral", sliding_window=None).model)[0] == FullAttention(4, 2, 16)
    assert heads_of(build_kind("nemotron_h").model) == (4, 2, 16)


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_window_at_which_a_decoder_does_not_look_is_none(family):
    decoder = build_decoder(family)
    expected = answer_logits(decoder, embeddings(60), torch.arange(60), num_rows=3)
    if family == "llama":
        decoder.config.sliding_window = 7
    found = answer_logits(decoder, embeddings(60), torch.arange(60), num_rows=3)
    assert torch.equal(found, expected)


# What it costs.


@pytest.mark.parametrize(
    "kind",
    [
        SlidingWindow(1, 4, 2, 16),
        SlidingWindow(7, 4, 2, 16),
        ChunkedAttention(7, 4, 2, 16),
        FullAttention(4, 2, 16),
    ],
    ids=lambda kind: kind.name,
)
def test_pairs_are_those_that_meet(kind):
    def seen(token):
        return token + 1 - (kind.first_seen(token) if hasattr(kind, "first_seen") else 0)

    for start in (0, 1, 5, 6, 7, 8, 30):
        for num in (0, 1, 6, 7, 8, 29):
            assert kind.num_pairs(start, num) == sum(map(seen, range(start, start + num)))


@pytest.mark.parametrize(
    "name",
    ["gemma3", "gemma4", "gemma4_small", "deepseek_v3", "qwen3_5", "nemotron_h", "lfm3"],
)
def test_what_is_stored_has_the_size_that_was_said(name):
    decoder = build_kind(name)
    model = DecoderStandIn(decoder, lambda num: positions_of(name, num))
    plan = make_plan(model, sweep_of(model), max_suffix_tokens=0)
    shape, (root,) = DecoderShape.of(decoder), plan.branches
    cache = open_cache(
        decoder.model,
        Layout.whole(root.start, root.keep_until),
        ends=root.kept_ends,
        like=decoder.lm_head.weight,
        kv_location="device",
    )
    said, num_tensors = shape.stored_bytes(root), sum(len(t) for t in tensors_of(cache, decoder))
    assert said <= cache.store.num_bytes < said + 256 * num_tensors


def tensors_of(cache: KeyValueCache, decoder):
    return [cache.store.tensors(layer) for layer in range(len(decoder.model.layers))]


@pytest.mark.parametrize("name", ["mistral", "qwen3_5", "deepseek_v3", "gemma4_small"])
def test_memory_grows_with_the_length_as_the_closed_form_says(name, tmp_path, monkeypatch):
    """Rows and angles grow; of what a layer holds, only what its kind keeps of every token."""
    # Angles are computed in blocks that are far below the length, as for long sequences.
    monkeypatch.setattr(rotation, "ROPE_BLOCK", 128)
    monkeypatch.setattr(DecoderShape, "rotation_bytes", lambda *_, **__: 0)
    decoder = build_kind(name)
    shape = DecoderShape.of(decoder)

    def peak(num_tokens):
        positions = positions_of(name, num_tokens + 3)
        ids = token_ids_of(decoder, num_tokens + 3)
        suffixes = suffixes_at(embeddings(num_tokens + 3), positions, [(num_tokens, 3)], ids)
        rows, how = embeddings(num_tokens), {"chunk_size": 128}
        how["token_ids"] = None if ids is None else ids[:-3]
        return allocated_bytes(
            lambda: prefill(decoder, rows, positions[..., :-3], suffixes, **how),
            tmp_path / "trace.json",
        )

    def said(num_tokens):
        suffix = Suffix(num_tokens, (), 3, (0,))
        branch = Branch(0, (), num_tokens, (suffix,))
        return shape.pass_bytes(branch, chunk_size=128) - num_tokens * shape.hidden_bytes

    short, long = 700, 1_400
    slope = (peak(long) - peak(short)) / (long - short)
    expected = (said(long) - said(short)) / (long - short)
    assert abs(slope - expected) <= 0.1 * expected + 16
