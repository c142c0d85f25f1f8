"""Samples with several accepted answers: what they come to, by every way that a sweep may go."""

import json
from itertools import chain

import pytest
import torch
from decoder_models import DecoderStandIn, make_samples, open_engine
from runs import cell, make_sample
from test_prefill import build_decoder

from vniah.engines.planning import SampleSequences
from vniah.errors import ResultsError
from vniah.forward.runner import SuffixLogits
from vniah.grid import Grid
from vniah.haystacks.haystack import open_haystack
from vniah.models.loading import load_model
from vniah.needles import load_needles
from vniah.protocol import TextSegment, TokenSequence
from vniah.results import SampleResult, load_results
from vniah.scoring import LogitsScore, Reading, Score, score_accepted
from vniah.sweep.run import run_sweep

pytestmark = pytest.mark.usefixtures("checked_once")

GRID = Grid.of([4, 9], [0, 1])
ACCEPTED = {"a": ["0", "yes no", "the red card"], "b": [], "c": ["digit"]}


@pytest.fixture(scope="module")
def variants(needle_folder, tmp_path_factory):
    """The same three needles, two of them with further answers."""
    folder = tmp_path_factory.mktemp("variants") / "three"
    folder.mkdir()
    lines = (needle_folder / "metadata.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    for record in records:
        picture = record["file_name"]
        (folder / picture).write_bytes((needle_folder / picture).read_bytes())
        record["accepted"] = ACCEPTED[record["needle_id"]]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    return load_needles(folder)


@pytest.fixture(scope="module")
def haystack(image_folder):
    return open_haystack(image_folder)


def one_by_one(model, haystack, needles, tmp_path):
    """Every accepted answer in a sweep of its own, by cell, needle and answer."""
    found = {}
    for place in range(4):
        chosen = [needle for needle in needles if place < len(needle.answers)]
        folder = tmp_path / f"answer-{place}"
        folder.mkdir()
        records = []
        for needle in chosen:
            needle.image.save(folder / f"{needle.needle_id}.png")
            name, answer = needle.needle_id, needle.answers[place]
            texts = {"question": needle.question, "answer": answer}
            records.append({"file_name": f"{name}.png", "needle_id": name, **texts})
        (folder / "metadata.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
        single = load_needles(folder)
        for sample in run_sweep(model, haystack, single, GRID, output=folder / "run").samples:
            assert sample.variant is None
            found[sample.cell, sample.needle_id, sample.answer] = sample
    return found


@pytest.mark.parametrize("share", ["tree", "none"])
def test_sample_is_that_of_its_best_answer(
    checkpoint, haystack, variants, own_cache, tmp_path, share
):
    model = load_model(checkpoint, device="cpu")
    singles = one_by_one(model, haystack, variants, tmp_path)
    results = run_sweep(model, haystack, variants, GRID, output=tmp_path / "run", share=share)
    assert len(results.samples) == 12 and results.is_complete
    for sample in results.samples:
        answers = next(n.answers for n in variants if n.needle_id == sample.needle_id)
        of_each = [singles[sample.cell, sample.needle_id, answer] for answer in answers]
        best = max(of_each, key=lambda s: (s.correct, s.logprob))
        assert sample.correct == any(s.correct for s in of_each)
        assert sample.variant == (best.answer if len(answers) > 1 else None)
        assert sample.answer == answers[0]
        assert (sample.predicted_ids, sample.rank) == (best.predicted_ids, best.rank)
        assert sample.logprob == pytest.approx(best.logprob, abs=1e-4)
        assert sample.margin == pytest.approx(best.margin, abs=1e-4)


def reading(correct, logprob, seconds=1.0):
    return Reading(seconds, (1,), LogitsScore((1,), correct, logprob, 1, 0.5), "x")


@pytest.mark.parametrize(
    ("readings", "expected"),
    [
        ([reading(False, -1.0), reading(False, -2.0)], "a"),
        ([reading(False, -1.0), reading(True, -2.0)], "b"),
        ([reading(True, -3.0), reading(True, -2.0)], "b"),
        ([reading(True, -2.0), reading(True, -2.0)], "a"),
    ],
)
def test_best_answer_is_the_right_one_else_the_likeliest(readings, expected):
    best = score_accepted(["a", "b"], readings)
    assert best.variant == expected
    assert best.correct == any(one.logits.correct for one in readings)
    assert best.seconds == 2.0


def test_only_answer_is_no_variant():
    assert score_accepted(["a"], [reading(True, -1.0)]) == Score("x", (1,), True, -1.0, 1, 0.5, 1.0)


def test_line_of_a_sample_has_some_fields_only_where_they_say_something():
    plain = make_sample(cell(1, "0"), 0)
    assert list(json.loads(plain.to_json()))[-1] == "error"
    full = make_sample(cell(1, "0"), 0, variant="X", argmax_correct=False, greedy_correct=False)
    assert list(json.loads(full.to_json()))[-3:] == ["variant", "argmax_correct", "greedy_correct"]
    assert [SampleResult.from_json(s.to_json()) for s in (plain, full)] == [plain, full]
    with pytest.raises(ResultsError, match="variant must be text or null, got 7"):
        SampleResult.from_json(full.to_json().replace('"X"', "7"))


IDS = {"7": (1,), "0": (2, 3), "yes no": (2,), "the red card": (2, 2, 2)}


class FirstLevel:
    """Knows nothing but token 2, whatever it sees."""

    name, revision, frame_shape = "first", "1", (1, 2)

    def encode_frames(self, frames):
        return torch.zeros(len(frames), 1, 2)

    def compose(self, frames, question, answer):
        return TokenSequence((TextSegment((0,)), *frames), IDS.get(answer, (1,)))

    def answer_logits(self, sequence, embeds):
        return torch.tensor([[0.0, 1.0, 2.0, 0.5]] * len(sequence.answer_ids))


def test_first_level_model_is_right_by_any_accepted_answer(haystack, variants, tmp_path):
    results = run_sweep(FirstLevel(), haystack, variants, GRID, output=tmp_path)
    found = {(s.needle_id, s.correct, s.variant, s.predicted_ids) for s in results.samples}
    assert found == {
        ("a", True, "yes no", (2,)),
        ("b", False, None, (2,)),
        ("c", False, "4 2", (2,)),
    }


class Chat:
    """Always says the same."""

    name, revision = "chat", "1"

    def answer(self, frames, question):
        return self.words


@pytest.mark.parametrize(
    ("words", "variant"), [(" YES no. ", "yes no"), ("7", "7"), ("no yes", None)]
)
def test_chat_model_says_which_accepted_answer_it_gave(
    haystack, variants, tmp_path, words, variant
):
    model = Chat()
    model.words = words
    results = run_sweep(model, haystack, variants, GRID, output=tmp_path)
    assert {(s.needle_id, s.correct, s.variant) for s in results.samples} == {
        ("a", variant is not None, variant),
        ("b", False, None),
        ("c", False, None),
    }


class Talkative(FirstLevel):
    """Its prompt gives the answer away."""

    def compose(self, frames, question, answer):
        return TokenSequence((TextSegment((len(answer),)), *frames), (1,))


def test_prompt_that_depends_on_the_answer_is_an_error(haystack, variants, tmp_path):
    results = run_sweep(Talkative(), haystack, variants, GRID, output=tmp_path)
    errors = {sample.needle_id: sample.error for sample in results.samples}
    assert errors["a"] == (
        "compose of first gave another prompt for the answer 'yes no' than for '7'; a prompt must "
        "not depend on the answer"
    )
    assert errors["b"] is None and "'digit' than for '4 2'" in errors["c"]


@pytest.mark.parametrize("kept_bytes", [0, 2000])
@pytest.mark.parametrize("share", ["tree", "none"])
def test_run_with_variants_that_was_cut_goes_on_the_same(
    checkpoint, haystack, variants, tmp_path, kept_bytes, share
):
    model = load_model(checkpoint, device="cpu")
    whole = run_sweep(model, haystack, variants, GRID, output=tmp_path, share=share)
    path = tmp_path / "samples.jsonl"
    path.write_bytes(path.read_bytes()[:kept_bytes])
    again = run_sweep(model, haystack, variants, GRID, output=tmp_path, share=share)
    for one, other in zip(whole.samples, again.samples, strict=True):
        assert {**vars(one), "seconds": None} == {**vars(other), "seconds": None}
    assert load_results(tmp_path).is_complete


class ByItself(DecoderStandIn):
    shares_prefixes = False


SAMPLES = make_samples((4, "a", ("7", "8", "yes")), (9, "a", ("7", "yes", "no")), (9, "b", ("7",)))


@pytest.mark.parametrize(
    ("model_class", "share", "num_passes", "roots_of_batches"),
    [
        (DecoderStandIn, "tree", None, None),
        (DecoderStandIn, "none", 3, [1, 1, 1]),
        (ByItself, "tree", 7, [1, 3, 3]),
        (ByItself, "none", 7, [1, 3, 3]),
    ],
)
def test_answers_of_one_sample_are_one_batch(model_class, share, num_passes, roots_of_batches):
    engine = open_engine(model_class(build_decoder("qwen2")), share=share)
    num_batches = engine.plan(SAMPLES, [True] * 3)
    batches = engine._batches
    assert num_batches == len(batches)
    if roots_of_batches is not None:
        assert engine.describe()["passes"] == num_passes
        assert sorted(len(batch.roots) for batch in batches) == roots_of_batches
    counted = [list(run_in(engine, batch)) for batch in batches]
    assert sorted(chain.from_iterable(counted)) == [0, 1, 2]


def run_in(engine, batch):
    """Samples of a batch, by logits that are not there."""
    sequences = []
    for number in batch.roots:
        root = engine._roots[number]
        if batch.branch is None:
            sequences += [k for suffix in root.suffixes for k in suffix.sequences]
        else:
            sequences += root.branches[batch.branch].sequences
    rows = [SuffixLogits((k,), None, 0.0, "none") for k in sequences]
    for number, _ in engine._sequences.gather(rows):
        yield number


def test_samples_that_are_done_have_no_batch():
    engine = open_engine(ByItself(build_decoder("qwen2")))
    assert engine.plan(SAMPLES, [True, False, True]) == 2
    run = [number for batch in engine._batches for number in run_in(engine, batch)]
    assert sorted(run) == [0, 2]


def test_sample_waits_for_all_of_its_answers():
    asked = SampleSequences()
    for answers in (((1,), (2, 3)), ((4,),)):
        asked.add([TokenSequence((TextSegment((0,)),), ids) for ids in answers])
    asked.is_pending = [True, True]
    rows = [SuffixLogits((k,), None, 0.0, str(k)) for k in (1, 2, 0)]
    found = list(asked.gather(rows))
    assert [number for number, _ in found] == [1, 0]
    assert sorted(found[1][1]) == [0, 1]
    assert asked.num_needed(0) == 2
    assert [asked.sequences[index].answer_ids for index in asked.members[0]] == [(1,), (2, 3)]


def test_answer_that_cannot_be_read_is_an_error_of_its_question(
    checkpoint, haystack, variants, tmp_path
):
    model = load_model(checkpoint, device="cpu")
    compose = model.compose

    def with_unknown(frames, question, answer):
        sequence = compose(frames, question, answer)
        if answer != "yes no":
            return sequence
        return TokenSequence(sequence.segments, (*sequence.answer_ids[:1], 10**6, 1))

    model.compose = with_unknown
    results = run_sweep(model, haystack, variants, GRID, output=tmp_path)
    failed = {sample.needle_id: sample.error for sample in results.samples}
    assert "token id 1000000" in failed["a"]
    assert failed["b"] is None and failed["c"] is None
