"""Tracing attention in a run: which tokens are the needle's, what is kept, and what it says."""

import base64
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from decoder_models import DecoderStandIn, RandomFrames, make_samples, open_engine
from planted_models import Planted, honest
from runs import cell, make_grid, make_manifest, make_sample
from test_prefill import build_decoder
from text_models import ALL_KINDS, load_language_model

from vniah.cli import main
from vniah.engines.base import EngineOptions
from vniah.engines.choosing import choose_engine
from vniah.engines.inputs import DecoderInputs, compose_candidates
from vniah.engines.planning import SampleSequences
from vniah.engines.watching import NeedleWatch
from vniah.errors import InputError, ModelError, ResultsError, RunMismatchError
from vniah.forward.kv_cache import Span
from vniah.grid import Grid
from vniah.haystacks.haystack import open_haystack
from vniah.haystacks.text import open_text
from vniah.models.loading import load_model
from vniah.needles import load_needles
from vniah.protocol import FrameSpan, TextSegment, TextSpan, TokenSequence, blended_source
from vniah.results import RunFolder, load_run
from vniah.results.attention import AttentionTrace, read_attention
from vniah.scoring import NeedleAttention
from vniah.sweep.outcomes import attention_of, require_needles_shown
from vniah.sweep.rescoring.rescoring import rescore
from vniah.sweep.run import run_sweep
from vniah.sweep.samples import read_text
from vniah.tasks import load_task
from vniah.tasks.base import Sample, needles_asked_for


def by_sample(engine, samples):
    num_batches = engine.plan(samples, [True] * len(samples))
    return {
        sample.sample_id: attention_of(sample, outcome)
        for batch in range(num_batches)
        for sample, outcome in engine.run(batch)
    }


def plain_trace(model, sample):
    """From the attention weights of the decoder's own forward pass; the needle is frame 1."""
    (sequence, *_) = compose_candidates(model, sample)
    inputs = DecoderInputs(model, [sequence], RandomFrames())
    positions = inputs.positions(0)
    hidden = inputs.embed(sequence.input_pieces, 0, positions.shape[-1])
    model.decoder.set_attn_implementation("eager")
    with torch.inference_mode():
        found = model.decoder(inputs_embeds=hidden[None], use_cache=False, output_attentions=True)
    weights = torch.cat(found.attentions)
    first = 4 + model.frame_shape[0]  # behind the opening and a frame
    stop = first + model.frame_shape[0]
    num_rows = len(sequence.segments[-1].token_ids) + len(sequence.answer_ids) - 1
    weights = weights[..., -num_rows:, :]
    mass = weights[..., first:stop].sum(-1)
    return mass, mass + weights[..., stop], len(sequence.answer_ids)


ASKED = ((4, "a", ("7",)), (9, "a", ("7", "yes")), (9, "b", ("7",)), (14, "a", ("yes",)))


@pytest.mark.parametrize("family", ["qwen2", "mistral"])
def test_trace_is_that_of_the_models_own_attention_weights_with_and_without_sharing(family):
    window = {"sliding_window": 24} if family == "mistral" else {}
    model = DecoderStandIn(build_decoder(family, **window))
    samples = make_samples(*ASKED, (9, "a", ("7", "yes")))
    found = {
        share: by_sample(open_engine(model, share=share, trace_attention=True), samples)
        for share in ("tree", "none")
    }
    for sample in samples:
        mass, reached, num_answer_rows = plain_trace(model, sample)
        expected = {
            "reached": reached.amax(-1),
            "any": mass.amax(-1),
            "answer": mass[..., -num_answer_rows:].mean(-1),
            "first": mass[..., -num_answer_rows],
        }
        for traces in found.values():
            trace = traces[sample.sample_id]
            assert (trace.num_needle_tokens, trace.num_tokens_behind) == (3, 1)
            assert trace.num_rows == mass.shape[-1]
            for name, values in expected.items():
                np.testing.assert_allclose(trace.masses[name], values, atol=1e-5, rtol=1e-4)
    far = found["tree"][samples[3].sample_id].masses["any"]
    assert (far == 0).all() == (family == "mistral")  # 42 tokens behind the needle


def test_samples_of_one_sequence_whose_needles_differ_have_their_own():
    model = DecoderStandIn(build_decoder("qwen2"))
    (sample,) = make_samples((6, "a", ("7",)))
    both = replace(
        sample,
        shown=(FrameSpan("haystack", 0, 2), *(FrameSpan(f"needles/{x}", 0, 1) for x in "ab")),
    )
    samples = [
        replace(both, sample_id=f"-/-/{x}", fields={"needle_id": x} if x in "ab" else {})
        for x in ("a", "b", "c")
    ]
    found = by_sample(open_engine(model, trace_attention=True), samples)
    engine = open_engine(model, trace_attention=True)
    assert engine.plan(samples, [True] * 3) == 1
    assert len(engine._roots[0].suffixes) == 1
    one, other, all_of_them = (found[f"-/-/{x}"] for x in ("a", "b", "c"))
    assert (one.masses["first"] != other.masses["first"]).any()
    total = one.masses["first"] + other.masses["first"]
    np.testing.assert_allclose(all_of_them.masses["first"], total, atol=1e-5)
    assert all_of_them.num_needle_tokens == 6
    # Behind the first needle is the second, and behind this the question.
    assert [trace.num_tokens_behind for trace in (one, other, all_of_them)] == [1, 0, 0]


def test_nothing_is_traced_where_no_needle_is_shown_or_nobody_asks():
    model = DecoderStandIn(build_decoder("qwen2"))
    samples = make_samples(*ASKED)
    assert set(by_sample(open_engine(model), samples).values()) == {None}
    plain = replace(samples[0], shown=(FrameSpan("haystack", 0, 4),))
    assert by_sample(open_engine(model, trace_attention=True), [plain]) == {plain.sample_id: None}


class WithTimes(DecoderStandIn):
    """Writes the time of every frame before it, and something behind it."""

    def compose(self, frames, question, answer):
        spans = [
            FrameSpan(span.source, span.start, span.stop, (7, 8), (9,)) for span in frames.spans
        ]
        return TokenSequence((*spans, TextSegment((10, 11))), (5,) * len(answer))


def watched_in(model, sample):
    sequences = SampleSequences()
    sequences.add(compose_candidates(model, sample))
    return NeedleWatch(model, [sample], sequences).watched(0)


def test_text_around_a_picture_is_not_the_needles():
    model = WithTimes(build_decoder("qwen2"))
    (sample,) = make_samples((5, "a", ("77",)))
    shown = (
        FrameSpan("haystack", 0, 2),
        FrameSpan("needles/a", 0, 2),
        FrameSpan(blended_source("a"), 2, 3),
        FrameSpan("needles/other", 0, 1),
    )
    found = watched_in(model, replace(sample, shown=shown, fields={"needle_id": "a"}))
    needle = (Span(14, 17), Span(20, 23), Span(26, 29))
    assert found.groups == (needle, (Span(17, 18), Span(23, 24), Span(29, 30)))
    assert found.num_rows == 1 + 2 + 1  # behind the last picture, the question, and the answer's


def test_needles_that_a_sample_asks_for():
    shown = tuple(FrameSpan(f"needles/{x}", 0, 1) for x in "abc")
    sample = Sample("-/-/x", None, shown, "what?", ("7",))
    assert needles_asked_for(sample) == {"a", "b", "c"}
    assert needles_asked_for(replace(sample, fields={"needle_id": "b"})) == {"b"}
    assert needles_asked_for(replace(sample, fields={"needle_id": "b"}, asks_for=("a", "b"))) == {
        "a",
        "b",
    }
    assert needles_asked_for(replace(sample, fields={"needle_id": "d"})) == frozenset()
    text = (TextSpan("needles/a", 0, 2, "hello"), "needles/b")
    assert needles_asked_for(replace(sample, shown=(), text=text)) == {"a"}


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_tokens_of_a_sentence_are_all_that_hold_one_of_its_characters(kind, tmp_path):
    model = load_language_model(tmp_path / kind, kind)
    grid, needles = Grid.parse("200,300", "0,0.5,1"), load_needles("numbers")
    haystack = read_text(open_text(num_tokens=400), model, grid)
    samples = list(load_task("niah").samples(grid, needles, haystack))
    assert len(samples) > 20
    for sample in samples[::5]:
        prompt = sample.prompt
        (text,) = (n.text for n in needles if n.needle_id == sample.fields["needle_id"])
        start = prompt.index(text)
        offsets = model._tokenizer(prompt, return_offsets_mapping=True)["offset_mapping"]
        ends = [b for _, b in offsets]
        firsts = [0, *ends]  # what a tokenizer leaves out, such as white space, is the next token's
        inside = [n for n, b in enumerate(ends) if b > start and firsts[n] < start + len(text)]
        found = watched_in(model, sample)
        stop = inside[-1] + 1
        assert found.groups == ((Span(inside[0], stop),), (Span(stop, stop + 1),))
        last = len(prompt) - len(sample.question)
        num_question = sum(end > last for end in ends)
        (sequence,) = compose_candidates(model, sample)
        assert found.num_rows == num_question + len(sequence.answer_ids) - 1


def test_run_on_texts_is_traced(tmp_path):
    model = load_language_model(tmp_path / "model", "bytes")
    run_sweep(
        *(model, open_text(num_tokens=400), load_needles("numbers"), Grid.parse("200", "0,1")),
        output=tmp_path / "run",
        task="niah",
        progress=False,
        trace_attention=True,
    )
    traces = read_attention(tmp_path / "run")
    samples = load_run(tmp_path / "run").samples
    assert set(traces) >= {sample.sample_id for sample in samples}
    for sample in samples:
        trace = traces[sample.sample_id]
        assert trace.num_tokens == 200 and 10 < trace.num_needle_tokens < 100
        assert trace.num_tokens_behind == 1 and 0 < trace.largest < 1
        assert sample.needle_seen is not None


def test_a_model_whose_texts_have_other_tokens_than_it_says_is_refused(tmp_path):
    model = load_language_model(tmp_path / "words", "words")
    sample = Sample("-/-/x", None, (), "what?", ("7",), text=(TextSpan("needles/a", 0, 2, "it"),))
    model.token_ends = lambda text: [1]
    with pytest.raises(ModelError, match="gave the ends of 1 tokens"):
        watched_in(model, sample)


@pytest.fixture(scope="module")
def material(checkpoint, image_folder, needle_folder):
    return load_model(checkpoint, device="cpu"), open_haystack(image_folder), needle_folder


def sweep(material, folder, *, frames="4,9", **options):
    model, haystack, needles = material
    return run_sweep(
        *(model, haystack, load_needles(needles), Grid.parse(frames, "0,0.5,1")),
        output=folder,
        progress=False,
        **{"trace_attention": True, **options},
    )


def require_equal(one, other):
    assert list(one) == list(other) and one
    for name, trace in one.items():
        for count in ("num_rows", "num_needle_tokens", "num_tokens_behind", "num_tokens"):
            assert getattr(trace, count) == getattr(other[name], count)
        for rows, mass in trace.masses.items():
            np.testing.assert_allclose(mass, other[name].masses[rows], atol=1e-3)


@pytest.fixture(scope="module")
def whole(material, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    sweep(material, folder)
    return folder


def test_run_keeps_a_line_and_says_seen_or_not_for_each_sample_with_a_needle(whole):
    results, traces = load_run(whole), read_attention(whole)
    everything = {s.sample_id: s for s in (*results.samples, *results.control_samples)}
    assert {sample.sample_id for sample in results.samples} <= set(traces)
    for name, trace in traces.items():
        sample = everything[name]
        assert sample.needle_attention == pytest.approx(trace.largest, rel=1e-3)
        assert sample.needle_seen == ("seen" if trace.is_seen else "not seen")
        assert trace.masses["first"].shape == (2, 4)
        assert (trace.masses["any"] >= trace.masses["first"]).all()
        assert (trace.masses["reached"] >= trace.masses["any"]).all()
    without = [s for s in results.control_samples if s.sample_id not in traces]
    assert {s.control for s in without} >= {"no-needle"}
    assert all(s.needle_attention is None and s.needle_seen is None for s in without)
    assert "attention_trace" in results.manifest


def test_run_without_tracing_has_the_same_scores_and_nothing_else(whole, material, tmp_path):
    plain = sweep(material, tmp_path / "run", trace_attention=False)
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [
        ".lock",
        "manifest.json",
        "samples.jsonl",
    ]
    assert "attention_trace" not in plain.manifest
    line = (tmp_path / "run" / "samples.jsonl").read_text()
    assert "needle_seen" not in line and "needle_attention" not in line
    for one, other in zip(plain.samples, load_run(whole).samples, strict=True):
        assert one.logprob == pytest.approx(other.logprob, abs=1e-5)
        assert one.predicted_ids == other.predicted_ids
    with pytest.raises(RunMismatchError, match="attention_trace"):
        sweep(material, tmp_path / "run")


@pytest.mark.parametrize("share", ["tree", "none"])
def test_run_killed_between_and_inside_of_lines_goes_on_and_ends_the_same(
    share, whole, material, tmp_path
):
    folder = tmp_path / "run"
    sweep(material, folder, share=share)
    complete = dict(sorted(read_attention(folder).items()))
    require_equal(complete, dict(sorted(read_attention(whole).items())))
    for num_samples, num_traces, cut in ((3, 3, 0), (3, 4, 0), (3, 4, 17), (0, 1, 5)):
        for name, number in (("samples", num_samples), ("attention", num_traces)):
            path = folder / f"{name}.jsonl"
            lines = path.read_bytes().splitlines(keepends=True)
            rest = lines[number][:cut] if name == "attention" else b""
            path.write_bytes(b"".join(lines[:number]) + rest)
        assert len(read_attention(folder)) == num_traces  # also while it is cut
        sweep(material, folder, share=share)
        require_equal(dict(sorted(read_attention(folder).items())), complete)
        assert {s.sample_id for s in load_run(folder).samples} <= set(read_attention(folder))
    sweep(material, folder, share=share, frames="4", overwrite=True)
    assert all(name.startswith("4/") for name in read_attention(folder))


def test_judging_answers_anew_keeps_what_was_seen(whole, needle_folder, tmp_path):
    found = rescore(whole, output=tmp_path / "new", answer_rules="rank:40", needles=needle_folder)
    assert found.changes
    before, after = read_attention(whole), read_attention(tmp_path / "new")
    require_equal(dict(sorted(after.items())), dict(sorted(before.items())))
    seen = {sample.sample_id: sample.needle_seen for sample in load_run(whole).samples}
    assert {s.sample_id: s.needle_seen for s in load_run(tmp_path / "new").samples} == seen


def trace_of(sample_id, value=0.25, *, num_tokens=100):
    mass = np.full((2, 3, 4), value * 3 / 4, np.float32)
    return AttentionTrace.of(sample_id, NeedleAttention(mass, mass / 3, 2, 9, 1, num_tokens))


def test_files_of_all_ranks_are_read_and_merged_in_the_order_of_the_plan(tmp_path):
    grid = make_grid("8", "0")
    manifest = make_manifest(grid, num_needles=6)
    folders = [RunFolder(tmp_path / "run", manifest) for _ in range(2)]
    ids = [make_sample(cell(8, "0"), k).sample_id for k in range(6)]
    with folders[0].open(rank=0, num_ranks=2):
        with folders[1].open(rank=1, num_ranks=2):
            for k in (5, 3, 1):
                folders[1].append(make_sample(cell(8, "0"), k), trace_of(ids[k], k / 8))
        for k in (4, 0):
            folders[0].append(make_sample(cell(8, "0"), k), trace_of(ids[k], k / 8))
        folders[0].append(make_sample(cell(8, "0"), 2))  # nothing was traced
        assert set(read_attention(tmp_path / "run")) == {*ids} - {ids[2]}
        folders[0].merge()
    assert not list((tmp_path / "run").glob("*rank*"))
    found = read_attention(tmp_path / "run")
    assert list(found) == [ids[k] for k in (0, 1, 3, 4, 5)]
    assert [found[ids[k]].largest for k in (0, 3, 5)] == [0, 3 / 8, 5 / 8]


def test_line_holds_what_was_found_to_eleven_bits_and_says_where_there_is_no_attention():
    rng = np.random.default_rng(0)
    mass, behind = rng.random((2, 3, 4, 5), np.float32) / 2
    mass[1] = behind[1] = np.nan
    trace = AttentionTrace.of("8/0/x", NeedleAttention(mass, behind, 2, 10, 1, 100))
    np.testing.assert_array_equal(trace.masses["reached"], (mass + behind).max(-1))
    np.testing.assert_array_equal(trace.masses["any"], mass.max(-1))
    np.testing.assert_allclose(trace.masses["answer"], mass[..., 3:].mean(-1), rtol=1e-6)
    np.testing.assert_array_equal(trace.masses["first"], mass[..., 3])
    back = AttentionTrace.from_json(trace.to_json())
    assert (back.num_rows, back.num_needle_tokens, back.num_tokens_behind) == (5, 10, 1)
    assert back.num_tokens == 100
    for name, values in trace.masses.items():
        np.testing.assert_allclose(back.masses[name], values, rtol=2**-11)
    assert np.isnan(back.masses["any"][1]).all() and not np.isnan(back.masses["any"][0]).any()
    assert back.largest == pytest.approx(np.nanmax(mass + behind), rel=2**-11)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"any": "AAAA"}, "holds 3 bytes, and 2 layers of 3 heads have 12"),
        ({"first": "!"}, "first"),
        (
            {"first": base64.b64encode(np.full(6, 2, "<f2").tobytes()).decode()},
            "not between 0 and 1",
        ),
        ({"heads": 0}, "heads"),
        ({"rows": None}, "rows"),
        ({"sample_id": ""}, "sample_id"),
    ],
)
def test_line_with_an_invalid_value_is_refused(changes, message):
    line = json.loads(trace_of("8/0/x").to_json())
    AttentionTrace.from_json(json.dumps(line).encode())
    with pytest.raises(ResultsError, match=message):
        AttentionTrace.from_json(json.dumps(line | changes).encode())


@pytest.mark.parametrize(
    ("mass", "num_tokens", "is_seen"),
    [
        (0.5, 10**6, False),
        (0.51, 10**6, True),
        (0.51, 100, False),  # equal attention gives a tenth: the half of the way is .55
        (0.56, 100, True),
        (0.7, 20, False),  # two frames: equal attention gives each a half
        (0.8, 20, True),
    ],
)
def test_needle_is_seen_if_a_head_is_more_than_half_of_the_way_from_equal_attention(
    mass, num_tokens, is_seen
):
    assert trace_of("x", mass, num_tokens=num_tokens).is_seen == is_seen


def test_right_answer_is_traced_where_the_candidates_are_options():
    model = DecoderStandIn(build_decoder("qwen2"))
    (sample,) = make_samples((6, "a", ("one", "three", "fourteen")))
    engine = open_engine(model, trace_attention=True)
    rows = {
        answer: by_sample(engine, [replace(sample, answer=answer)])[sample.sample_id].num_rows
        for answer in sample.candidates
    }
    assert rows["three"] - rows["one"] == 2 and rows["fourteen"] - rows["one"] == 5


def test_where_attention_cannot_be_traced_one_line_says_so(material, tmp_path):
    with pytest.raises(InputError, match="--share one-pass, whose rows attend"):
        sweep(material, tmp_path / "run", share="one-pass")
    with pytest.raises(InputError, match="needs a model with a decoder that vniah runs, and"):
        choose_engine(Planted(honest), EngineOptions(trace_attention=True))
    with pytest.raises(InputError, match="combined with --context-parallel 2"):
        open_engine(DecoderStandIn(build_decoder("qwen2")), group=_Group(), trace_attention=True)
    plain = replace(make_samples(ASKED[0])[0], shown=(FrameSpan("haystack", 0, 4),))
    with pytest.raises(InputError, match="no sample of this task shows one"):
        require_needles_shown([plain])


class _Group:
    def size(self):
        return 2


def test_command_traces_attention_and_summarizes_it(tmp_path, capsys, quick_pictures):
    options = ["--frames", "8,64", "--depths", "0,1", "--controls", "none", "--quiet"]
    folder = str(tmp_path / "run")
    arguments = ["--model", "reference-short", *options, "--output", folder]
    assert main(["run", *arguments, "--trace-attention"]) == 0
    out = capsys.readouterr().out
    results = load_run(tmp_path / "run")
    seen = [sample for sample in results.samples if sample.needle_seen == "seen"]
    assert 0 < len(seen) < len(results.samples)
    wrong = sum(not sample.correct for sample in results.samples)
    used = sum(bool(sample.correct) for sample in seen)
    right = len(results.samples) - wrong
    assert (
        f"attention: the needle was seen in {used} of {right} right samples; "
        f"of {wrong} wrong ones it was seen and not used in {len(seen) - used}, and not seen in "
        f"{wrong - len(seen) + used}\n"
    ) in out
