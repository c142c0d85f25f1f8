"""Greedy decoding behind kept keys and values against whole passes and against transformers."""

from dataclasses import replace
from functools import cache

import pytest
import torch
import torch.distributed as dist
from decoder_models import (
    TOKENS_PER_FRAME,
    DecoderStandIn,
    RandomFrames,
    ask,
    build_half,
    make_runner,
    sweep_of,
)
from jobs import run_ranks
from test_prefill import build_decoder
from test_runner import fill_the_disk

from vniah.engines.agreement import plain_logits
from vniah.engines.base import EngineOptions, decode_by_passes
from vniah.engines.choosing import choose_decoding
from vniah.engines.inputs import DecoderInputs
from vniah.engines.planning import can_continue, make_plan
from vniah.errors import InputError, ModelError
from vniah.forward.greedy import GreedyDecoder
from vniah.forward.prefix_tree import kept_whole
from vniah.forward.ring import Ring
from vniah.options import Decoding
from vniah.scoring import score_logits

FAMILIES = ["qwen2", "llama", "mistral", "qwen3", "qwen2_vl"]
TEN = Decoding(10)


def generate(model, sequences, decoding=TEN, *, is_wanted=lambda index: True, **options):
    """What is decoded behind each sequence, by kept keys and values; and the logits."""
    asked = {key: options.pop(key) for key in ("share", "max_suffix_tokens") if key in options}
    plan = make_plan(model, sequences, **asked)
    assert not plan.refused
    greedy = GreedyDecoder(
        model.decoder,
        DecoderInputs(model, sequences, RandomFrames()),
        is_wanted=is_wanted,
        decoding=decoding,
        ring=options.get("ring"),
    )
    runner = make_runner(model, sequences, greedy=greedy, **options)
    found = {}
    for root in kept_whole(plan.branches):
        for reading in runner.run_all(root):
            found |= dict.fromkeys(reading.sequences, reading)
    return [found[index] for index in range(len(sequences))]


def tokens_of(*arguments, **options):
    return [reading.generated for reading in generate(*arguments, **options)]


def by_plain_passes(model, sequences, decoding=TEN):
    """By the decoder's own forward pass over everything, once for each token."""
    found = {}
    for sequence in sequences:
        if sequence.segments not in found:
            found[sequence.segments] = decode_by_passes(
                lambda s: plain_logits(model, s, RandomFrames()), sequence, decoding, num_needed=1
            )
    return [found[sequence.segments] for sequence in sequences]


@cache
def third_of_sweep_by_plain_passes(family):
    model = DecoderStandIn(build_decoder(family))
    return by_plain_passes(model, sweep_of(model)[::3])


def by_transformers(model, sequence, num_tokens):
    """By transformers' own loop with its own cache."""
    num_prompt = replace(sequence, answer_ids=(0,)).num_tokens(TOKENS_PER_FRAME)
    rows = DecoderInputs(model, [], RandomFrames()).embed(sequence.segments, 0, num_prompt)[None]
    mask = torch.ones(1, num_prompt, dtype=torch.long)
    found = model.decoder.generate(
        inputs_embeds=rows,
        attention_mask=mask,
        do_sample=False,
        max_new_tokens=num_tokens,
        eos_token_id=None,
        pad_token_id=0,
    )
    return tuple(found[0].tolist())


@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_are_those_of_whole_passes(family):
    model = DecoderStandIn(build_decoder(family))
    sequences = sweep_of(model)[::3]
    expected = third_of_sweep_by_plain_passes(family)
    assert len(set(expected)) > 5, "texts that differ"
    for options in ({}, {"max_suffix_tokens": 0}, {"share": False}):
        assert tokens_of(model, sequences, **options) == expected, options


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "qwen2_vl"])
def test_tokens_are_those_of_transformers(family):
    model = DecoderStandIn(build_decoder(family))
    sequences = [ask(model, 14, ("a", 2)), ask(model, 9, ("b", 9)), ask(model, 4, None)]
    found = tokens_of(model, sequences, Decoding(25), max_suffix_tokens=0)
    assert found == [by_transformers(model, sequence, 25) for sequence in sequences]


@pytest.mark.parametrize(
    "options",
    [{"chunk_size": 1}, {"chunk_size": 7}, {"kv_location": "disk"}, {"kv_location": "host"}],
)
def test_tiles_and_places_change_no_token(options, tmp_path):
    model = DecoderStandIn(build_decoder("qwen2"))
    sequences = sweep_of(model)[::3]
    found = tokens_of(model, sequences, max_suffix_tokens=0, scratch_dir=tmp_path, **options)
    assert found == third_of_sweep_by_plain_passes("qwen2")


def test_decoding_begins_with_the_answer_exactly_where_the_argmax_is_right():
    """Every beginning of what is generated as an answer, and the same with its last token wrong."""
    model = DecoderStandIn(build_decoder("qwen3"))
    prompts = [ask(model, 9, ("a", 2)), ask(model, 14, ("b", 14))]
    sequences = []
    for prompt, tokens in zip(prompts, by_plain_passes(model, prompts), strict=True):
        for length in (1, 2, 5, 10):
            wrong = (tokens[length - 1] + 1) % 97
            sequences.append(replace(prompt, answer_ids=tokens[:length]))
            sequences.append(replace(prompt, answer_ids=(*tokens[: length - 1], wrong)))
    verdicts = []
    for sequence, reading in zip(sequences, generate(model, sequences), strict=True):
        ids = sequence.answer_ids
        verdicts.append(score_logits(reading.logits, ids).correct)
        assert (reading.generated[: len(ids)] == ids) is verdicts[-1]
    assert verdicts == [True, False] * 8


def test_half_precision_decodes_what_its_own_argmax_says():
    model = DecoderStandIn(build_half("qwen2"))
    sequences = sweep_of(model)[:6]
    found = tokens_of(model, sequences, Decoding(4))
    answers = [replace(s, answer_ids=t) for s, t in zip(sequences, found, strict=True)]
    for sequence in answers:
        logits = plain_logits(model, sequence, RandomFrames())
        best = logits.max(-1).values
        own = logits.gather(1, torch.tensor(sequence.answer_ids)[:, None])[:, 0]
        assert float((best - own).max()) <= 2**-6 * float(logits.abs().max()), "but for rounding"


def test_text_ends_with_a_stop_token_and_the_others_go_on():
    model = DecoderStandIn(build_decoder("qwen2"))
    sequences = [ask(model, 14, ("a", 2)), ask(model, 9, ("a", 2)), ask(model, 4, None)]
    whole = tokens_of(model, sequences)
    stop = whole[0][3]
    decoding = Decoding(10, (stop,))

    def cut(tokens):
        return tokens[: tokens.index(stop) + 1] if stop in tokens else tokens

    found = tokens_of(model, sequences, decoding)
    assert found == [cut(tokens) for tokens in whole] == by_plain_passes(model, sequences, decoding)
    assert len({len(tokens) for tokens in found}) > 1
    assert decoding.without_stop(found[0]) == found[0][:-1]
    assert decoding.without_stop((stop, 5)) == (stop, 5)


def test_as_many_tokens_as_the_longest_answer_are_generated_in_any_case():
    model = DecoderStandIn(build_decoder("qwen2"))
    answers = ("7", "seven", "yes")
    sequences = [ask(model, 9, ("a", 2), answer=answer) for answer in answers]
    found = tokens_of(model, sequences, Decoding(2))
    assert len(set(found)) == 1 and len(found[0]) == 5
    assert found[0] == by_plain_passes(model, sequences[:1], Decoding(5))[0]


def test_what_nobody_wants_is_not_decoded():
    model = DecoderStandIn(build_decoder("qwen2"))
    sequences = [ask(model, 14, ("a", 2)), ask(model, 9, ("b", 2)), ask(model, 4, None)]
    found = tokens_of(model, sequences, is_wanted=lambda index: index == 1)
    assert [tokens is None for tokens in found] == [True, False, True]
    assert found[1] == by_plain_passes(model, sequences)[1]


class Turned(DecoderStandIn):
    """Positions that count from the end: they depend on what follows."""

    def position_ids(self, sequence):
        return super().position_ids(sequence).flip(0)


@pytest.mark.parametrize(
    ("make_model", "expected"),
    [
        (lambda: DecoderStandIn(build_decoder("qwen2")), True),
        (lambda: DecoderStandIn(build_decoder("qwen2_vl")), True),
        (lambda: Turned(build_decoder("qwen2")), False),
        (
            lambda: DecoderStandIn(
                build_decoder(
                    "llama",
                    rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0},
                )
            ),
            False,
        ),
    ],
    ids=["plain", "three rows", "counted from the end", "dynamic RoPE"],
)
def test_prompts_are_gone_on_from_where_nothing_changes_them(make_model, expected):
    model = make_model()
    assert can_continue(model, ask(model, 9, None), 10) is expected


def test_prompts_are_not_gone_on_from_where_the_model_says_so():
    model = DecoderStandIn(build_decoder("qwen2"))
    model.shares_prefixes = False
    assert not can_continue(model, ask(model, 9, None), 10)


def test_full_disk_says_what_to_do_instead(monkeypatch, tmp_path):
    fill_the_disk(monkeypatch)
    model, notes = DecoderStandIn(build_decoder("qwen2")), []
    sequences = [ask(model, 9, None), ask(model, 14, ("a", 2))]
    options = {"kv_location": "disk", "scratch_dir": tmp_path, "on_note": notes.append}
    found = generate(model, sequences, max_suffix_tokens=0, **options)
    for reading in found:
        assert reading.logits is None and reading.generated is None
        assert reading.error.endswith("to a folder on another disk, or use --scorer argmax")
    assert len(notes) == 1


def test_memory_that_runs_out_while_decoding_makes_tiles_smaller(monkeypatch):
    model, notes, calls = DecoderStandIn(build_decoder("qwen2")), [], []
    real = GreedyDecoder.decode

    def decode(self, branch, past, *, chunk_size):
        calls.append(chunk_size)
        if chunk_size > 1024:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")
        return real(self, branch, past, chunk_size=chunk_size)

    monkeypatch.setattr(GreedyDecoder, "decode", decode)
    sequences = [ask(model, 9, None), ask(model, 14, ("a", 2))]
    found = tokens_of(model, sequences, chunk_size=2048, on_note=notes.append)
    assert found == by_plain_passes(model, sequences)
    assert calls[:2] == [2048, 1024]
    assert notes == ["memory ran out: going on with chunks of 1024 tokens"]


def test_logits_that_are_no_numbers_end_a_text_with_an_error():
    model = DecoderStandIn(build_decoder("qwen2"))
    sequence = ask(model, 4, None)

    def logits_of(asked):
        rows = torch.zeros(len(asked.answer_ids), 5)
        rows[2:] = torch.nan
        return rows

    with pytest.raises(ModelError, match="NaN or infinity"):
        decode_by_passes(logits_of, sequence, TEN, num_needed=1)
    with torch.no_grad():
        model.decoder.lm_head.weight[7] = torch.inf
    (found,) = tokens_of(model, [sequence])
    assert found.startswith("the model's logits hold NaN or infinity")


def decode_in_ring(rank, path):
    dist.init_process_group("gloo")
    model = DecoderStandIn(build_decoder("qwen2"))
    sequences = sweep_of(model)[::2]
    ring = Ring(dist.group.WORLD)
    found = [
        tokens_of(model, sequences, Decoding(10, (41,)), ring=ring, chunk_size=16, **options)
        for options in ({}, {"max_suffix_tokens": 0})
    ]
    torch.save(found, path / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.distributed
def test_ring_decodes_the_same_on_every_rank(tmp_path):
    run_ranks(decode_in_ring, 2, tmp_path)
    model = DecoderStandIn(build_decoder("qwen2"))
    expected = by_plain_passes(model, sweep_of(model)[::2], Decoding(10, (41,)))
    for rank in range(2):
        assert torch.load(tmp_path / f"{rank}.pt") == [expected, expected]


class Speaker:
    name, revision, frame_shape = "speaker", "1", (1, 2)

    def encode_frames(self, frames): ...
    def compose(self, frames, question, answer): ...
    def answer_logits(self, sequence, embeds): ...
    def decode(self, token_ids): ...


@pytest.mark.parametrize(
    ("changes", "arguments", "error", "message"),
    [
        ({}, ("beam", 5), InputError, "scorer must be argmax or generate, got 'beam'"),
        ({}, ("generate", 0), InputError, "max_new_tokens must be 1 or more, got 0"),
        (
            {"decode": None},
            ("generate", 5),
            InputError,
            r"speaker has no method decode\(token_ids\) .* or use --scorer argmax",
        ),
        ({"stop_ids": 2}, ("generate", 5), ModelError, "stop_ids of speaker must be a tuple .* 2"),
        ({"stop_ids": ("x",)}, ("generate", 5), ModelError, r"must be a tuple .* \('x',\)"),
    ],
)
def test_what_cannot_be_decoded_is_refused_in_one_line(changes, arguments, error, message):
    model = Speaker()
    vars(model).update(changes)
    with pytest.raises(error, match=message) as caught:
        choose_decoding(model, EngineOptions("tree", "auto", *arguments))
    assert "\n" not in str(caught.value)


def test_decoding_is_chosen_for_models_that_read_tokens_only():
    model = Speaker()
    assert choose_decoding(model, EngineOptions(scorer="argmax")) is None
    assert choose_decoding(model, EngineOptions(scorer="generate", max_new_tokens=5)) == Decoding(
        5, ()
    )
    model.stop_ids = (3, 4)
    assert choose_decoding(model, EngineOptions(scorer="generate")) == Decoding(32, (3, 4))
