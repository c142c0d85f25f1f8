"""Sweeps over a server: several questions at once, and no heatmap of one that drops frames."""

import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections import Counter

import pytest
from chat_server import MODEL, Fault, answer, serve, write_haystack, write_needles
from jobs import start

from vniah.checks.model import check_model
from vniah.cli import main
from vniah.engines.server import ServerEngine
from vniah.errors import (
    CheckError,
    InputError,
    ModelError,
    RequestLimitError,
    ResultsError,
    ServerError,
)
from vniah.grid import Grid
from vniah.haystacks.haystack import open_haystack
from vniah.models.server.client import ServerOptions, open_server
from vniah.models.server.messages import FrameFormat
from vniah.needles import load_needles
from vniah.results import SampleResult, load_results
from vniah.sweep.mesh import Mesh
from vniah.sweep.run import run_sweep
from vniah.tasks.controls import plan_samples
from vniah.tasks.vniah import VisualNeedle

pytestmark = pytest.mark.usefixtures("quick_pictures")

KEY = "sk-proj-Abc123Def456Ghi789"
GRID = Grid.of([4, 8], [0, 0.5, 1])
LONG_GRID = Grid.of([8, 16, 40], [0, 0.5, 1])
NUM_SAMPLES = 18
NUM_PROBES = 3  # at 2, 4 and 8 frames


@pytest.fixture(autouse=True)
def no_key_of_the_user(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("material")
    return write_haystack(folder / "grey", 40), write_needles(folder / "colours")


@pytest.fixture
def sweep(folders, tmp_path):
    """Runs a sweep over a server."""
    haystack, needles = folders

    def run(server, grid=GRID, *, output=tmp_path / "run", frames_as="images", **changes):
        frames = FrameFormat(frames_as, (16, 16))
        quick = {"frames": frames, "backoff_seconds": 0.001, "timeout_seconds": 20}
        sweep_options = {
            name: changes.pop(name) for name in ("on_progress", "mesh") if name in changes
        } | {"controls": changes.pop("controls", "none")}
        model = open_server(server.model, ServerOptions(**{**quick, **changes}))
        return run_sweep(
            model,
            open_haystack(haystack),
            load_needles(needles),
            grid,
            output=output,
            **sweep_options,
        )

    return run


@pytest.fixture
def command(folders):
    """The command line of the same sweep."""
    haystack, needles = folders

    def words(server, *more):
        return [
            *("run", "--model", server.model, "--haystack", str(haystack)),
            *("--needles", str(needles), "--frames", "4,8", "--depths", "0,0.5,1"),
            *("--output", "out", "--frame-size", "16x16", "--controls", "none", *more),
        ]

    return words


@pytest.mark.parametrize("frames_as", ["images", "video-jpeg"])
def test_server_that_looks_finds_every_needle(sweep, frames_as):
    with serve() as server:
        results = sweep(server, LONG_GRID, frames_as=frames_as)
    assert results.is_complete and results.average == 1.0
    seen = Counter(request.labels for request in server.requests[4:])
    expected = Counter()
    for sample in results.samples:
        labels = list(range(sample.num_frames))
        labels.insert(sample.fields["needle_index"], sample.needle_id)
        expected[tuple(labels)] += 1
    assert seen == expected
    assert {s.prompt_tokens - len(s.question) for s in results.samples} == {920, 1720, 4120}
    assert results.manifest["protocol"]["criterion"] == "generated text"


def test_manifest_says_how_the_server_was_asked(sweep, tmp_path):
    with serve() as server:
        sweep(server, concurrency=2)
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    model = {name: manifest["model"][name] for name in ("name", "base_url", "frames_as")}
    assert model == {"name": MODEL, "base_url": server.url, "frames_as": "images"}
    assert manifest["model"]["max_tokens"] == 128 and manifest["model"]["temperature"] == 0
    forward = manifest["environment"]["forward"]
    assert forward["concurrency"] == 2
    text = len("Which colour has the card of red?")
    assert forward["check"] == {
        "prompt_tokens": {"2": 320 + text, "4": 520 + text, "8": 920 + text},
        "tokens_per_frame": 100.0,
    }


def test_wrong_answers_are_wrong(sweep):
    with serve(
        fault=lambda request: Fault(body=answer("red", 100 * len(request.labels)))
    ) as server:
        results = sweep(server)
    assert {(s.needle_id, s.correct) for s in results.samples} == {
        ("red", True),
        ("green", False),
        ("blue", False),
    }


@pytest.mark.parametrize("concurrency", [1, 3])
def test_so_many_requests_are_on_their_way_and_no_more(sweep, concurrency):
    """Answers of the sweep wait until as many others are there."""
    full = threading.Event()

    def fault(request):
        if request.number < NUM_PROBES:
            return
        if server.most_at_once >= concurrency:
            full.set()
        full.wait(20)
        time.sleep(0.01)  # room for one too many

    with serve(fault=fault) as server:
        assert sweep(server, concurrency=concurrency).average == 1.0
    assert server.most_at_once == concurrency


def test_every_answer_is_written_when_it_arrives(sweep, tmp_path):
    """One question is never answered while the others are; all of those are in the file."""
    others_are_written = threading.Event()
    path = tmp_path / "run" / "samples.jsonl"

    def fault(request):
        if request.number == NUM_PROBES:
            assert others_are_written.wait(20)

    def on_progress(stage, done, total):
        if (stage, done) == ("sweep", NUM_SAMPLES - 1):
            assert path.read_bytes().count(b"\n") == NUM_SAMPLES - 1
            others_are_written.set()

    with serve(fault=fault) as server:
        assert sweep(server, concurrency=2, on_progress=on_progress).is_complete


def test_errors_are_samples_and_are_tried_again(sweep):
    def fault(request):
        if request.num_frames == 8 and request.number >= NUM_PROBES and "blue" in request.labels:
            return Fault(400, body='{"error": {"message": "too long\\nby far"}}')
        return None

    with serve(fault=fault) as server:
        results = sweep(server)
        assert {c.num_errors for c in results.cells} == {0, 1}
        failed = [s for s in results.samples if s.error is not None]
        assert {s.error for s in failed} == {f"HTTP 400 from {server.url}: too long by far"}
        assert {(s.num_frames, s.needle_id, s.correct) for s in failed} == {(8, "blue", None)}
        num_requests = len(server.requests)
        server.fault = lambda request: None
        again = sweep(server)
    assert again.average == 1.0 and not any(s.error for s in again.samples)
    assert len(server.requests) == num_requests + NUM_PROBES + len(failed)


def test_lengths_that_a_server_refuses_are_errors_and_the_others_are_measured(sweep):
    def fault(request):
        if request.num_frames > 20:
            return Fault(400, body='{"error": {"message": "context length is 2200"}}')
        return None

    with serve(fault=fault) as server:
        results = sweep(server, LONG_GRID)
    scores = {n: {c.score for c in results.cells if c.cell.num_frames == n} for n in (8, 16, 40)}
    assert scores == {8: {1.0}, 16: {1.0}, 40: {None}}
    assert results.manifest["environment"]["forward"]["check"]["refused_frames"] == [40]


def test_finished_run_asks_nothing(sweep):
    with serve() as server:
        sweep(server)
        num_requests = len(server.requests)
        assert sweep(server).is_complete
    assert len(server.requests) == num_requests


def test_run_that_goes_on_checks_the_lengths_that_are_left(sweep):
    def fault(request):
        return Fault(401) if request.number >= NUM_PROBES + 1 + 9 else None

    with serve(fault=fault) as server:
        with pytest.raises(ServerError):
            sweep(server, LONG_GRID, concurrency=1)
        num_requests = len(server.requests)
        server.fault = lambda request: None
        sweep(server, LONG_GRID)
    assert [r.num_frames for r in server.requests[num_requests:][:4]] == [8, 16, 40, 36]


def test_budget_stops_the_run_and_the_next_start_goes_on(sweep, tmp_path):
    with serve() as server:
        with pytest.raises(RequestLimitError, match=r"10 requests were sent.* goes on"):
            sweep(server, max_requests=10)
        assert len(server.requests) == 10
        kept = load_results(tmp_path / "run")
        assert len(kept.samples) == 10 - NUM_PROBES and kept.average == 1.0
        assert sweep(server, max_requests=100).is_complete
    assert len(server.requests) == NUM_SAMPLES + 2 * NUM_PROBES


def test_budget_waits_for_answers_that_are_on_their_way(sweep, tmp_path):
    """The last request allowed is answered after the budget has stopped another thread."""
    spent = threading.Event()

    def fault(request):
        if request.number == NUM_PROBES:
            spent.wait(0.3)

    with serve(fault=fault) as server, pytest.raises(RequestLimitError):
        sweep(server, max_requests=NUM_PROBES + 5, concurrency=2)
    assert len(load_results(tmp_path / "run").samples) == 5


def test_budget_that_is_spent_by_the_check_leaves_nothing(sweep, tmp_path):
    with serve() as server, pytest.raises(RequestLimitError):
        sweep(server, max_requests=2)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("keeps", [8, 16, 32, 40])
def test_server_that_drops_frames_is_not_measured(sweep, tmp_path, keeps):
    """With 40 kept only the very last of 41 is lost."""
    with (
        serve(keeps=keeps) as server,
        pytest.raises(CheckError, match=r"drops frames.*Nothing was measured"),
    ):
        sweep(server, LONG_GRID)
    assert not (tmp_path / "run").exists()
    assert len(server.requests) <= 4


def test_video_of_which_a_server_keeps_32_frames_is_found(sweep, tmp_path, monkeypatch):
    """What vLLM does where a request does not ask for all frames."""
    monkeypatch.setattr(FrameFormat, "extra_body", {})
    with serve() as server, pytest.raises(CheckError, match="drops frames"):
        sweep(server, LONG_GRID, frames_as="video-jpeg")
    assert not (tmp_path / "run").exists()


def test_prompt_tokens_that_do_not_grow_are_refused(sweep):
    with (
        serve(tokens=lambda count, text: 77) as server,
        pytest.raises(
            CheckError, match="prompt_tokens is 77 for 2 frames and 77 for 4: the server"
        ),
    ):
        sweep(server)


def test_server_that_begins_to_drop_frames_is_stopped(sweep, tmp_path):
    """As behind a balancer with one server that was started otherwise."""

    def fault(request):
        if request.number > 25:
            server.keeps = 16

    with (
        serve(fault=fault) as server,
        pytest.raises(CheckError, match=r"drops frames: prompt_tokens is 1,6\d\d for 40 frames"),
    ):
        sweep(server, LONG_GRID, concurrency=1)
    samples = load_results(tmp_path / "run").samples
    assert samples and all(s.correct for s in samples), "no answer of the sort became a score"
    assert {s.num_frames for s in samples} >= {8, 16}


@pytest.mark.parametrize("tokens", [lambda count, text: None, lambda count, text: 0])
def test_server_without_usage_is_refused_unless_allowed(sweep, tmp_path, tokens):
    with serve(tokens=tokens) as server:
        with pytest.raises(CheckError, match=r"gives no usage.prompt_tokens.*--allow-no-usage"):
            sweep(server)
        assert not (tmp_path / "run").exists()
        results = sweep(server, needs_usage=False)
    assert results.average == 1.0
    (note,) = results.manifest["notes"]
    assert "nobody can say whether it reads every frame" in note
    assert results.manifest["environment"]["forward"]["check"] == {"prompt_tokens": None}
    assert "prompt_tokens" not in (tmp_path / "run" / "samples.jsonl").read_text()


def test_answer_without_usage_is_an_error_where_others_have_it(sweep):
    def fault(request):
        if request.number >= NUM_PROBES and request.question.endswith("of blue?"):
            return Fault(body=answer("blue", None))
        return None

    with serve(fault=fault) as server:
        results = sweep(server)
    failed = [s for s in results.samples if s.error]
    assert len(failed) == 6 and {s.needle_id for s in failed} == {"blue"}
    assert "gives no usage.prompt_tokens" in failed[0].error


@pytest.mark.parametrize("status", [401, 403, 404])
def test_server_that_refuses_is_asked_once_and_leaves_nothing(sweep, tmp_path, status):
    with serve(fault=lambda request: Fault(status)) as server, pytest.raises(ServerError):
        sweep(server)
    assert len(server.requests) == 1
    assert not (tmp_path / "run").exists()


def test_key_that_ends_during_the_run_stops_it_and_keeps_the_rest(sweep, tmp_path):
    path = tmp_path / "run" / "samples.jsonl"

    def fault(request):
        if request.number < NUM_PROBES + 6:
            return None
        deadline = time.monotonic() + 20
        while path.read_bytes().count(b"\n") < 6 and time.monotonic() < deadline:
            time.sleep(0.005)  # else the refusal may overtake an answer
        return Fault(401)

    with serve(fault=fault) as server:
        with pytest.raises(ServerError, match="HTTP 401"):
            sweep(server, concurrency=3)
        assert len(server.requests) <= NUM_PROBES + 6 + 3
        assert len(load_results(tmp_path / "run").samples) == 6
        server.fault = lambda request: None
        assert sweep(server).is_complete


def test_server_that_answers_no_short_prompt_is_one_line(sweep, tmp_path):
    with (
        serve(fault=lambda request: Fault(500)) as server,
        pytest.raises(ModelError, match="nothing was measured: HTTP 500"),
    ):
        sweep(server, num_retries=1)
    assert len(server.requests) == 2
    assert not (tmp_path / "run").exists()


def test_interrupt_keeps_what_arrived(sweep, tmp_path):
    """Ctrl-C while the first answer is being written; it is in the file."""

    def stop(stage, done, total):
        if (stage, done) == ("sweep", 1):
            raise KeyboardInterrupt

    with serve() as server:
        with pytest.raises(KeyboardInterrupt):
            sweep(server, on_progress=stop)
        num_kept = len(load_results(tmp_path / "run").samples)
        assert num_kept >= 1
        num_requests = len(server.requests)
        assert sweep(server).is_complete
        assert len(server.requests) - num_requests <= NUM_PROBES + NUM_SAMPLES - num_kept + 4


def test_control_shows_the_server_the_haystack_without_the_needle(sweep):
    with serve() as server:
        results = sweep(server, controls="no-needle")
        shown = [request.labels for request in server.requests[NUM_PROBES:]]
    assert results.is_complete and len(results.control_samples) == 6
    assert Counter(map(len, shown)) == {5: 9, 9: 9, 4: 3, 8: 3}
    assert shown.count(tuple(range(8))) == 3 and shown.count(tuple(range(4))) == 3
    assert {found.score for found in results.controls} == {0.0}


def test_interrupt_while_waiting_gives_what_has_arrived(folders):
    haystack, needles = open_haystack(folders[0]), load_needles(folders[1])
    asked = plan_samples(VisualNeedle(), GRID, needles, haystack)
    with serve() as server:
        model = open_server(server.model, ServerOptions(frames=FrameFormat(size=(16, 16))))
        engine = ServerEngine(model)
        engine.prepare(haystack, needles, 8)
        engine.plan(asked, [True] * len(asked))
        arrivals = engine.run(0)
        given = [next(arrivals)]
        while any(thread.name.startswith("vniah-sample") for thread in threading.enumerate()):
            time.sleep(0.01)
        given.append(arrivals.throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            given += iter(lambda: next(arrivals), None)
    assert Counter(s.sample_id for s, _ in given) == Counter(s.sample_id for s in asked)


def run_until_ctrl_c(arguments, folder):
    """The command in a process of its own; what it says goes to a file."""
    os.chdir(folder)
    # A job that a shell started in the background ignores it, and so would this one.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with (folder / "said").open("w") as said, contextlib.redirect_stderr(said):
        code = main(arguments)
    sys.exit(code)


@pytest.mark.distributed
def test_ctrl_c_ends_the_command_while_the_server_is_silent(folders, tmp_path, command):
    """Seven samples are answered, all others are held back; the process does not wait for them."""
    end = threading.Event()

    def fault(request):
        if request.number >= NUM_PROBES + 7:
            end.wait(120)

    with serve(fault=fault) as server:
        process = start(run_until_ctrl_c, command(server), tmp_path)
        path = tmp_path / "out" / "samples.jsonl"
        while process.is_alive():
            if path.exists() and path.read_bytes().count(b"\n") == 7 and server._now == 4:
                break
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGINT)
        process.join(60)
        held = server._now
        end.set()
    errors = (tmp_path / "said").read_text()
    assert process.exitcode == 130, errors
    assert "stopped; the same command goes on from here" in errors
    assert held == 4, "the server had not answered"
    assert len(load_results(tmp_path / "out").samples) == 7


def test_job_of_several_processes_is_refused(sweep):
    mesh = Mesh("cpu", data_rank=0, data_size=2)
    with (
        serve() as server,
        pytest.raises(
            InputError, match="one process may send requests to a server, and this job has 2"
        ),
    ):
        sweep(server, mesh=mesh)
    assert server.requests == []


def test_command_measures_a_server_and_draws(tmp_path, monkeypatch, capsys, command):
    monkeypatch.chdir(tmp_path)
    with serve() as server:
        assert main(command(server, "--concurrency", "2", "--frames-as", "video-jpeg")) == 0
    output = capsys.readouterr().out
    assert "average: 1.0000 over 6 cells" in output and "18 samples in" in output
    assert (tmp_path / "out" / "heatmap.png").exists()
    assert server.requests[0].sizes[0] == (16, 16)


def test_command_says_in_one_line_that_frames_are_dropped_and_draws_nothing(
    tmp_path, monkeypatch, capsys, command
):
    monkeypatch.chdir(tmp_path)
    with serve(keeps=6) as server:
        assert main(command(server)) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    (line,) = errors
    assert line.startswith("vniah: error: the server drops frames")
    assert not (tmp_path / "out").exists()


def test_command_with_a_budget_says_so_and_goes_on(tmp_path, monkeypatch, capsys, command):
    monkeypatch.chdir(tmp_path)
    with serve() as server:
        assert main(command(server, "--max-requests", "9")) == 2
        assert "error: 9 requests were sent, as many as --max-requests" in capsys.readouterr().err
        assert not (tmp_path / "out" / "heatmap.png").exists()
        assert main(command(server, "--max-requests", "90")) == 0
    assert len(server.requests) == NUM_SAMPLES + 2 * NUM_PROBES


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--device", "cpu"], "the server decides that itself"),
        (["--frame-size", "16"], "argument --frame-size: must be WIDTHxHEIGHT"),
        (["--concurrency", "0"], "concurrency must be at least 1, got 0"),
        (["--request-timeout", "0"], "timeout_seconds must be above 0, got 0"),
        (["--api-key-env", "NO_SUCH_KEY"], "the environment variable NO_SUCH_KEY holds no key"),
        (["--context-parallel", "2"], "--context-parallel 2 needs as many processes"),
        (
            ["--model", "reference-long", "--concurrency", "2"],
            "options of a server are for openai:",
        ),
    ],
)
def test_command_refuses_in_one_line(tmp_path, monkeypatch, capsys, command, more, message):
    monkeypatch.chdir(tmp_path)
    with serve() as server:
        assert main(command(server, *more)) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert server.requests == []


def test_key_is_in_no_file_and_in_no_line(tmp_path, monkeypatch, capsys, caplog, command):
    """The server echoes it in errors, in answers and when it stops the run."""
    monkeypatch.setenv("MY_KEY", KEY)
    monkeypatch.chdir(tmp_path)
    caplog.set_level("DEBUG")
    echo = f'{{"error": {{"message": "you sent Authorization: Bearer {KEY}"}}}}'

    def fault(request):
        number = request.number - NUM_PROBES
        if number in (1, 2):
            return Fault(400, body=echo)
        if number == 3:
            return Fault(503, body=echo, headers={"Retry-After": "0"})
        if number == 4:
            return Fault(body=answer(f"Bearer {KEY}", 100 * len(request.labels)))
        return Fault(403, body=echo) if number == 12 else None

    with serve(fault=fault) as server:
        assert main(command(server, "--api-key-env", "MY_KEY", "--concurrency", "1")) == 2
        server.fault = lambda request: None
        shown = capsys.readouterr()
        samples = load_results(tmp_path / "out").samples
        assert main(command(server, "--api-key-env", "MY_KEY")) == 0
    assert server.requests[0].headers["authorization"] == f"Bearer {KEY}"
    assert sum(s.error is not None and "Bearer [key]" in s.error for s in samples) == 2
    assert any(s.prediction == "Bearer [key]" for s in samples)
    assert "Authorization: Bearer [key]" in shown.err
    last = capsys.readouterr()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"manifest.json", "samples.jsonl", "heatmap.png"}
    everything = [path.read_bytes() for path in files]
    everything += [text.encode() for text in (*shown, *last, caplog.text)]
    assert not any(KEY[:8].encode() in text for text in everything)


def test_check_says_what_prompt_tokens_did(folders, tmp_path, capsys):
    _, needles = folders
    with serve() as server:
        assert main(["check", "--model", server.model, "--needles", str(needles)]) == 0
    lines = capsys.readouterr().out.splitlines()
    text = len("Which colour has the card of red?")
    counts = ", ".join(f"{120 + 100 * n + text:,} for {n} frames" for n in (2, 4, 36, 40))
    assert lines == [
        f"{MODEL} answers in words, e.g. ' Red. '",
        f"prompt_tokens: {counts}",
        "every frame counts: 100.0 tokens each",
    ]


@pytest.mark.parametrize(
    ("changes", "line", "holds"),
    [
        ({"keeps": 32}, "the server drops frames, or shrinks them", False),
        ({"tokens": lambda count, text: None}, "the server gives no usage.prompt_tokens", False),
        (
            {"fault": lambda r: Fault(400) if r.num_frames > 20 else None},
            "refused at 40 frames: HTTP 400",
            True,
        ),
    ],
)
def test_check_tells_what_is_wrong(folders, changes, line, holds):
    with serve(**changes) as server:
        model = open_server(server.model, ServerOptions(frames=FrameFormat(size=(16, 16))))
        report = check_model(model, load_needles(folders[1]))
    assert report.passed == holds
    assert any(found.startswith(line) for found in report.lines)


LINE = (
    '{"task": "vniah", "num_frames": 4, "depth": 0.5, "needle_index": 2, "needle_id": "a", '
    '"question": "q", "answer": "7", "prediction": "7", "predicted_ids": [7], "correct": true, '
    '"logprob": -0.5, "rank": 1, "margin": 2.0, "control": null, "seconds": 0.25, "error": null}'
)


def test_sample_without_prompt_tokens_has_the_line_that_it_always_had():
    sample = SampleResult.from_json(LINE)
    assert sample.prompt_tokens is None
    assert json.loads(sample.to_json()) == {"sample_id": "4/0.5/a", **json.loads(LINE)}


def test_sample_with_prompt_tokens_is_read_back():
    sample = SampleResult.from_json(LINE.replace("}", ', "prompt_tokens": 812}'))
    assert sample.prompt_tokens == 812
    assert SampleResult.from_json(sample.to_json()) == sample
    with pytest.raises(ResultsError, match="prompt_tokens must be a whole number or null"):
        SampleResult.from_json(LINE.replace("}", ', "prompt_tokens": "812"}'))


HOSTILE = ["\ud800", "Red \udcff\x1b[2J\x07", "\u202eder", "a\u2028b\x85c\0", "\ud83d"]


def test_answers_and_errors_with_odd_characters_are_kept_and_taken_up(sweep, tmp_path):
    """Lone surrogates, controls and line separators, in answers and in reasons of errors."""

    def fault(request):
        number = request.number - NUM_PROBES
        if number < 0 or number >= 2 * len(HOSTILE):
            return None
        text = HOSTILE[number // 2]
        if number % 2:
            return Fault(400, json.dumps({"error": {"message": f"bad {text} end"}}))
        return Fault(body=answer(text, 20 + 100 * len(request.labels) + len(request.question)))

    with serve(fault=fault) as server:
        first = sweep(server, concurrency=1)
        kept = {s.sample_id: s for s in load_results(tmp_path / "run").samples}
        assert [s.prediction for s in first.samples if s.prediction in HOSTILE] == HOSTILE
        errors = [s.error for s in kept.values() if s.error]
        assert len(errors) == len(HOSTILE) and all(map(str.isprintable, errors))
        assert all(error.endswith(" end") for error in errors)
        assert {s.prediction for s in kept.values()} >= set(HOSTILE)
        again = sweep(server)
    assert not any(s.error for s in again.samples) and again.is_complete
    assert {s.prediction for s in again.samples} >= set(HOSTILE)
    lines = (tmp_path / "run" / "samples.jsonl").read_bytes().decode("utf-8").split("\n")
    assert all(json.loads(line) for line in lines[:-1]) and not lines[-1]


def without(*names):
    """A server that refuses these fields."""

    def fault(request):
        for name in names:
            if name in request.body:
                error = {"message": f"'{name}' is not supported", "param": name}
                return Fault(400, json.dumps({"error": error}))
        return None

    return fault


def test_manifest_says_what_a_server_refuses_of_a_request(sweep, tmp_path, caplog):
    with serve(fault=without("temperature", "max_tokens")) as server:
        results = sweep(server)
        assert results.average == 1.0
        bodies = [request.body for request in server.requests]
        assert ["temperature" in body for body in bodies].count(True) == 1
        assert ["max_tokens" in body for body in bodies].count(True) == 2
        manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
        assert manifest["model"]["temperature"] == 0, "what was asked for first"
        forward = manifest["environment"]["forward"]
        assert forward["request"] == {"max_completion_tokens": 128, "seed": 0}
        sampled, renamed = manifest["notes"]
        assert "refuses temperature 0: its answers are sampled" in sampled
        assert "sent as max_completion_tokens" in renamed
        assert sweep(server).is_complete
    assert len(server.requests) == len(bodies), "the finished run asks nothing"


@pytest.mark.parametrize("names", [("temperature",), ("max_tokens", "seed"), ()])
def test_run_over_a_server_that_refuses_fields_goes_on(sweep, names):
    def fault(request):
        return Fault(401) if request.number >= NUM_PROBES + 8 else without(*names)(request)

    with serve(fault=fault) as server:
        with pytest.raises(ServerError):
            sweep(server, concurrency=1)
        server.fault = without(*names)
        results = sweep(server)
    assert results.is_complete and results.average == 1.0


def test_answers_that_are_cut_are_counted_in_a_warning(sweep, caplog):
    def fault(request):
        if request.number < NUM_PROBES or "blue" not in request.labels:
            return None
        return Fault(body=answer("The card is", 20 + 100 * len(request.labels) + 34, "length"))

    with serve(fault=fault) as server:
        results = sweep(server)
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warning.startswith("6 of 18 answers were cut off after 128 tokens")
    assert "raise --max-tokens" in warning
    assert sum(not sample.correct for sample in results.samples) == 6


@pytest.mark.parametrize("value", ["sk-a-key-of-red-green-blue", "greenish-secret", "x" * 20])
def test_answer_that_would_be_hidden_as_a_part_of_the_key_is_refused(
    folders, tmp_path, sweep, monkeypatch, value
):
    """Short answers are never hidden; long ones that are a part of the key cannot be told."""
    monkeypatch.setenv("OPENAI_API_KEY", value)
    with serve() as server:
        assert sweep(server).average == 1.0
        needles = folders[1]
        row = {"file_name": "red.png", "needle_id": "red", "question": "q?", "answer": value[:10]}
        other = tmp_path / "needles"
        other.mkdir()
        (other / "red.png").write_bytes((needles / "red.png").read_bytes())
        (other / "metadata.jsonl").write_text(json.dumps(row))
        model = open_server(server.model, ServerOptions())
        with pytest.raises(InputError, match="looks like a part of the server's key") as caught:
            run_sweep(
                model,
                open_haystack(folders[0]),
                load_needles(other),
                GRID,
                output=tmp_path / "other",
                controls="none",
            )
    assert value[:10] not in str(caught.value)


def test_huge_counts_of_tokens_are_errors_of_the_server(sweep):
    def fault(request):
        if request.number >= NUM_PROBES and "blue" in request.labels:
            text = answer("Blue", 77).replace("77", "1e999" if request.number % 2 else "-77")
            return Fault(body=text)
        return None

    with serve(fault=fault) as server:
        results = sweep(server, num_retries=0)
    failed = [sample for sample in results.samples if sample.error]
    assert len(failed) == 6 and {sample.needle_id for sample in failed} == {"blue"}
    assert all("cannot be understood" in sample.error for sample in failed)


def test_command_behind_variables_of_other_programs(tmp_path, monkeypatch, capsys, command):
    monkeypatch.chdir(tmp_path)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "all_proxy"):
        monkeypatch.setenv(name, "socks://127.0.0.1:1")
    for name in ("OPENAI_BASE_URL", "OPENAI_ORG_ID", "OPENAI_LOG", "SSL_CERT_FILE"):
        monkeypatch.setenv(name, "debug")
    with serve() as server:
        assert main(command(server)) == 0
    assert "average: 1.0000 over 6 cells" in capsys.readouterr().out


def test_command_prints_what_servers_say_without_controls(tmp_path, monkeypatch, capsys, command):
    monkeypatch.chdir(tmp_path)
    body = json.dumps({"error": {"message": "no\x1b]0;title\x07 \u202e \ud800 entry"}})
    with serve(fault=lambda request: Fault(403, body)) as server:
        assert main(command(server)) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("vniah: error: ") and error.isprintable()
    assert r"no\x1b]0;title\x07 \u202e \ud800 entry" in error
