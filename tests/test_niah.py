"""The task niah: the published definition on three tokenizers, runs of it, and its refusals."""

import json
import re
from fractions import Fraction
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from test_format_schema import require_described
from test_text_haystacks import Reader
from text_models import (
    ALL_KINDS,
    KINDS,
    load_language_model,
    save_language_model,
    tokenizer_of,
)

from vniah.cli import main
from vniah.embeddings.encode import EncodedFrames
from vniah.engines.inputs import decoder_logits
from vniah.errors import (
    HaystackTooShortError,
    InputError,
    ModelError,
    RunMismatchError,
    TaskError,
)
from vniah.grid import Grid
from vniah.haystacks.text import TextHaystack, find_sentence_ends, open_text
from vniah.models.loading import load_model
from vniah.needles import load_needles
from vniah.needles.numbers import number_needles
from vniah.protocol import HAYSTACK, TextSpan
from vniah.results import load_run
from vniah.sweep.run import run_sweep
from vniah.tasks import load_task
from vniah.tasks.controls import plan_samples
from vniah.tasks.niah import CITIES

pytestmark = pytest.mark.usefixtures("quick_pictures")

GRID = Grid.parse("300,500", "0,0.25,0.5,0.9,1")
GRID_OF_RUN = Grid.parse("200,300", "0,1")
QUESTION = (
    "Based on the content of the book, Question: What is the special magic Singapore number? "
    "Answer: The special magic Singapore number is:"
)
_SENTENCE = re.compile(r"\nThe special magic ([A-Z][a-z]+) number is: (\d+)\.\n")


def samples_of(kind, *, distractors="0", grid=GRID, needles=None, haystack=None, task=None):
    """The samples of a grid with the tokens of one kind of tokenizer, without controls."""
    text = (haystack or open_text(num_tokens=grid.max_frames)).read_by(
        Reader(kind), grid.max_frames
    )
    task = task or load_task("niah", {"distractors": distractors})
    return list(task.samples(grid, needles or number_needles(2), text)), text


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("distractors", ["0", "3", "5"])
def test_samples_are_as_the_paper_defines_them(kind, distractors):
    count = int(distractors)
    samples, text = samples_of(kind, distractors=distractors)
    ends = {0, *find_sentence_ends(text.body)}
    assert len(samples) == 2 * 5 * 2
    for sample in samples:
        tokens = tokenizer_of(kind)(sample.prompt).input_ids
        assert len(tokens) == sample.fields["context_tokens"]  # with all that is in it
        assert 0 <= sample.cell.num_frames - len(tokens) <= (kind == "sentencepiece")
        assert sample.prompt.startswith("This is a very long story book: <book> ")
        assert sample.prompt.endswith(f" </book>.\n{QUESTION}")
        found = _SENTENCE.findall(sample.prompt)
        assert found.count(("Singapore", sample.answer)) == 1
        assert len(found) == 1 + count == len({city for city, _ in found})
        assert len({number for _, number in found}) == 1 + count
        assert all(len(number) == 7 and number[0] != "0" for _, number in found)
        assert sample.candidates == (sample.answer,)
        before = [
            piece.stop
            for piece, behind in zip(sample.text, sample.text[1:], strict=False)
            if isinstance(piece, TextSpan)
            and piece.source == HAYSTACK
            and behind != sample.text[-1]
        ]
        assert {*before} <= ends  # every sentence is inserted where one ends
        assert sample.fields["needle_character"] in ends


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("distractors", ["0", "5"])
def test_depth_counts_the_tokens_that_the_length_leaves_for_the_haystack(kind, distractors):
    samples, text = samples_of(kind, distractors=distractors)
    for sample in samples:
        pieces = [*sample.text, sample.question]
        rest = "".join(
            str(p) for p in pieces if not (isinstance(p, TextSpan) and p.source == HAYSTACK)
        )
        room = sample.cell.num_frames - text.count(rest)
        expected = text.sentence_end(room, sample.cell.depth)
        place, shown = sample.fields["needle_character"], sample.fields["haystack_tokens"]
        assert place == expected or (sample.cell.depth == 1 and shown < room)
        assert abs(shown - room) <= 4 + 4 * int(distractors)
        if sample.cell.depth == 0:
            assert place == 0


@pytest.mark.parametrize("kind", KINDS)
def test_distractors_stand_at_the_same_places_at_every_depth(kind):
    samples, _ = samples_of(kind, distractors="5")
    for needle in {sample.fields["needle_id"] for sample in samples}:
        for length in GRID.frames:
            places = {
                str(sample.fields["distractor_tokens"])
                for sample in samples
                if sample.fields["needle_id"] == needle and sample.cell.num_frames == length
            }
            assert len(places) == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", ["the cat sat on a mat and ", "the cat sat. a dog ran, "])
def test_a_text_without_ends_of_sentences_is_refused_where_depth_counts(tmp_path, kind, text):
    (tmp_path / "a.txt").write_text(text * 400)
    haystack = open_text(tmp_path, num_tokens=500)
    with pytest.raises(TaskError, match=r"no sentence of the text .* at depth 0\.5 of 500 tokens"):
        samples_of(kind, grid=Grid.parse("500", "0,0.5,1"), haystack=haystack)
    assert len(samples_of(kind, grid=Grid.parse("500", "0"), haystack=haystack)[0]) == 2


def test_characters_of_several_tokens_count_as_many(tmp_path):
    sentence = "\u6211\u4eec\u5728\u6cb3\u8fb9\u770b\u89c1\u4e00\u53ea\u9e1f\u3002"
    (tmp_path / "a.txt").write_text(sentence * 200, encoding="utf-8")
    haystack = open_text(tmp_path, num_tokens=800)
    samples, text = samples_of("bytes", grid=Grid.parse("500,800", "0,0.5,1"), haystack=haystack)
    assert len(text.ends) > 2.5 * len({*text.ends})
    for sample in samples:
        tokens = tokenizer_of("bytes")(sample.prompt).input_ids
        assert 0 <= sample.cell.num_frames - len(tokens) <= 2
        depth = sample.fields["needle_token"] / sample.fields["haystack_tokens"]
        assert sample.cell.depth - 0.15 <= depth <= sample.cell.depth


def test_the_haystack_is_shown_once_and_in_order():
    for sample in samples_of("bytes", distractors="3")[0]:
        spans = [p for p in sample.text if isinstance(p, TextSpan) and p.source == HAYSTACK]
        assert spans[0].start == 0
        assert all(a.stop == b.start for a, b in pairwise(spans))


def test_distractors_stay_where_they_are_whatever_the_depth():
    samples, _ = samples_of("words", distractors="3,5")
    for needle in {sample.fields["needle_id"] for sample in samples}:
        for length in GRID.frames:
            own = [
                sample.fields
                for sample in samples
                if sample.fields["needle_id"] == needle and sample.cell.num_frames == length
            ]
            three = {str(f["distractor_cities"]) for f in own if f["num_distractors"] == 3}
            five = {str(f["distractor_cities"][:3]) for f in own if f["num_distractors"] == 5}
            assert three == five and len(three) == 1
    assert len({*CITIES}) == len(CITIES) and "Singapore" not in CITIES


def test_a_sample_is_the_same_whatever_else_is_measured():
    many, _ = samples_of("bytes", distractors="0,3")
    by_id = {sample.sample_id: sample for sample in many}
    assert len(many) == 40
    few = [
        sample
        for grid in (Grid.parse("500", "0.5"), Grid.parse("300", "0.5,1"))
        for sample in samples_of("bytes", grid=grid, distractors="3")[0]
    ]
    for sample in few:
        assert by_id[sample.sample_id].prompt == sample.prompt
        assert by_id[sample.sample_id].fields == sample.fields


def place_of_cut(sample):
    """The number of characters of the haystack that a sample shows."""
    return max(p.stop for p in sample.text if isinstance(p, TextSpan) and p.source == HAYSTACK)


def test_characters_of_several_tokens_are_not_taken_for_one():
    """A text is as long as its tokens are many: a character of three bytes may have three."""
    haystack = TextHaystack("rain", "text", "0", "\u96e8\u304c\u964d\u308b\u3002" * 60)
    text = haystack.read_by(Reader("bytes"), 1000)
    num_tokens = len(tokenizer_of("bytes")(haystack.body).input_ids)
    assert len(text.ends) == num_tokens == 900
    assert text.characters(900) == 300 and text.tokens_before(1) == 3
    samples, _ = samples_of("bytes", grid=Grid.parse("800", "0,0.5,1"), haystack=haystack)
    for sample in samples:
        assert len(tokenizer_of("bytes")(sample.prompt).input_ids) in (798, 799, 800)
        assert sample.fields["needle_character"] % 5 == 0


@pytest.mark.parametrize("kind", ALL_KINDS)
@pytest.mark.parametrize("task", ["niah", "niah-multi"])
def test_every_kind_of_tokenizer_has_exact_lengths_and_depths(task, kind):
    """Also of text whose characters take several tokens, or become others."""
    odd = (
        "\u00c9lan vital \ufb01ne \u00bd \u201cquote.\u201d So? Yes!\n\nNew   line."
        "\t\u96e8\u304c\u3002\u51fa\u305f\u3002 "
    )
    haystack = TextHaystack("odd", "text", "0", odd * 150)
    options = {"distractors": "5"} if task == "niah" else {"number": "3"}
    samples, text = samples_of(
        kind,
        grid=Grid.parse("500", "0,0.3,0.77,1"),
        needles=number_needles(1),
        haystack=haystack if kind in ("bytes", "folded") else None,
        task=load_task(task, options),
    )
    ends = {0, *find_sentence_ends(text.body)}
    for sample in samples:
        encoded = tokenizer_of(kind)(sample.prompt)
        assert len(encoded.input_ids) == sample.fields["context_tokens"]
        assert 0 <= 500 - len(encoded.input_ids) <= 3
        shown, place = sample.fields["haystack_tokens"], sample.fields["needle_token"]
        # A Unigram over whole texts reads pieces otherwise than the whole: less of it is shown.
        most = shown * (1.05 if kind == "whole" else 1)
        assert place <= sample.cell.depth * most + 3, "no deeper than asked for"
        before = [
            piece.stop
            for piece in sample.text
            if isinstance(piece, TextSpan) and piece.source == HAYSTACK
        ]
        assert {*before} <= ends | {place_of_cut(sample)}
        numbers = [number for _, number in _SENTENCE.findall(sample.prompt)]
        assert all(re.fullmatch(r"[1-9]\d{6}", number) for number in numbers)
        asked = sample.fields.get("asked_numbers", [sample.answer])
        others = {*numbers} - {*map(str, asked)}
        assert len({*numbers}) == len(numbers) and not others & {*map(str, asked)}


# --- refusals ------------------------------------------------------------------------------------


def test_a_text_shorter_than_the_grid_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("It rained. We left. Then it was over.")
    with pytest.raises(HaystackTooShortError, match=r"has 18 tokens as reader reads it.*never"):
        samples_of("words", haystack=open_text(tmp_path, num_tokens=1))


def test_a_context_without_room_is_refused():
    with pytest.raises(TaskError, match=r"40 tokens have no room for a haystack: template, quest"):
        samples_of("words", grid=Grid.parse("40", "0"))
    with pytest.raises(TaskError, match=r"template, question and needle have [0-9]+; ask"):
        samples_of("words", grid=Grid.parse("40", "0"), distractors="0")
    with pytest.raises(TaskError, match=r"question, needle and 3 further sentences have [0-9]+;"):
        samples_of("words", grid=Grid.parse("40", "0"), distractors="3")


def test_a_text_that_holds_the_needle_is_refused(tmp_path):
    needles = number_needles(1)
    (tmp_path / "a.txt").write_text(f"It was {needles.needles[0].answer}. " * 300)
    with pytest.raises(TaskError, match="which the needle singapore-"):
        samples_of("words", haystack=open_text(tmp_path, num_tokens=1), needles=needles)


def test_pictures_films_and_positions_are_refused(needle_folder):
    with pytest.raises(TaskError, match="is a picture, and the task niah hides text"):
        samples_of("words", needles=load_needles(needle_folder))
    with pytest.raises(TaskError, match="leave out positions"):
        samples_of("words", grid=Grid.of([300], positions=[0, 100]))
    with pytest.raises(TaskError, match="give a text and the model that reads it"):
        plan_samples(load_task("niah"), GRID, number_needles(), None)
    for value in ("x", "-1", "51", "3,3"):
        with pytest.raises(TaskError, match="the option distractors"):
            load_task("niah", {"distractors": value})


# --- runs ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_language_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def run(model, tmp_path_factory):
    """A run with and without distractors, of a model that knows nothing."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    run_text(model, folder)
    return folder


def run_text(model, folder, **options):
    settings = {
        "needles": number_needles(2),
        "task_options": {"distractors": "0,2"},
        "grid": GRID_OF_RUN,
        **options,
    }
    return run_sweep(
        model,
        open_text(num_tokens=300),
        settings.pop("needles"),
        settings.pop("grid"),
        output=folder,
        task="niah",
        progress=False,
        **settings,
    )


def test_a_run_is_described_and_its_lengths_are_tokens(run):
    results = load_run(run)
    require_described(run)
    assert results.axis == "tokens" and len(results.samples) == 2 * 2 * 2 * 2
    assert len(results.control_samples) == 2 * 2 * 2
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["haystack"]["kind"] == "prose"
    assert "frame_rate" not in manifest["protocol"]
    assert manifest["environment"]["forward"]["passes"] < 24


def test_the_control_shows_the_text_without_the_needle(model):
    text = open_text(num_tokens=400).read_by(model, 400)
    task = load_task("niah", {"distractors": "2"})
    samples = plan_samples(task, Grid.parse("400", "0,1"), number_needles(1), text)
    (control,) = (sample for sample in samples if sample.control is not None)
    assert control.sample_id.startswith("400/-/singapore-")
    assert "Singapore number is: " not in control.prompt.removesuffix(QUESTION)
    assert len(_SENTENCE.findall(control.prompt)) == 2
    blind = plan_samples(task, Grid.parse("400", "0"), number_needles(1), text, "blind")[-1]
    assert blind.prompt == QUESTION and blind.shows_nothing


def test_a_run_goes_on_where_it_stopped(model, run, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "manifest.json").write_bytes((run / "manifest.json").read_bytes())
    lines = (run / "samples.jsonl").read_bytes().splitlines(keepends=True)
    (copy / "samples.jsonl").write_bytes(b"".join(lines[:10]) + lines[10][:30])
    results = run_text(model, copy)
    assert results.num_done == 24 == results.num_planned
    whole = {sample.sample_id: sample.logprob for sample in load_run(run).samples}
    assert {s.sample_id: pytest.approx(s.logprob, abs=1e-4) for s in results.samples} == whole
    with pytest.raises(RunMismatchError, match=r"needles\.ids"):
        run_text(model, copy, needles=number_needles(2, seed=1))


def test_generated_answers_are_judged(model, tmp_path):
    results = run_text(
        model,
        tmp_path / "run",
        scorer="generate",
        max_new_tokens=8,
        controls="none",
        grid=Grid.parse("200", "1"),
    )
    assert all(sample.correct is not None for sample in results.samples)


def test_models_and_tasks_that_do_not_fit_are_refused(model, tmp_path, needle_folder):
    with pytest.raises(InputError, match="tiny-bytes is a language model, which reads text and no"):
        run_sweep(
            model,
            open_text(num_tokens=9),
            load_needles(needle_folder),
            Grid.parse("4", "0"),
            output=tmp_path / "run",
            progress=False,
        )
    assert not (tmp_path / "run").exists()


# --- the command line ----------------------------------------------------------------------------


def test_the_command_line_measures_a_folder_of_text(tmp_path, capsys):
    folder, texts = save_language_model(tmp_path / "tiny"), tmp_path / "essays"
    texts.mkdir()
    (texts / "one.txt").write_text(open_text(num_tokens=500).body)
    arguments = ["run", "--model", str(folder), "--task", "niah", "--needles", "numbers:1"]
    arguments += [
        "--tokens",
        "300",
        "--depths",
        "0,1",
        "--output",
        str(tmp_path / "run"),
        "--quiet",
    ]
    assert main([*arguments, "--haystack", str(texts)]) == 0
    out = capsys.readouterr().out
    assert "for these needles on this text" in out and "frames" not in out
    results = load_run(tmp_path / "run")
    assert results.manifest["haystack"]["name"] == "essays"
    assert results.samples[1].cell.depth == Fraction(1)


def test_a_vision_model_is_measured_as_a_language_model_without_its_tower(tmp_path):
    model = load_model("reference-short", device="cpu")
    grid = Grid.parse("200", "0.5")
    results = run_text(model, tmp_path / "run", grid=grid, controls="none")
    assert not model.encoder_is_read
    assert results.num_done == results.num_planned == 4
    assert None not in [sample.logprob for sample in results.samples]
    sequence = model.compose_text("the 7 . " * 20, "1 2")
    ids = [token for segment in sequence.segments for token in segment.token_ids]
    with torch.inference_mode():
        own = model.decoder(torch.tensor([[*ids, *sequence.answer_ids]])).logits[0, -3:-1]
    found = decoder_logits(model, sequence, EncodedFrames.none().store)
    torch.testing.assert_close(found, own, rtol=0, atol=1e-4)
    model = load_model("reference-short", device="cpu")
    model._tokenizer = SimpleNamespace(is_fast=False)
    with pytest.raises(ModelError, match="does not say which characters its tokens are of"):
        model.compose_text("A text.", "7")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--task niah", "the task niah shows text, whose length counts in tokens: give --tokens"),
        ("--tokens 512", "the task vniah shows frames: give --frames in place of --tokens"),
        ("--task niah --tokens 512 --frames 8", "not allowed with argument"),
        ("--task niah --tokens x", "tokens must be numbers, got 'x'"),
        ("--task niah --tokens 0", "tokens must be whole numbers of at least 1, got 0"),
        ("--task niah --tokens 400.5", "tokens must be whole numbers of at least 1, got 400.5"),
        (
            "--task niah --tokens 512 --keep-damaged",
            "are for videos and pages, and the task niah shows text",
        ),
        (
            "--task niah --tokens 512 --haystack a b",
            "one folder or file, one data set, or pydoc; give one",
        ),
    ],
)
def test_what_does_not_fit_is_one_line(arguments, message, tmp_path, capsys):
    words = arguments.split()
    if "--task" in words and "x" not in words:
        words += ["--model", "reference-short"]
    assert main(["run", *words, "--output", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert message in error[-1]
    assert not (tmp_path / "run").exists()


def test_a_report_names_tokens_and_the_command_that_makes_the_run(run, tmp_path, capsys):
    assert main(["report", str(run), "--output", str(tmp_path / "report.html")]) == 0
    said = capsys.readouterr()
    assert "needle pictures" not in said.out + said.err
    page = (tmp_path / "report.html").read_text()
    assert "--needles numbers:2:0 --tokens 200,300 --depths 0,1 --task niah" in page
    assert "tokens of context" in page and "number of frames" not in page
