"""Text behind a server: its tokens are counted here, and what the server counts has to agree."""

import json
import re

import pytest
from chat_server import Fault, answer, serve
from test_format_schema import require_described
from text_models import tokenizer_of

from vniah.analysis.report.command import command_of
from vniah.answers import match_first_number, numbers_in
from vniah.checks.model import check_model
from vniah.cli import main
from vniah.errors import CheckError, InputError, ModelError
from vniah.grid import Grid
from vniah.haystacks.text import open_text
from vniah.models.server.client import ServerOptions, open_server
from vniah.models.tokenizers import open_counter
from vniah.needles import load_needles
from vniah.needles.numbers import number_needles
from vniah.results import load_run
from vniah.sweep.run import run_sweep

AROUND = 9  # tokens of the chat template
GRID = Grid.parse("200,300", "0,1")


@pytest.fixture(autouse=True)
def no_key_of_the_user(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """The folder of the tokenizer of the model that the server serves."""
    folder = tmp_path_factory.mktemp("models") / "served"
    tokenizer_of("bytes").save_pretrained(folder)
    return folder


def reads(keeps=None, *, kind="bytes", usage=True, words="The number is: {}. I am sure of it."):
    """A server that looks for the number in what it reads, and counts its tokens."""

    def respond(request):
        ids = tokenizer_of(kind)(request.question, verbose=False).input_ids
        text = request.question if keeps is None else tokenizer_of(kind).decode(ids[:keeps])
        found = re.search(r"Singapore number is: (\d{7})", text)
        said = words.format(found[1]) if found else "There is none."
        count = min(len(ids), keeps or len(ids)) + AROUND
        return Fault(body=answer(said, count if usage else None))

    return serve(fault=respond)


def sweep(server, tokenizer, output, **changes):
    options = ServerOptions(
        tokenizer=None if tokenizer is None else str(tokenizer),
        backoff_seconds=0.001,
        needs_usage=changes.pop("needs_usage", True),
    )
    return run_sweep(
        open_server(server.model, options),
        open_text(num_tokens=300),
        number_needles(2),
        changes.pop("grid", GRID),
        output=output,
        task="niah",
        progress=False,
        **changes,
    )


def test_a_server_that_reads_the_text_finds_every_number(tokenizer, tmp_path):
    with reads() as server:
        results = sweep(server, tokenizer, tmp_path / "run")
    assert [sample.correct for sample in results.samples] == [True] * 8
    assert [sample.correct for sample in results.control_samples] == [False] * 4
    for sample in results.samples:
        assert sample.prompt_tokens == sample.fields["context_tokens"] + AROUND
    assert {len(r.labels) for r in server.requests} == {0}
    assert all("seed" in request.body for request in server.requests)


def test_the_manifest_says_how_tokens_were_counted(tokenizer, tmp_path):
    with reads() as server:
        sweep(server, tokenizer, tmp_path / "run", controls="none", grid=Grid.parse("200", "0"))
    require_described(tmp_path / "run")
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["model"]["tokenizer"] == "served"
    assert manifest["model"]["tokenizer_sha256"] == open_counter(str(tokenizer)).sha256
    command = command_of(manifest)
    assert "--tokenizer served" in command.text
    assert "in place of 'served' give the folder of the tokenizer" in command.remarks
    found = next(v for v in manifest["environment"].values() if "tokens_around_prompt" in str(v))
    assert f"'tokens_around_prompt': {AROUND}" in str(found)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"keeps": 150}, "prompt_tokens is 159 where the tokenizer served counts 300"),
        ({"kind": "words"}, "or its model has another tokenizer; give that of the model by"),
        ({"usage": False}, "whether it reads the whole text.*Nothing was measured"),
    ],
)
def test_a_server_that_counts_something_else_is_not_measured(changes, message, tokenizer, tmp_path):
    with reads(**changes) as server, pytest.raises(CheckError, match=message):
        sweep(server, tokenizer, tmp_path / "run")
    assert not (tmp_path / "run").exists() and len(server.requests) <= 2


def test_a_server_that_begins_to_cut_is_stopped(tokenizer, tmp_path):
    def respond(request):
        ids = tokenizer_of("bytes")(request.question, verbose=False).input_ids
        count = len(ids) if request.number < 6 else min(len(ids), 100)
        return Fault(body=answer("7", count + AROUND))

    with serve(fault=respond) as server, pytest.raises(CheckError, match="before is kept"):
        sweep(server, tokenizer, tmp_path / "run", controls="none")
    assert load_run(tmp_path / "run").num_done >= 1


def test_lengths_that_a_server_refuses_are_errors(tokenizer, tmp_path):
    def respond(request):
        ids = tokenizer_of("bytes")(request.question, verbose=False).input_ids
        if len(ids) > 250:
            return Fault(400, '{"error": {"message": "too long"}}')
        return Fault(body=answer("7", len(ids) + AROUND))

    with serve(fault=respond) as server:
        results = sweep(server, tokenizer, tmp_path / "run", controls="none")
    assert {s.cell.num_frames for s in results.samples if s.error is not None} == {300}
    assert {s.cell.num_frames for s in results.samples if s.error is None} == {200}


def test_without_usage_it_is_measured_where_that_is_allowed(tokenizer, tmp_path):
    with reads(usage=False) as server:
        results = sweep(server, tokenizer, tmp_path / "run", needs_usage=False)
    assert results.samples[0].correct and results.samples[0].prompt_tokens is None
    assert "reads the whole text" in (tmp_path / "run" / "manifest.json").read_text()


def test_without_a_tokenizer_nothing_is_asked(tmp_path):
    with reads() as server, pytest.raises(InputError, match=r"of tiny/Looker is not known here"):
        sweep(server, None, tmp_path / "run")
    assert not server.requests and not (tmp_path / "run").exists()


def test_tokenizers_that_cannot_be_had_are_refused(tmp_path):
    for source, message in (
        ("no-such-folder", "there is no tokenizer 'no-such-folder'"),
        (str(tmp_path), "has no tokenizer files"),
    ):
        with pytest.raises(ModelError, match=message):
            open_counter(source)


def test_check_says_what_the_server_counts(tokenizer):
    with reads() as server:
        model = open_server(server.model, ServerOptions(tokenizer=str(tokenizer)))
        report = check_model(model, load_needles("numbers"))
    assert report.passed
    assert f"served does, and {AROUND} tokens more around every prompt" in report.lines[-1]


@pytest.mark.usefixtures("quick_pictures")
def test_the_command_line_measures_a_server(tokenizer, tmp_path, capsys):
    with reads() as server:
        arguments = ["run", "--model", server.model, "--depths", "0", "--controls", "none"]
        arguments += ["--output", str(tmp_path / "run"), "--quiet", "--tokenizer", str(tokenizer)]
        assert main([*arguments, "--frames", "4"]) == 2
        assert "the task vniah shows frames: leave it out" in capsys.readouterr().err
        assert main([*arguments, "--task", "niah", "--tokens", "200"]) == 0
    assert load_run(tmp_path / "run").samples[0].correct


def test_a_chat_model_of_ones_own_reads_text(tmp_path):
    class Reader:
        name, revision = "reader", "1"

        def token_ends(self, text):
            return [match.end() for match in re.finditer(r"\S+\s*", text)]

        def answer(self, frames, question):
            assert not frames
            return next(iter(re.findall(r"Singapore number is: (\d{7})", question)), "none")

    results = run_sweep(
        Reader(),
        open_text(num_tokens=100),
        number_needles(1),
        Grid.parse("100", "0,1"),
        output=tmp_path / "run",
        task="niah",
        progress=False,
    )
    assert all(sample.correct for sample in results.samples)


# --- the rule for written numbers ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("5746211", True),
        (" 5746211.\nThe special magic Paris number is: 1111111.", True),
        ("The special magic Singapore number is **5,746,211**.", True),
        ("<think>1111111 or so</think>It is 5746211", True),
        ("1111111 or 5746211", False),
        ("57462110", False),
        ("In 2 of 3 books it is 5746211", True),
        ("", False),
    ],
)
def test_the_first_number_of_its_length_is_the_answer(text, first):
    assert (match_first_number(text, ["5746211"]) == "5746211") is first


def test_numbers_are_found_in_their_order():
    text = "1234567, 5 746 211 and 12 (not 12345678)"
    assert numbers_in(text, num_digits=7) == ("1234567", "5746211")
