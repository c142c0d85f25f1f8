"""Sweeps whose answers are generated: both criteria, what is refused, what is said at the end."""

import json
from dataclasses import replace

import pytest
import torch
from decoder_models import DecoderStandIn, make_samples, open_engine
from runs import make_run, make_sample
from test_prefill import build_decoder

from vniah.analysis.compare import compare
from vniah.analysis.sentences import format_agreement
from vniah.cli import main
from vniah.engines.base import EngineOptions
from vniah.engines.choosing import choose_decoding
from vniah.errors import CannotCompareError, InputError, ModelError, RunMismatchError
from vniah.files import embedded_dir
from vniah.grid import Grid
from vniah.haystacks.haystack import open_haystack
from vniah.models.loading import load_model
from vniah.needles import NeedleSet, load_needles
from vniah.options import Decoding
from vniah.protocol import TextSegment, TokenSequence
from vniah.results import load_results
from vniah.sweep.run import run_sweep

pytestmark = pytest.mark.usefixtures("quick_pictures", "checked_once")

GRID = Grid.of([4, 9], [0, 1])
NEW_FIELDS = ("prediction", "predicted_ids", "correct", "argmax_correct", "greedy_correct")


@pytest.fixture(scope="module")
def model(checkpoint):
    return load_model(checkpoint, device="cpu")


@pytest.fixture(scope="module")
def haystack(image_folder):
    return open_haystack(image_folder)


@pytest.fixture(scope="module")
def needles(needle_folder):
    return load_needles(needle_folder)


def sweep(model, haystack, needles, output, **options):
    return run_sweep(model, haystack, needles, GRID, output=output, **options)


def without_seconds(results):
    return [{**vars(sample), "seconds": None} for sample in results.samples]


@pytest.fixture(scope="module")
def generated(model, haystack, needles, tmp_path_factory):
    """A sweep of six tokens for each answer, at least."""
    folder = tmp_path_factory.mktemp("generated")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VNIAH_CACHE", str(folder / "cache"))
        options = {"scorer": "generate", "max_new_tokens": 6}
        return sweep(model, haystack, needles, folder / "run", **options)


@pytest.fixture(scope="module")
def known(model, needles, generated):
    """The needles with what the model wrote, at 9 frames and depth 0, as answers: whole or half."""
    wrote = {s.needle_id: s for s in generated.samples if (s.num_frames, s.depth) == (9, 0)}
    answers = [
        model.decode(wrote["a"].predicted_ids),
        model.decode(wrote["b"].predicted_ids[:2]),
        model.decode(wrote["c"].predicted_ids),
    ]
    changed = [replace(n, answer=text) for n, text in zip(needles, answers, strict=True)]
    changed[2] = replace(changed[2], answer="red red", accepted=("no", answers[2]))
    return NeedleSet("known", "known", tuple(changed))


def test_argmax_stands_beside_what_was_generated(model, haystack, needles, generated, tmp_path):
    by_argmax = sweep(model, haystack, needles, tmp_path)
    for one, other in zip(by_argmax.samples, generated.samples, strict=True):
        assert other.argmax_correct == one.correct == other.greedy_correct
        assert (other.rank, other.answer) == (one.rank, one.answer)
        assert other.logprob == pytest.approx(one.logprob, abs=1e-4)
        assert len(other.predicted_ids) == 6
        assert other.prediction == model.decode(other.predicted_ids)
        assert other.predicted_ids[0] == one.predicted_ids[0]


class ByItself:
    """The same model, which says that its prefixes cannot be shared."""

    shares_prefixes = False

    def __init__(self, model):
        self._model = model

    def __getattr__(self, name):
        return getattr(self._model, name)

    def position_ids(self, sequence):
        return self._model.position_ids(sequence)


@pytest.mark.parametrize("way", ["share none", "by passes", "first level"])
def test_every_way_generates_the_same(model, haystack, needles, generated, tmp_path, way):
    options = {"scorer": "generate", "max_new_tokens": 6}
    if way == "share none":
        options["share"] = "none"
    other = {"share none": model, "by passes": ByItself(model), "first level": OwnForward(model)}
    results = sweep(other[way], haystack, needles, tmp_path, **options)
    for one, same in zip(generated.samples, results.samples, strict=True):
        assert [getattr(same, name) for name in NEW_FIELDS] == [
            getattr(one, name) for name in NEW_FIELDS
        ]


class OwnForward:
    """The same model as one of the first level."""

    def __init__(self, model):
        self._model = model
        for name in ("name", "revision", "frame_shape", "encode_frames", "compose", "decode"):
            setattr(self, name, getattr(model, name))
        self.stop_ids = model.stop_ids

    @torch.inference_mode()
    def answer_logits(self, sequence, embeds):
        decoder, frames = self._model.decoder, iter(embeds)
        rows = [
            decoder.model.embed_tokens(torch.tensor(segment.token_ids))
            if isinstance(segment, TextSegment)
            else next(frames)
            for segment in sequence.inputs
        ]
        logits = decoder(inputs_embeds=torch.cat(rows)[None]).logits[0]
        return logits[-len(sequence.answer_ids) :]


@pytest.mark.parametrize("share", ["tree", "none"])
def test_both_criteria_where_the_model_knows_the_answer(model, haystack, known, tmp_path, share):
    options = {"scorer": "generate", "max_new_tokens": 6, "share": share}
    results = sweep(model, haystack, known, tmp_path, **options)
    found = {s.needle_id: s for s in results.samples if (s.num_frames, s.depth) == (9, 0)}
    verdicts = {name: (s.argmax_correct, s.greedy_correct, s.correct) for name, s in found.items()}
    assert verdicts["a"] == (True, True, True), "it wrote the answer and nothing else"
    assert verdicts["b"] == (True, True, False), "it wrote more"
    assert verdicts["c"] == (True, True, True), "it wrote one of several answers"
    assert found["c"].variant == known.needles[2].answers[2]
    assert found["a"].variant is None
    assert all(s.argmax_correct == s.greedy_correct for s in results.samples)


def test_text_ends_where_the_model_ends_it(model, haystack, known, generated, tmp_path):
    wrote = next(
        s for s in generated.samples if (s.num_frames, s.depth, s.needle_id) == (9, 0, "b")
    )
    stopping = OwnForward(model)
    stopping.stop_ids = (wrote.predicted_ids[2],)
    assert wrote.predicted_ids[2] not in wrote.predicted_ids[:2]
    results = sweep(stopping, haystack, known, tmp_path, scorer="generate", max_new_tokens=6)
    sample = next(s for s in results.samples if (s.num_frames, s.depth, s.needle_id) == (9, 0, "b"))
    assert sample.predicted_ids == wrote.predicted_ids[:3]
    assert sample.prediction == model.decode(wrote.predicted_ids[:2])
    assert sample.correct and sample.argmax_correct


@pytest.mark.parametrize("kept_bytes", [0, 1500])
def test_generated_run_that_was_cut_goes_on_the_same(
    model, haystack, needles, generated, tmp_path, kept_bytes
):
    options = {"scorer": "generate", "max_new_tokens": 6}
    sweep(model, haystack, needles, tmp_path, **options)
    path = tmp_path / "samples.jsonl"
    path.write_bytes(path.read_bytes()[:kept_bytes])
    results = sweep(model, haystack, needles, tmp_path, **options)
    assert without_seconds(results) == without_seconds(generated)


def test_folder_of_another_scorer_is_refused_by_the_field(model, haystack, needles, tmp_path):
    first, second = tmp_path / "argmax", tmp_path / "generate"
    options = {"scorer": "generate", "max_new_tokens": 2}
    sweep(model, haystack, needles, first)
    sweep(model, haystack, needles, second, **options)
    with pytest.raises(RunMismatchError, match=r"protocol.criterion = 'argmax at every"):
        sweep(model, haystack, needles, first, **options)
    with pytest.raises(RunMismatchError, match=r"protocol.criterion = 'generated text'"):
        sweep(model, haystack, needles, second)
    with pytest.raises(RunMismatchError, match=r"scorer.max_new_tokens = 2, this one has 3"):
        sweep(model, haystack, needles, second, **{**options, "max_new_tokens": 3})
    with pytest.raises(CannotCompareError, match=r"differ in protocol.criterion"):
        compare(first, second)
    assert main(["compare", str(first), str(second)]) == 2
    assert compare(second, second).passed


def test_manifest_names_the_scorer_of_generated_runs_only(
    model, generated, haystack, needles, tmp_path
):
    assert generated.manifest["scorer"] == {
        "name": "generate",
        "decoding": "greedy",
        "max_new_tokens": 6,
        "stop_ids": [],
    }
    assert generated.manifest["protocol"]["criterion"] == "generated text"
    manifest = sweep(model, haystack, needles, tmp_path).manifest
    assert "scorer" not in manifest
    assert manifest["protocol"]["criterion"] == "argmax at every position of the answer span"


class Chat:
    name, revision = "chat", "1"

    def answer(self, frames, question):
        return "Answer: 7."


def test_chat_models_generate_whatever_the_scorer(haystack, needles, tmp_path):
    results = sweep(Chat(), haystack, needles, tmp_path)
    again = sweep(Chat(), haystack, needles, tmp_path, scorer="generate")
    assert again.samples == results.samples and "scorer" not in again.manifest
    assert {s.needle_id: s.correct for s in results.samples} == {"a": True, "b": False, "c": False}
    assert format_agreement(results) == []


class Mute:
    name, revision, frame_shape = "mute", "1", (1, 2)

    def encode_frames(self, frames):
        return torch.zeros(len(frames), 1, 2)

    def compose(self, frames, question, answer):
        return TokenSequence((TextSegment((0,)), *frames), (1,))

    def answer_logits(self, sequence, embeds):
        return torch.zeros(len(sequence.answer_ids), 4)


def test_model_that_cannot_put_tokens_into_words_is_refused(haystack, needles, tmp_path):
    with pytest.raises(InputError, match="mute has no method decode"):
        sweep(Mute(), haystack, needles, tmp_path / "run", scorer="generate")
    assert not (tmp_path / "run").exists()


def test_decode_that_gives_no_text_is_an_error(haystack, needles, tmp_path):
    model = Mute()
    model.decode = lambda ids: None
    results = sweep(model, haystack, needles, tmp_path, scorer="generate")
    errors = {s.error for s in results.samples}
    assert errors == {"decode of mute gave NoneType, not text"}


class TwoRanks:
    """A ring as far as it is asked before anything runs."""

    size, rank = 2, 0


def test_ring_is_refused_where_nothing_can_be_gone_on_from():
    model = DecoderStandIn(build_decoder("qwen2"))
    model.shares_prefixes = False
    engine = open_engine(model, decoding=Decoding(3), ring=TwoRanks())
    with pytest.raises(InputError, match="cannot be combined with --context-parallel 2 for stand"):
        engine.plan(make_samples((4, "a", ("7",))), [True])


def test_trunk_that_is_only_gone_on_from_is_not_decoded():
    """Another process, or an earlier start, has what hangs from the trunk itself."""
    model = DecoderStandIn(build_decoder("qwen2"))
    samples = make_samples((400, "a", ("7",)), (400, "b", ("7",)), (380, "b", ("7",)))
    engine = open_engine(model, decoding=Decoding(3))
    engine.plan(samples, [True] * 3)
    (of_trunk,) = [batch for batch in engine._batches if batch.branch is None]
    (behind,) = [batch for batch in engine._batches if batch.branch is not None]
    assert [len(rows.generated) for rows in engine._run(behind)] == [3]
    assert {rows.generated for rows in engine._latest.result.read} == {None}
    assert [len(rows.generated) for rows in engine._run(of_trunk)] == [3, 3]


@pytest.mark.parametrize("text", [None, 7, b"7", "7" * 1_000_001])
def test_words_that_are_no_text_are_an_error_of_each_sample(haystack, needles, tmp_path, text):
    model, chat = Mute(), Chat()
    model.decode = lambda ids: text
    chat.answer = lambda frames, question: text
    for number, (one, scorer) in enumerate([(model, "generate"), (chat, "argmax")]):
        results = sweep(one, haystack, needles, tmp_path / str(number), scorer=scorer)
        (error,) = {s.error for s in results.samples}
        assert "gave" in error and len(error) < 100
    if text is not None:
        results = sweep(model, haystack, needles, tmp_path / "argmax")
        assert results.average is None


@pytest.mark.parametrize("text", ["\ud800", "7\udfff", "\x1b[2J\x00"])
def test_half_characters_and_escapes_are_kept_and_read_again(haystack, needles, tmp_path, text):
    model, chat = Mute(), Chat()
    model.decode = lambda ids: text
    chat.answer = lambda frames, question: text
    for number, one in enumerate([model, chat]):
        first = sweep(one, haystack, needles, tmp_path / str(number))
        again = sweep(one, haystack, needles, tmp_path / str(number))
        assert {s.prediction for s in again.samples} == {text}
        assert again.samples == first.samples


# --- how long answers are ---


@pytest.fixture(scope="module")
def embedded():
    return load_model("reference-short", device="cpu")


def test_embedded_model_is_as_right_by_its_words_as_by_the_argmax(embedded, haystack, tmp_path):
    cards = load_needles("cards").select(["card-red-7", "place-house-47", "sign-star-blue"])
    results = sweep(embedded, haystack, cards, tmp_path, scorer="generate")
    assert results.manifest["scorer"]["max_new_tokens"] == 1
    assert {s.correct for s in results.samples} == {True}
    assert all(s.correct == s.argmax_correct == s.greedy_correct for s in results.samples)


def test_embedded_model_is_known_by_its_files_whatever_its_name(embedded):
    copy = load_model(embedded_dir("models", "reference-short"), device="cpu")
    assert copy.max_new_tokens == embedded.max_new_tokens == 1
    asked = EngineOptions(scorer="generate", max_new_tokens=5)
    assert choose_decoding(copy, asked).max_new_tokens == 5


def test_run_that_began_with_the_earlier_length_is_taken_up_with_it(embedded, haystack, tmp_path):
    cards = load_needles("cards").select(["card-red-7"])
    options = {"scorer": "generate", "max_new_tokens": 32}
    first = sweep(embedded, haystack, cards, tmp_path, **options)
    path = tmp_path / "samples.jsonl"
    path.write_bytes(path.read_bytes()[:1500])
    again = sweep(embedded, haystack, cards, tmp_path, scorer="generate")
    assert without_seconds(again) == without_seconds(first)
    assert again.manifest["scorer"]["max_new_tokens"] == 32
    with pytest.raises(RunMismatchError, match=r"scorer.max_new_tokens = 32, this one has 1"):
        sweep(embedded, haystack, cards, tmp_path, scorer="generate", max_new_tokens=1)
    anew = sweep(embedded, haystack, cards, tmp_path, scorer="generate", overwrite=True)
    assert anew.manifest["scorer"]["max_new_tokens"] == 1


def test_model_says_how_long_its_answers_are():
    model = Mute()
    model.decode = str
    options = EngineOptions(scorer="generate")
    assert choose_decoding(model, options).max_new_tokens == 32
    model.max_new_tokens = 4
    assert choose_decoding(model, options).max_new_tokens == 4
    for wrong in (0, "4", True, None):
        model.max_new_tokens = wrong
        with pytest.raises(ModelError, match="max_new_tokens of mute must be a whole number from"):
            choose_decoding(model, options)


# --- replies that cannot be read ---


def replying(text):
    """A chat model that always says the same."""
    chat = Chat()
    chat.answer = lambda frames, question: text
    return chat


@pytest.mark.parametrize(
    "text",
    [
        "I am sorry, but I cannot see any card here.",
        "<think>Let me look at all the frames",
        "\x1b[2J" * 9999,
        "",
        "\\boxed{blue}",
    ],
)
def test_replies_that_are_no_answers_are_warned_of(haystack, tmp_path, caplog, text):
    results = sweep(replying(text), haystack, load_needles("cards"), tmp_path)
    assert results.average <= 0.1  # blue is right for one card
    (message,) = [record.getMessage() for record in caplog.records]
    assert "only 0 of 28 replies to questions for options or numbers could be read" in message
    assert repr(text[:20])[:-1] in message and message.isprintable() and len(message) < 500


@pytest.mark.parametrize("text", ["<think>3</think>7", "8"])
def test_wrong_answers_are_not_warned_of(haystack, tmp_path, caplog, text):
    sweep(replying(text), haystack, load_needles("cards"), tmp_path)
    assert not caplog.records


@pytest.mark.parametrize(
    ("form", "warning"),
    [
        ("I see {}", "40 of 40 replies hold the right answer among other"),
        ("{}", None),
        ("x{}", "only 0 of 28 replies to questions for options or numbers could be read"),
    ],
)
def test_right_answers_among_other_words_are_warned_of(haystack, tmp_path, caplog, form, warning):
    cards = load_needles("cards")
    answers = {needle.question: needle.answer for needle in cards}
    chat = Chat()
    chat.answer = lambda frames, question: form.format(answers[question])
    sweep(chat, haystack, cards, tmp_path)
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == (warning is not None)
    assert warning is None or warning in messages[0]


def test_few_replies_are_not_warned_of(haystack, needles, tmp_path, caplog):
    assert (
        len(needles) == 3
        and not run_sweep(
            replying("I cannot see."), haystack, needles, Grid.of([4], [0]), output=tmp_path
        ).average
    )
    assert not caplog.records


# --- what is printed ---


def judged(verdicts, **manifest):
    """A run of one cell from (argmax_correct, greedy_correct, correct), one for each needle."""
    run = make_run("8", "0.5", num_needles=len(verdicts), **manifest)
    (cell,) = {sample.cell for sample in run.samples}
    samples = [
        make_sample(
            cell,
            k,
            text,
            prediction="B. red",
            predicted_ids=(5, 9),
            argmax_correct=argmax,
            greedy_correct=greedy,
        )
        for k, (argmax, greedy, text) in enumerate(verdicts)
    ]
    return replace(run, samples=tuple(samples))


SCORER = {"scorer": {"name": "generate", "max_new_tokens": 2, "stop_ids": [9]}}


def test_agreement_is_one_line_each_for_tokens_and_text():
    run = judged([(True, True, True), (False, False, False)], **SCORER)
    assert format_agreement(run) == [
        "tokens: greedy decoding and argmax agree on 2 of 2",
        "text: greedy decoding and argmax agree on 2 of 2",
    ]


def test_disagreement_is_counted_and_the_first_is_shown():
    verdicts = [(True, True, True), (True, False, False), (True, True, False), (False, False, True)]
    assert format_agreement(judged(verdicts, **SCORER)) == [
        "tokens: greedy decoding and argmax agree on 3 of 4; first not: 8/0.5/needle-1, "
        "'B. red' for '7'",
        "text: greedy decoding and argmax agree on 1 of 4; first not: 8/0.5/needle-1, "
        "'B. red' for '7' (2 right by the argmax only, 1 by the text only)",
    ]


def test_texts_without_an_end_are_counted():
    scorer = {"stop_ids": [1], "max_new_tokens": 2}
    assert format_agreement(judged([(True, True, False)], scorer=scorer))[2:] == [
        "1 of 1 texts were cut off before the model ended them; for one that never does, "
        "--max-new-tokens 1 cuts where its answer is as long"
    ]
    scorer["max_new_tokens"] = 1
    assert format_agreement(judged([(True, True, False)], scorer=scorer))[2:] == []


def test_nothing_is_said_where_nothing_was_generated():
    assert format_agreement(make_run()) == []


@pytest.fixture
def options(checkpoint, image_folder, needle_folder):
    return [
        *("run", "--model", str(checkpoint), "--device", "cpu"),
        *("--haystack", str(image_folder), "--needles", str(needle_folder)),
        *("--frames", "4", "--depths", "0,1"),
    ]


def test_command_prints_what_both_say_and_goes_on(options, tmp_path, capsys):
    command = [*options, "--output", str(tmp_path), "--scorer", "generate", "--max-new-tokens", "4"]
    assert main(command) == 0
    first = capsys.readouterr().out
    assert "tokens: greedy decoding and argmax agree on 6 of 6\n" in first
    assert "text: greedy decoding and argmax agree on" in first
    assert "6 of 6 texts were cut off" in first
    assert main(command) == 0
    again = capsys.readouterr().out
    assert "nothing to do" in again and again.splitlines()[-6:] == first.splitlines()[-6:]
    assert all(len(s.predicted_ids) == 4 for s in load_results(tmp_path).samples)
    assert main([*options, "--output", str(tmp_path)]) == 2
    assert "protocol.criterion = 'generated text'" in capsys.readouterr().err


def test_folder_by_default_is_another_one_for_another_scorer(options, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for more in ([], ["--scorer", "generate"], ["--scorer", "generate", "--max-new-tokens", "2"]):
        assert main([*options, *more]) == 0
    folders = sorted((tmp_path / "results").iterdir())
    found = [json.loads((folder / "manifest.json").read_text()) for folder in folders]
    assert len(found) == 3
    assert sorted(m.get("scorer", {}).get("max_new_tokens", 0) for m in found) == [0, 2, 32]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--max-new-tokens", "4"], "--max-new-tokens is for generated answers: add --scorer"),
        (["--scorer", "generate", "--max-new-tokens", "0"], "must be 1 or more, got 0"),
        (["--scorer", "text"], "invalid choice: 'text'"),
    ],
)
def test_command_says_what_cannot_be_meant(options, tmp_path, capsys, more, message):
    assert main([*options, "--output", str(tmp_path / "run"), *more]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "run").exists()
