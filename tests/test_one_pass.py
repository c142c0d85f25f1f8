"""The engine of a map from one pass: exact with a whole window, else approximate behind needles."""

import pytest
import torch
from decoder_models import DecoderStandIn, RandomFrames, make_samples
from test_niah import samples_of
from test_prefill import build_decoder
from text_models import load_language_model

from vniah.embeddings.encode import EncodedFrames
from vniah.engines.base import EngineOptions
from vniah.engines.decoder import DecoderEngine
from vniah.engines.one_pass import OnePassEngine
from vniah.engines.trunks import find_trunk
from vniah.errors import InputError, ModelError
from vniah.grid import Grid
from vniah.options.approximation import Approximation
from vniah.protocol import HAYSTACK, FrameSpan
from vniah.tasks.base import Sample
from vniah.tasks.placement import insert_needle

ASKED = [(num, name, ("7", "13")) for num in (5, 9, 14) for name in ("a", "b")]


def blind():
    return Sample("-/-/x/blind", None, (), "what?", ("7",), control="blind")


def shuffled():
    """Blocks of frames, the last first."""
    shown = tuple(FrameSpan(HAYSTACK, first, first + 4) for first in (8, 4, 0))
    return Sample("-/-/x/shuffled", None, shown, "what?", ("7",), control="shuffled")


def opened(engine):
    """An engine whose frames are drawn when they are read."""
    inner = engine._exact if isinstance(engine, OnePassEngine) else engine
    inner._frames = EncodedFrames(RandomFrames(), num_frames=10_000)
    return engine


def outcomes(engine, samples, is_pending=None):
    """The log-probabilities of all candidates, by sample."""
    found = {}
    for batch in range(engine.plan(samples, is_pending or [True] * len(samples))):
        for sample, readings in engine.run(batch):
            assert sample.sample_id not in found
            found[sample.sample_id] = [reading.logits.logprob for reading in readings]
    return found


def one_pass(model, window, **more):
    return OnePassEngine(model, EngineOptions(approximation=Approximation(window)), **more)


def largest(found, expected):
    assert found.keys() == expected.keys()
    pairs = [(a, b) for key in expected for a, b in zip(found[key], expected[key], strict=True)]
    return max(abs(a - b) for a, b in pairs)


@pytest.fixture(scope="module")
def model():
    return DecoderStandIn(build_decoder("qwen2"))


@pytest.fixture(scope="module")
def samples():
    return [*make_samples(*ASKED), blind(), shuffled()]


@pytest.fixture(scope="module")
def exact(model, samples):
    return outcomes(opened(DecoderEngine(model, EngineOptions())), samples)


def test_a_whole_window_is_exact(model, samples, exact):
    assert largest(outcomes(opened(one_pass(model, 14)), samples), exact) < 1e-4


def test_only_what_stands_behind_a_needle_is_approximate(model, samples, exact):
    engine = opened(one_pass(model, 0))
    found = outcomes(engine, samples)
    differs = {key for key in exact if largest({key: found[key]}, {key: exact[key]}) > 1e-4}
    assert differs == {sample.sample_id for sample in samples if sample.control is None}
    record = engine.describe()
    assert record["share"] == "one-pass"
    assert record["exact_samples"] == 1  # the one out of order


def test_samples_are_run_exactly_where_that_is_asked(model, samples, exact):
    asked = {sample.sample_id for sample in samples[::2]}
    engine = opened(one_pass(model, 0, is_exact=lambda sample: sample.sample_id in asked))
    found = outcomes(engine, samples)
    assert found.keys() == exact.keys()
    for key in asked:
        assert found[key] == pytest.approx(exact[key], abs=1e-4)
    assert engine.describe()["exact_samples"] == len(asked | {"-/-/x/shuffled"})


@pytest.mark.parametrize("max_rows", [1, 40])
def test_parts_and_resumed_runs_give_what_one_pass_gives(model, samples, max_rows, monkeypatch):
    whole = outcomes(opened(one_pass(model, 1)), samples)
    monkeypatch.setattr("vniah.engines.one_pass.MAX_ROWS", max_rows)
    engine = opened(one_pass(model, 1))
    assert engine.plan(samples, [True] * len(samples)) > 3
    assert largest(outcomes(engine, samples), whole) < 1e-4
    is_pending = [index % 3 == 0 for index in range(len(samples))]
    found = outcomes(opened(one_pass(model, 1)), samples, is_pending)
    left = [sample.sample_id for sample, one in zip(samples, is_pending, strict=True) if one]
    assert largest(found, {key: whole[key] for key in left}) < 1e-4


def test_fewer_operations_are_planned_than_for_the_tree(model, samples):
    counts = []
    for engine in (one_pass(model, 1), DecoderEngine(model, EngineOptions())):
        outcomes(opened(engine), [*make_samples(*ASKED)])
        counts.append(engine.planned_flops)
    assert counts[0] < counts[1]


class DeepFrames(RandomFrames):
    """The same frames, with DeepStack features for the first two layers."""

    def read_runs(self, frames, part=None):
        yield from (rows * (1 + part) for rows in super().read_runs(frames))


@pytest.mark.parametrize("max_rows", [10_000, 40])
def test_deepstack_features_are_those_of_the_trunk_too(max_rows, monkeypatch):
    monkeypatch.setattr("vniah.engines.one_pass.MAX_ROWS", max_rows)
    decoder = build_decoder("qwen3")
    decoder.model.config.model_type = "qwen3_vl_text"  # the same layers
    model = DecoderStandIn(decoder, torch.arange)
    model.frame_shape = (3, *model.frame_shape)
    samples = make_samples(*ASKED)
    engines = [DecoderEngine(model, EngineOptions()), one_pass(model, 14)]
    for engine in engines:
        opened(engine)
        inner = engine._exact if isinstance(engine, OnePassEngine) else engine
        inner._frames = EncodedFrames(DeepFrames(), num_frames=10_000)
    exact, found = (outcomes(engine, samples) for engine in engines)
    assert largest(found, exact) < 1e-4
    monkeypatch.setattr(DeepFrames, "read_runs", RandomFrames.read_runs)
    changed = outcomes(engines[1], samples)
    assert largest(changed, exact) > 1e-3, "the features matter"


@pytest.mark.parametrize("kind", ["bytes", "sentencepiece"])
@pytest.mark.parametrize("distractors", ["0", "3"])
def test_text_is_aligned_whatever_the_tokenizer_merges(tmp_path, kind, distractors):
    model = load_language_model(tmp_path, kind)
    grid = Grid.parse("250,400", "0,0.5,1")
    samples, _ = samples_of(kind, distractors=distractors, grid=grid)
    expected = outcomes(opened(DecoderEngine(model, EngineOptions())), samples)
    engine = opened(one_pass(model, 400))
    assert largest(outcomes(engine, samples), expected) < 1e-4
    assert engine.describe()["exact_samples"] == 0
    assert outcomes(opened(one_pass(model, 0)), samples).keys() == expected.keys()
    assert find_trunk(model, samples).num_tokens > 250


def test_the_trunk_is_opening_and_haystack_and_nothing_of_the_question(model):
    samples = make_samples(*ASKED)
    assert find_trunk(model, samples).num_tokens == 4 + 3 * 14
    lone = [Sample("-/-/n", None, insert_needle(1, 0, "a"), "what?", ("7",))]
    assert find_trunk(model, lone).num_tokens == 4 + 3


def test_what_does_not_go_with_it_is_refused(model):
    with pytest.raises(InputError, match="window must be 0 or more, got -1"):
        Approximation(-1)
    with pytest.raises(InputError, match="leave out --scorer generate"):
        OnePassEngine(model, EngineOptions(scorer="generate"))
    rope = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}
    changing = DecoderStandIn(build_decoder("llama", rope_parameters=rope))
    with pytest.raises(ModelError, match="depends on the length"):
        one_pass(changing, 1)


def test_memory_that_runs_out_is_an_error_of_the_samples(model, samples, monkeypatch):
    engine = opened(one_pass(model, 1))
    assert engine.plan(samples, [True] * len(samples))

    def fail(*_, **__):
        raise MemoryError("no room")

    monkeypatch.setattr("vniah.engines.splicing.prefill", fail)
    for _, outcome in engine.run(0):
        assert outcome == "out of memory: no room"


def test_candidates_of_a_question_are_read_in_one_part(model, monkeypatch):
    """Whatever stands behind no needle has no branch, and many candidates make many parts."""
    monkeypatch.setattr("vniah.engines.one_pass.MAX_ROWS", 1)
    last = [
        Sample(f"-/-/n{num}", None, insert_needle(num, num, "a"), "what?", ("7", "8", "13"))
        for num in (5, 9)
    ]
    plain = Sample("-/-/plain", None, (FrameSpan(HAYSTACK, 0, 9),), "what?", ("7", "8"))
    samples = [*make_samples(*ASKED), *last, plain]
    found = outcomes(opened(one_pass(model, 14)), samples)
    assert largest(found, outcomes(opened(DecoderEngine(model, EngineOptions())), samples)) < 1e-4
