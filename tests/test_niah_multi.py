"""The task niah-multi: several keys, values and queries, in the words of RULER."""

import json
import re

import pytest
from chat_server import Fault, answer, serve
from test_format_schema import require_described
from test_niah import GRID, samples_of
from test_text_haystacks import Reader
from text_models import KINDS as TOKENIZERS
from text_models import load_language_model, tokenizer_of

from vniah.answers import numbers_in
from vniah.errors import InputError, TaskError
from vniah.grid import Grid
from vniah.haystacks.text import find_sentence_ends, open_text
from vniah.models.server.client import ServerOptions, open_server
from vniah.needles.numbers import number_needles
from vniah.results import load_run
from vniah.scoring import GeneratedText, Reading
from vniah.sweep.run import run_sweep
from vniah.tasks import load_task
from vniah.tasks.controls import plan_samples
from vniah.tasks.niah_multi import KINDS

pytestmark = pytest.mark.usefixtures("quick_pictures")

_FACT = re.compile(r"\nOne of the special magic numbers for ([A-Z][a-z]+) is: ([1-9]\d{6})\.\n")


def multi(tokenizer="bytes", *, grid=GRID, **options):
    return samples_of(tokenizer, grid=grid, task=load_task("niah-multi", options))


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_samples_hide_and_ask_what_ruler_does(tokenizer):
    samples, text = multi(tokenizer, grid=Grid.parse("400", "0,0.5,1"))
    ends = {0, *find_sentence_ends(text.body)}
    assert len(samples) == 3 * 2 * 3
    for sample in samples:
        fields = sample.fields
        assert len(tokenizer_of(tokenizer)(sample.prompt).input_ids) == fields["context_tokens"]
        assert 0 <= 400 - fields["context_tokens"] <= (tokenizer == "sentencepiece")
        found = _FACT.findall(sample.prompt)
        pairs = zip(fields["hidden_cities"], fields["hidden_numbers"], strict=True)
        assert sorted(found) == sorted(pairs) and len({n for _, n in found}) == 4
        num_cities = len({city for city, _ in found})
        assert num_cities == (1 if fields["kind"] == "multi-value" else 4)
        assert len(fields["asked_numbers"]) == (1 if fields["kind"] == "multi-key" else 4)
        assert fields["asked_numbers"][0] == fields["needle_id"].partition("-")[2]
        asked = fields["hidden_cities"] if fields["kind"] == "multi-query" else ["Singapore"]
        assert all(city in sample.question for city in asked)
        assert sample.prompt.endswith(f"\n{sample.question}")
        before = {sample.prompt.index(f"\nOne of the special magic numbers for {c}") for c in asked}
        assert all(place >= 0 for place in before)
        places = [
            p.stop
            for p, q in zip(sample.text, sample.text[1:], strict=False)
            if getattr(p, "source", "") == "haystack" and q != sample.text[-1]
        ]
        assert {*places} <= ends
        own = [p for p in sample.text if getattr(p, "source", "haystack") != "haystack"]
        assert len({*own}) == len(fields["asked_numbers"])  # spans of one source, all different


def test_the_words_are_those_of_ruler():
    samples, _ = multi(grid=Grid.parse("400", "0"), number=2)
    by_kind = {sample.fields["kind"]: sample for sample in samples}
    assert [*by_kind] == [*KINDS]
    end = "mentioned in the provided text"
    assert by_kind["multi-key"].question == (
        f"What is the special magic number for Singapore {end}? "
        f"The special magic number for Singapore {end} is"
    )
    assert by_kind["multi-value"].question == (
        f"What are all the special magic numbers for Singapore {end}? "
        f"The special magic numbers for Singapore {end} are"
    )
    city = by_kind["multi-query"].fields["hidden_cities"][1]
    assert f"numbers for Singapore, and {city} {end}?" in by_kind["multi-query"].question
    assert by_kind["multi-query"].prompt.startswith(
        "Some special magic numbers are hidden within the following text. Make sure to memorize "
        "it. I will quiz you about the numbers afterwards.\n"
    )
    assert by_kind["multi-key"].prompt.startswith("A special magic number is hidden within the")


def test_other_sentences_stay_whatever_the_depth_and_their_number():
    few, _ = multi(grid=Grid.parse("500", "0,1"), number="2")
    many, _ = multi(grid=Grid.parse("500", "0,0.5"), number="4")
    numbers = {}
    for sample in (*few, *many):
        key = sample.fields["needle_id"], sample.fields["kind"]
        numbers.setdefault(key, set()).add(tuple(sample.fields["hidden_numbers"][:2]))
    assert all(len(found) == 1 for found in numbers.values())


def test_the_control_shows_none_of_the_numbers_that_are_asked_for():
    text = open_text(num_tokens=400).read_by(Reader(), 400)
    samples = plan_samples(load_task("niah-multi"), Grid.parse("400", "0"), number_needles(1), text)
    controls = [sample for sample in samples if sample.control is not None]
    assert len(controls) == 3
    for control, kind in zip(controls, KINDS, strict=True):
        asked = numbers_in(control.answer, num_digits=7)
        assert len(asked) == (1 if kind == "multi-key" else 4)
        assert not any(number in control.prompt for number in asked)
        assert len(_FACT.findall(control.prompt)) == (3 if kind == "multi-key" else 0)


# --- scores --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "right", "share"),
    [
        ("{0}, {1}, {2}, and {3}.", True, 1.0),
        ("{3} {1}\n{0}; {2}. The end 1000000", True, 1.0),
        ("They are {0}, {0}, {1}, {2} and {3}", True, 1.0),
        ("1000000, {0}, {1}, {2}, {3}", False, 1.0),
        ("{0}, {2}, {3}", False, 0.75),
        ("{1}", False, 0.25),
        ("", False, 0.0),
    ],
)
def test_the_share_of_the_numbers_is_the_score_of_ruler(words, right, share):
    task = load_task("niah-multi", {"kind": "multi-value"})
    sample = multi(grid=Grid.parse("400", "0"), kind="multi-value")[0][0]
    said = words.format(*sample.fields["asked_numbers"])
    score = task.score(sample, (Reading(0.1, generated=GeneratedText(said)),))
    assert score.correct is right and score.measures == {"share_found": share}


def test_options_and_scorers_that_do_not_fit_are_refused(tmp_path):
    for options, message in (
        ({"kind": "several"}, "the option kind must be one of multi-key, multi-value"),
        ({"number": "1"}, "the option number must be whole numbers from 2 to 16"),
    ):
        with pytest.raises(TaskError, match=message):
            load_task("niah-multi", options)
    with pytest.raises(InputError, match="judges what a model writes: add --scorer generate"):
        run(load_language_model(tmp_path / "model"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


# --- runs ----------------------------------------------------------------------------------------


def run(model, output, **options):
    return run_sweep(
        model,
        open_text(num_tokens=400),
        number_needles(1),
        Grid.parse("400", "0,1"),
        output=output,
        task="niah-multi",
        progress=False,
        **options,
    )


def test_a_decoder_writes_as_much_as_the_answer_needs(tmp_path):
    model = load_language_model(tmp_path / "model")
    results = run(model, tmp_path / "run", scorer="generate", controls="none")
    require_described(tmp_path / "run")
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["scorer"]["max_new_tokens"] == 128
    assert {sample.fields["share_found"] for sample in results.samples} == {0.0}
    assert {(sample.logprob, sample.rank, sample.margin) for sample in results.samples} == {
        (None, None, None)
    }
    assert all(sample.error is None for sample in results.samples)


@pytest.mark.parametrize(("found", "share"), [(4, 1.0), (2, 0.5)])
def test_a_server_is_scored_by_what_it_finds(found, share, tmp_path):
    def respond(request):
        facts = _FACT.findall(request.question)
        asked = [n for city, n in facts if city in request.question.rpartition("?")[2]]
        count = len(tokenizer_of("bytes")(request.question, verbose=False).input_ids)
        return Fault(body=answer(", ".join(asked[:found]) or "none", count))

    tokenizer_of("bytes").save_pretrained(tmp_path / "tokenizer")
    with serve(fault=respond) as server:
        options = ServerOptions(tokenizer=str(tmp_path / "tokenizer"))
        run(open_server(server.model, options), tmp_path / "run")
    results = load_run(tmp_path / "run")
    assert len(results.samples) == 6
    for sample in results.samples:
        is_one = sample.fields["kind"] == "multi-key"
        assert sample.fields["share_found"] == (1.0 if is_one else share)
        assert sample.correct is (is_one or share == 1.0)
    assert not any(sample.correct for sample in results.control_samples)
