"""Suffixes that see several spans of keys, against a plain softmax with a mask."""

import pytest
import torch
from test_prefill import build_decoder, embeddings, store_for, three_rows

from vniah.forward.kernels import CPU_KERNEL, PLAIN_KERNEL
from vniah.forward.kinds.full import SuffixCall
from vniah.forward.kv_cache import LayerKeyValues, Layout, Span
from vniah.forward.prefill import prefill
from vniah.forward.suffixes import SuffixGroup, SuffixRows, shared_spans


def spans(*borders):
    return tuple(Span(start, stop) for start, stop in borders)


# Spans of each suffix, over 101 tokens, and how many rows it has.
SEEN = {
    "one prefix each, in order": [((0, 0), 3), ((0, 7), 3), ((0, 64), 1), ((0, 101), 2)],
    "the needle cut out": [((0, 40), (43, 101), 5), ((0, 101), 5), ((0, 40), 4)],
    "trunk, needle, trunk": [
        ((0, 13), (90, 97), 2),
        ((0, 13), (17, 64), (90, 97), 2),
        ((0, 13), (17, 80), (97, 101), 2),
        ((0, 14), (17, 64), (90, 97), 7),
    ],
    "none has a neighbour's keys": [((0, 33), 1), ((50, 51), 6), ((33, 50), (51, 101), 1)],
    "out of order": [((0, 101), 3), ((0, 0), 2), ((5, 9), (30, 31), 4), ((0, 50), 3)],
    "spans that touch": [((0, 10), (10, 20), (20, 101), 3), ((10, 20), 3), ((0, 101), 1)],
}


def suffixes_of(name, *, first=101, hidden_size=64, decoder_rows=None):
    """Suffixes with random rows, which all begin at one position."""
    made = []
    for index, (*seen, size) in enumerate(SEEN[name]):
        rows = torch.randn(
            size, hidden_size, generator=torch.Generator().manual_seed(100 * index + size)
        )
        positions = torch.arange(first, first + size)
        if decoder_rows == 3:
            positions = positions.expand(3, -1)
        made.append(SuffixRows(spans(*seen), rows, positions, size))
    return made


def mask_of(suffix, num_main):
    """Which of the main tokens and of its own each row of a suffix sees, bool ``[n, main + n]``."""
    size = len(suffix.hidden)
    seen = torch.zeros(size, num_main, dtype=torch.bool)
    for span in suffix.spans:
        seen[:, span.start : span.stop] = True
    return torch.cat([seen, torch.ones(size, size, dtype=torch.bool).tril()], dim=1)


@pytest.mark.parametrize("name", SEEN)
@pytest.mark.parametrize(("num_heads", "num_kv_heads"), [(4, 4), (4, 2), (6, 1)])
@pytest.mark.parametrize("kernel", [CPU_KERNEL, PLAIN_KERNEL], ids=lambda kernel: kernel.name)
def test_attention_over_spans_equals_a_masked_softmax(name, num_heads, num_kv_heads, kernel):
    size, num_main, scale = 16, 101, 0.3
    generator = torch.Generator().manual_seed(7)
    suffixes = suffixes_of(name)
    num_rows = sum(len(suffix.hidden) for suffix in suffixes)
    q = torch.randn(1, num_heads, num_rows, size, generator=generator)
    k, v = torch.randn(2, 1, num_kv_heads, num_rows, size, generator=generator)
    main_k, main_v = torch.randn(2, 1, num_kv_heads, num_main, size, generator=generator)
    sizes = [(num_kv_heads, size)] * 2
    keys = LayerKeyValues(sizes, (), Layout.whole(0, num_main), rank=0, like=q)
    keys.put(0, main_k, main_v)
    group = SuffixGroup.of(suffixes, {})
    found, _ = SuffixCall(keys, group, kernel).attend(q, k, v, scale)
    row = 0
    for suffix in suffixes:
        rows = slice(row, row + len(suffix.hidden))
        all_k, all_v = (
            torch.cat([one, other[:, :, rows]], dim=2)
            .double()
            .repeat_interleave(num_heads // num_kv_heads, dim=1)
            for one, other in ((main_k, k), (main_v, v))
        )
        scores = q[:, :, rows].double() @ all_k.transpose(-1, -2) * scale
        weights = scores.masked_fill(~mask_of(suffix, num_main), -torch.inf).softmax(-1)
        torch.testing.assert_close(found[:, :, rows].double(), weights @ all_v, rtol=0, atol=2e-6)
        row = rows.stop
    assert row == num_rows


def masked_logits(decoder, main, suffix, positions):
    """By the decoder's own forward over the main rows and one suffix, with a mask of both."""
    num_main, num_tokens = len(main), len(main) + len(suffix.hidden)
    seen = torch.ones(num_tokens, num_tokens, dtype=torch.bool).tril()
    seen[num_main:] = mask_of(suffix, num_main)
    mask = torch.zeros(num_tokens, num_tokens).masked_fill(~seen, torch.finfo(torch.float32).min)
    ids = torch.cat([positions[..., :num_main], suffix.position_ids], -1)
    with torch.inference_mode():
        return decoder(
            inputs_embeds=torch.cat([main, suffix.hidden])[None],
            position_ids=ids[None] if ids.ndim == 1 else ids[:, None],
            attention_mask=mask[None, None],
            use_cache=False,
        ).logits[0, num_main:]


@pytest.mark.parametrize("name", SEEN)
@pytest.mark.parametrize("family", ["qwen2", "qwen3", "qwen2_vl"])
@pytest.mark.parametrize(("num_past", "chunk"), [(0, 1000), (0, 13), (45, 1000), (45, 9)])
def test_pass_with_spans_equals_the_plain_forward_with_a_mask(name, family, num_past, chunk):
    """Spans reach from what a pass goes on from into its own rows."""
    decoder = build_decoder(family)
    positions = three_rows(200) if family == "qwen2_vl" else torch.arange(200)
    main = embeddings(101)
    suffixes = suffixes_of(name, decoder_rows=3 if family == "qwen2_vl" else None)
    past = []
    if num_past:
        past = [store_for(decoder, num_past)]
        prefill(decoder, main[:num_past].clone(), positions[..., :num_past], [], cache=past[0])
    read = prefill(
        decoder,
        main[num_past:].clone(),
        positions[..., num_past:101],
        suffixes,
        past=past,
        chunk_size=chunk,
    )
    for suffix, logits in zip(suffixes, read, strict=True):
        expected = masked_logits(decoder, main, suffix, positions)
        assert (logits - expected).abs().max() < 1e-4
        assert torch.equal(logits.argmax(-1), expected.argmax(-1))


def test_each_key_is_in_one_call_for_all_that_see_it():
    found = list(shared_spans([spans(*seen) for *seen, _ in SEEN["the needle cut out"]]))
    assert found == [
        (Span(0, 40), (0, 1, 2)),
        (Span(40, 43), (1,)),
        (Span(43, 101), (0, 1)),
    ]


def test_spans_that_touch_are_not_cut_where_nothing_changes():
    seen = [spans((0, 10), (10, 20)), spans((0, 5), (5, 20))]
    assert list(shared_spans(seen)) == [(Span(0, 20), (0, 1))]


def test_empty_spans_take_no_call():
    assert list(shared_spans([spans((0, 0)), (), spans((4, 4))])) == []


@pytest.mark.parametrize("name", SEEN)
def test_calls_together_are_what_everybody_sees(name):
    seen = [set().union(*(range(*span) for span in given)) for *given, _ in SEEN[name]]
    found = [set() for _ in seen]
    for span, viewers in shared_spans([spans(*given) for *given, _ in SEEN[name]]):
        for number in viewers:
            assert found[number].isdisjoint(range(*span))
            found[number] |= set(range(*span))
    assert found == seen
