"""One question to a server: what is sent, what is tried again, and that the key stays secret."""

import sys
import threading
from email.utils import formatdate
from time import time

import numpy as np
import pytest
from chat_server import MODEL, Fault, answer, serve

from vniah.errors import (
    InputError,
    MissingDependencyError,
    ModelError,
    RequestLimitError,
    ServerError,
)
from vniah.models.loading import load_model
from vniah.models.server.client import ServerModel, ServerOptions, open_server
from vniah.models.server.messages import FrameFormat
from vniah.models.server.responses import TryAgain
from vniah.protocol import ChatModel

KEY = "sk-proj-Abc123Def456Ghi789"
FRAMES = [np.full((16, 16, 3), 40 + 4 * k, np.uint8) for k in range(6)]
CARD = np.full((16, 16, 3), (220, 20, 20), np.uint8)


def options(**changes):
    quick = {"frames": FrameFormat(size=(16, 16)), "backoff_seconds": 0.001, "timeout_seconds": 20}
    return ServerOptions(**{**quick, **changes})


def ask(server, **changes):
    return open_server(server.model, options(**changes)).answer([*FRAMES, CARD], "Which colour?")


def first(*faults):
    """A server's first requests end so; the others are answered."""
    return lambda request: faults[request.number] if request.number < len(faults) else None


@pytest.fixture
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    return KEY


@pytest.fixture(autouse=True)
def no_key_of_the_user(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.mark.parametrize("frames_as", ["images", "video-jpeg"])
def test_server_sees_every_frame_in_order(frames_as):
    with serve() as server:
        words = ask(server, frames=FrameFormat(frames_as, (16, 16)))
    (request,) = server.requests
    assert words == " Red. "
    assert request.labels == (0, 1, 2, 3, 4, 5, "red")
    assert set(request.sizes) == {(16, 16)}
    assert request.question == "Which colour?"


def test_request_is_greedy_and_bounded():
    with serve() as server:
        ask(server, max_tokens=7)
    (request,) = server.requests
    body = {name: value for name, value in request.body.items() if name != "messages"}
    assert body == {"model": MODEL, "temperature": 0, "max_tokens": 7, "seed": 0}


def test_model_is_a_chat_model_that_says_how_it_asks():
    with serve() as server:
        model = load_model(server.model, server=ServerOptions(max_tokens=5))
        assert isinstance(model, ServerModel) and isinstance(model, ChatModel)
        assert model.name == MODEL
        assert model.settings == {
            "base_url": server.url,
            "frames_as": "images",
            "frame_size": "448x448",
            "frame_encoding": "jpeg, quality 90, 4:4:4",
            "max_tokens": 5,
            "temperature": 0,
        }


@pytest.mark.parametrize(
    "fault",
    [
        Fault(429),
        Fault(429, headers={"Retry-After": "0"}),
        Fault(429, headers={"Retry-After": "0.001"}),
        Fault(503, headers={"Retry-After": formatdate(time() - 10, usegmt=True)}),
        Fault(503, headers={"Retry-After": "soon"}),
        Fault(408),
        Fault(500, body="<html>Internal error</html>"),
        Fault(502, body=""),
        Fault(closes=True),
        Fault(body="not JSON"),
        Fault(body="[]"),
        Fault(body='{"choices": []}'),
        Fault(body='{"choices": [null]}'),
        Fault(body=answer(None, 10)),
        Fault(body='{"choices": [{"message": {"content": [{"type": "text"}]}}]}'),
        Fault(headers={"Content-Type": "text/html"}, body="<html>sign in</html>"),
    ],
)
def test_question_without_an_answer_is_asked_again(fault):
    with serve(fault=first(fault, fault)) as server:
        assert ask(server) == " Red. "
    assert len(server.requests) == 3
    assert len({request.labels for request in server.requests}) == 1


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (
            Fault(500, body='{"error": {"message": "it broke\\nbadly"}}'),
            "HTTP 500 .*it broke badly",
        ),
        (Fault(429), "HTTP 429 from .*: no"),
        (Fault(closes=True), "the connection broke off"),
        (Fault(body="not JSON"), "cannot be understood: the answer is no JSON: 'not JSON'"),
        (Fault(body='{"choices": []}'), "gave no choices"),
        (Fault(body=answer(None, 10)), "gave no text"),
        (Fault(500, body="x" * 5000), "x{300}[.]{3}$"),
    ],
)
def test_server_that_never_answers_is_given_up_in_one_line(fault, message):
    with (
        serve(fault=lambda request: fault) as server,
        pytest.raises(ModelError, match=message) as e,
    ):
        ask(server, num_retries=2)
    assert len(server.requests) == 3
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (
            Fault(400, body='{"error": {"message": "maximum context length is 4096 tokens"}}'),
            "HTTP 400 from http.*: maximum context length is 4096 tokens",
        ),
        (Fault(400, body='{"detail": "too many images"}'), "too many images"),
        (Fault(413, body="payload too large"), "HTTP 413 .*payload too large"),
        (Fault(422, body='{"object": "error", "message": "odd"}'), "HTTP 422 .*: odd"),
        (Fault(body=answer(None, 10, "length")), "used up its tokens .* raise --max-tokens"),
        (Fault(body=answer("", 10, "length")), "used up its tokens"),
        (Fault(body=answer(None, 10, "content_filter")), "held the answer back: content_filter"),
        (Fault(429, headers={"Retry-After": "86400"}), "HTTP 429"),
    ],
)
def test_permanent_error_is_not_asked_again(fault, message):
    with serve(fault=lambda request: fault) as server, pytest.raises(ModelError, match=message):
        ask(server)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Fault(401), "wants a key .HTTP 401.: set OPENAI_API_KEY"),
        (Fault(403, body='{"error": {"message": "no credit"}}'), "refuses to answer .*: no credit"),
        (Fault(404, body='{"error": {"message": "no"}}'), "has no model 'tiny/Looker', or is not"),
        (
            Fault(429, body='{"error": {"message": "pay", "code": "insufficient_quota"}}'),
            "answers no more .HTTP 429.: pay",
        ),
    ],
)
def test_server_that_refuses_everything_is_asked_once(fault, message):
    with serve(fault=lambda request: fault) as server, pytest.raises(ServerError, match=message):
        ask(server)
    assert len(server.requests) == 1


def test_late_answer_is_asked_for_again():
    asked_again = threading.Event()

    def fault(request):
        if request.number == 0:
            asked_again.wait(20)
        asked_again.set()

    with serve(fault=fault) as server:
        assert ask(server, timeout_seconds=0.2, num_retries=20) == " Red. "
    assert len(server.requests) >= 2


def test_answer_that_is_always_late_is_one_line():
    end = threading.Event()
    with serve(fault=lambda request: end.wait(20) and None) as server:
        with pytest.raises(ModelError, match=r"http.*: no answer within 0\.05 s"):
            ask(server, timeout_seconds=0.05, num_retries=1)
        end.set()


def test_server_that_is_not_there_is_said_at_once():
    with serve() as server:
        model = server.model
    with pytest.raises(ServerError, match=r"cannot connect to http://127.*Does the server run"):
        open_server(model, options(backoff_seconds=1000)).answer([CARD], "Which colour?")


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("17", 17),
        ("0.5", 0.5),
        ("-3", 0),
        ("inf", None),
        ("soon", None),
        ("in an hour", pytest.approx(3600, abs=60)),
        ("an hour ago", 0),
    ],
)
def test_server_says_how_long_to_wait(header, seconds):
    hours = {"in an hour": 1, "an hour ago": -1}.get(header)
    if hours is not None:  # a date, reckoned when it is sent
        header = formatdate(time() + 3600 * hours, usegmt=True)
    with serve(fault=lambda request: Fault(503, headers={"Retry-After": header})) as server:
        model = open_server(server.model, options())
        with pytest.raises(TryAgain) as caught:
            model._ask_once([{"type": "text", "text": "Which colour?"}], model._wording)
    assert caught.value.retry_after_seconds == seconds


def test_waiting_ends_when_stopped():
    stopped = threading.Event()
    with serve(fault=lambda request: stopped.set() or Fault(429)) as server:
        model = open_server(server.model, options(backoff_seconds=10_000))
        with pytest.raises(ServerError, match="stopped"):
            model.ask([model.encode_picture(CARD)], "Which colour?", stopped=stopped)
    assert len(server.requests) == 1


def test_waits_grow_and_end():
    model = open_server("openai:http://127.0.0.1:9/v1#m", options(backoff_seconds=1))
    failure = TryAgain(ModelError("no"))
    waits = [model._wait_seconds(k, failure) for k in range(5)]
    assert all(0.75 * 2**k <= wait <= 1.25 * 2**k for k, wait in enumerate(waits))
    assert model._wait_seconds(5, failure) is None
    assert model._wait_seconds(0, TryAgain(ModelError("no"), 30.0)) == 30
    patient = open_server("openai:http://127.0.0.1:9/v1#m", options(num_retries=10**6))
    assert 45 <= patient._wait_seconds(5000, failure) <= 75


def test_every_http_request_counts_for_the_budget():
    with serve(fault=first(Fault(500), Fault(500))) as server:
        model = open_server(server.model, options(max_requests=4))
        assert model.answer([CARD], "Which colour?") == " Red. "
        assert model.answer([CARD], "Which colour?") == " Red. "
        with pytest.raises(RequestLimitError, match="4 requests were sent, as many as --max-req"):
            model.answer([CARD], "Which colour?")
    assert len(server.requests) == 4


def refuse(name, text):
    """A server that does not know a field."""
    return lambda request: Fault(400, body=text) if name in request.body else None


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (
            refuse("seed", '{"error": {"message": "extra field: seed"}}'),
            {"max_tokens": 128, "temperature": 0},
        ),
        (
            refuse("max_tokens", '{"error": {"message": "use max_completion_tokens"}}'),
            {"max_completion_tokens": 128, "temperature": 0, "seed": 0},
        ),
    ],
)
def test_request_is_put_in_the_words_that_a_server_knows(fault, expected):
    with serve(fault=fault) as server:
        model = open_server(server.model, options())
        assert model.answer([CARD], "Which colour?") == " Red. "
        model.answer([CARD], "Which colour?")
    assert model.record()["request"] == expected
    assert len(server.requests) == 3, "it is remembered"


def test_key_is_sent_and_nothing_shows_it(key):
    with serve() as server:
        model = open_server(server.model, options())
        model.answer([CARD], "Which colour?")
    assert server.requests[0].headers["authorization"] == f"Bearer {key}"
    assert key not in f"{vars(model)} {model.settings} {model.record()} {model._key!r}"


def test_server_without_a_key_gets_a_placeholder():
    with serve() as server:
        ask(server)
    assert server.requests[0].headers["authorization"] == "Bearer none"


def test_key_of_another_variable_is_sent(monkeypatch):
    monkeypatch.setenv("OTHER_KEY", f" {KEY}\n")
    with serve() as server:
        ask(server, key_variable="OTHER_KEY")
    assert server.requests[0].headers["authorization"] == f"Bearer {KEY}"


def test_package_that_is_missing_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "httpx2", None)
    with pytest.raises(MissingDependencyError, match=r"--model openai: needs .*vniah\[server\]"):
        open_server("openai:http://127.0.0.1:9/v1#m")


@pytest.mark.parametrize("status", [400, 403, 404, 500])
@pytest.mark.parametrize("shown", [KEY, KEY[:8] + "*****" + KEY[-4:], KEY[:12]])
def test_error_that_echoes_the_key_does_not_show_it(key, status, shown):
    fault = Fault(status, body=f'{{"error": {{"message": "bad header Bearer {shown}, bye"}}}}')
    with (
        serve(fault=lambda request: fault) as server,
        pytest.raises((ModelError, ServerError)) as caught,
    ):
        ask(server, num_retries=0)
    assert "bad header Bearer [key], bye" in str(caught.value)
    assert key[:6] not in str(caught.value) and key[-4:] not in str(caught.value)
    assert caught.value.__cause__ is None


def test_key_that_a_cut_would_halve_is_not_shown(key):
    fault = Fault(500, body="x" * 290 + key)
    with serve(fault=lambda request: fault) as server, pytest.raises(ModelError) as caught:
        ask(server, num_retries=0)
    assert key[:4] not in str(caught.value)


def test_refused_key_is_named_by_its_variable_only(key):
    fault = Fault(401, body=f'{{"error": {{"message": "Incorrect API key: {key[:8]}***"}}}}')
    with serve(fault=lambda request: fault) as server, pytest.raises(ServerError) as caught:
        ask(server)
    assert str(caught.value) == f"{server.url} refuses the key in OPENAI_API_KEY (HTTP 401)"


def test_answer_that_echoes_the_key_does_not_show_it(key):
    fault = Fault(body=answer(f"Bearer {key}", 10))
    with serve(fault=lambda request: fault) as server:
        assert ask(server) == "Bearer [key]"


def test_placeholder_key_leaves_answers_alone(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "Red")
    with serve() as server:
        assert ask(server) == " Red. "


@pytest.mark.parametrize("value", ["two words", "line\nbreak", "sk-\N{EM DASH}"])
def test_value_that_is_no_key_is_refused_without_showing_it(monkeypatch, value):
    monkeypatch.setenv("OPENAI_API_KEY", value)
    with pytest.raises(InputError, match="OPENAI_API_KEY holds something that cannot") as caught:
        open_server("openai:http://127.0.0.1:9/v1#m")
    assert value not in str(caught.value)


def test_named_variable_without_a_key_is_refused():
    with pytest.raises(InputError, match="the environment variable NO_SUCH_KEY holds no key"):
        open_server("openai:http://127.0.0.1:9/v1#m", ServerOptions(key_variable="NO_SUCH_KEY"))


@pytest.mark.parametrize(
    "source",
    [
        "openai:http://me:geheim@127.0.0.1:9/v1#m",
        "openai:http://geheim@127.0.0.1:9/v1#m",
        "openai:https://127.0.0.1/v1?api-key=geheim#m",
    ],
)
def test_address_with_a_secret_is_refused_without_showing_it(source):
    with pytest.raises(InputError, match="must hold no user, password or query") as caught:
        load_model(source)
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("openai:http://127.0.0.1:9/v1", "names no model; write openai:BASE_URL#MODEL"),
        ("openai:http://127.0.0.1:9/v1#", "names no model"),
        ("openai:127.0.0.1:9/v1#m", "a server is named by openai:BASE_URL#MODEL"),
        ("openai:ftp://host/v1#m", "a server is named by openai:BASE_URL#MODEL"),
        ("openai:http:///v1#m", "a server is named by openai:BASE_URL#MODEL"),
        ("openai:http://host:port/v1#m", "cannot be read; write openai:BASE_URL#MODEL"),
        ("openai:gpt-4o", "a server is named by openai:BASE_URL#MODEL"),
    ],
)
def test_address_of_another_form_is_refused(source, message):
    with pytest.raises(InputError, match=message):
        load_model(source)


def test_slash_at_the_end_of_the_address_changes_nothing():
    models = [open_server(f"openai:http://host:9/v1{end}#a/b#c") for end in ("", "/")]
    assert {model.settings["base_url"] for model in models} == {"http://host:9/v1"}
    assert {model.name for model in models} == {"a/b#c"}


@pytest.mark.parametrize(
    "given",
    [{"dtype": "float32"}, {"device": "cpu"}, {"rope_theta": 1e6}, {"prompt_template": "yi"}],
)
def test_options_for_checkpoints_are_refused(given):
    with pytest.raises(InputError, match=r"cannot be chosen for .*: the server decides"):
        load_model("openai:http://127.0.0.1:9/v1#m", **given)


def test_options_of_a_server_are_refused_for_others():
    with pytest.raises(
        InputError, match=r"are for openai:BASE_URL#MODEL, not for 'reference-long'"
    ):
        load_model("reference-long", server=ServerOptions())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"concurrency": 0}, "concurrency must be at least 1, got 0"),
        ({"concurrency": 10**6}, "concurrency must be at most 1,000, got 1,000,000"),
        ({"max_tokens": 0}, "max_tokens must be at least 1, got 0"),
        ({"num_retries": -1}, "num_retries must be at least 0, got -1"),
        ({"max_requests": 0}, "max_requests must be at least 1, got 0"),
        ({"timeout_seconds": 0}, "timeout_seconds must be above 0, got 0"),
        ({"backoff_seconds": float("inf")}, "backoff_seconds must be above 0, got inf"),
    ],
)
def test_values_that_cannot_be_meant_are_refused(given, message):
    with pytest.raises(InputError, match=message):
        ServerOptions(**given)
