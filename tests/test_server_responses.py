"""What servers of all kinds send: a reply, or one line that says why there is none."""

import json

import pytest
from chat_server import Fault, answer, serve
from hypothesis import given, settings
from hypothesis import strategies as st

from vniah.errors import ModelError, ServerError
from vniah.models.server.api_keys import ApiKey
from vniah.models.server.client import ServerOptions, open_server
from vniah.models.server.connection import Response
from vniah.models.server.responses import Refused, Reply, ResponseParser, TryAgain


def replies(fault, **changes):
    """The reply of a server that sends this, and the number of requests that it took."""
    options = ServerOptions(**{"num_retries": 0, "backoff_seconds": 0.001, **changes})
    with serve(fault=lambda request: fault) as server:
        try:
            reply = open_server(server.model, options).ask([], "Which colour?")
        finally:
            replies.num_requests = len(server.requests)
    return reply


def with_message(finish="stop", **message):
    choice = {"message": {"role": "assistant", **message}, "finish_reason": finish}
    return Fault(body=json.dumps({"choices": [choice], "usage": {"prompt_tokens": 9}}))


def with_usage(text):
    body = '{"choices": [{"message": {"content": "Red"}, "finish_reason": "stop"}], "usage": %s}'
    return Fault(body=body % text)


THOUGHT = "The card is blue. Or is it red?"


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (with_message(content="Red"), "Red"),
        (with_message(content="Red", reasoning_content=THOUGHT), "Red"),
        (with_message(content="Red", reasoning=THOUGHT, refusal=None, tool_calls=[]), "Red"),
        (
            with_message(content=[{"type": "text", "text": "Re"}, {"type": "text", "text": "d"}]),
            "Red",
        ),
        (
            with_message(
                content=[
                    {"type": "thinking", "thinking": THOUGHT, "text": THOUGHT},
                    {"type": "output_text", "text": "Red"},
                ]
            ),
            "Red",
        ),
        (with_message(content=""), ""),
        (with_message(content="", reasoning=THOUGHT), ""),
        (with_message(content=[{"type": "text", "text": ""}]), ""),
        (with_message(content="Red", finish={"type": "stop"}), "Red"),
        (with_message(content="Red", finish=None), "Red"),
        (Fault(body='{"choices": [{"text": "Red", "finish_reason": "stop"}]}'), "Red"),
        (Fault(body='{"choices": [{"message": {"content": "Red"}}], "error": null}'), "Red"),
        (Fault(body='{"choices": [{"message": {"content": "\\ud800"}}]}'), "\ud800"),
        (Fault(body='{"choices": [{"message": {"content": "a\\u0000\\u001b[2J"}}]}'), "a\0\x1b[2J"),
        (Fault(201, body=answer("Red", 9)), "Red"),
    ],
)
def test_reply_is_what_the_model_wrote_for_the_user(fault, text):
    reply = replies(fault)
    assert reply.text == text and not reply.is_cut


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (with_message(content=None, refusal="I must not"), "refuses to answer: I must not"),
        (with_message(content=None, tool_calls=[{"id": "1"}]), "calls a tool instead of answering"),
        (with_message(content="Re", finish="content_filter"), "held the answer back"),
        (with_message(content=None, finish="length", reasoning_content=THOUGHT), "used up its tok"),
        (Fault(body='data: {"choices": [{"delta": {"content": "Red"}}]}\n\n'), "stream of events"),
    ],
)
def test_answer_that_would_be_the_same_again_is_asked_for_once(fault, message):
    with pytest.raises(ModelError, match=message):
        replies(fault, num_retries=2)
    assert replies.num_requests == 1


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (
            with_message(content=None, reasoning_content=THOUGHT),
            "gave a reasoning without an answer",
        ),
        (with_message(content=[{"type": "thinking", "thinking": THOUGHT}]), "gave no text"),
        (with_message(content=[]), "gave no text"),
        (
            with_message(content="Re", finish="error"),
            "broke off the answer: finish_reason is error",
        ),
        (
            with_message(content="Re", finish="abort"),
            "broke off the answer: finish_reason is abort",
        ),
        (with_message(content=7), "content must be text or a list or null, got 7"),
        (with_message(content=["Red"]), r"content\[0\]|must be an object"),
        (Fault(body='{"choices": {"0": 1}}'), "choices must be a list or null"),
        (
            Fault(body='{"choices": [{"message": "Red"}]}'),
            "message must be an object in braces or null",
        ),
        (Fault(body='{"choices": [], "choices": []}'), "the key 'choices' is given twice"),
        (Fault(body="[" * 100_000), "cannot be understood: the answer is nested too deeply"),
        (Fault(body='{"a":' * 300 + "1" + "}" * 300), "nested more than 64 levels"),
        (Fault(body="NaN"), "cannot be understood"),
        (Fault(body="null"), "must be an object"),
        (Fault(body='"Red"'), "is no JSON|must be an object"),
        (Fault(body=""), "is no JSON: ''"),
        (Fault(body="<html><head><style>p {}</style></head><p>Log in</p>"), "HTML: Log in"),
    ],
)
def test_body_that_holds_no_answer_is_asked_for_again(fault, message):
    with pytest.raises(ModelError, match=message) as caught:
        replies(fault, num_retries=1)
    assert replies.num_requests == 2
    assert THOUGHT not in str(caught.value)
    assert len(str(caught.value)) < 450 and str(caught.value).isprintable()


@pytest.mark.parametrize(
    "tokens",
    [
        "-5",
        "1e999",
        "1" + "0" * 400,
        "1" + "0" * 5000,
        str(10**12),
        "true",
        '"12"',
        "1.5",
        "[]",
        "NaN",
    ],
)
def test_number_of_tokens_that_is_none_is_an_error_of_the_server(tokens):
    with pytest.raises(ModelError, match="cannot be understood") as caught:
        replies(with_usage(f'{{"prompt_tokens": {tokens}}}'))
    assert len(str(caught.value)) < 450


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ("null", None),
        ("{}", None),
        ('{"prompt_tokens": null}', None),
        ('{"prompt_tokens": 0}', None),
        ('{"prompt_tokens": 12, "completion_tokens": "odd"}', 12),
        ('{"prompt_tokens": 12, "prompt_tokens_details": {"cached_tokens": 8}}', 12),
    ],
)
def test_number_of_tokens_is_read(usage, expected):
    assert replies(with_usage(usage)).prompt_tokens == expected


@pytest.mark.parametrize("words", ['"text"', "[1]", "7"])
def test_usage_that_is_no_object_is_an_error_of_the_server(words):
    with pytest.raises(ModelError, match="usage must be an object in braces or null"):
        replies(with_usage(words))


def test_numbers_that_are_not_read_may_be_large():
    choice = {"message": {"content": "Red"}, "finish_reason": "stop", "seed": 2**64 - 1}
    assert replies(Fault(body=json.dumps({"choices": [choice]}))).text == "Red"


@pytest.mark.parametrize(
    "content",
    [
        {"code": 50501, "msg": "out of order", "data": None},
        {"base_resp": {"status_code": 1008, "status_msg": "out of order"}, "choices": None},
        {"success": False, "errors": [{"code": 7003, "message": "out of order"}]},
        {"choices": [], "reason": "out of order"},
    ],
)
def test_body_without_an_answer_shows_the_reason_wherever_it_stands(content):
    with pytest.raises(ModelError, match="out of order") as caught:
        replies(Fault(body=json.dumps(content)))
    assert len(str(caught.value)) < 450


@pytest.mark.parametrize("finish", ["length", "MAX_TOKENS", "max_tokens", "model_length"])
def test_answer_that_was_cut_says_so(finish):
    reply = replies(Fault(body=answer("The colour of the", 9, finish)))
    assert reply.is_cut and reply.text == "The colour of the"


@pytest.mark.parametrize(
    ("error", "kind", "num_requests"),
    [
        ({"message": "busy", "code": 429}, ModelError, 3),
        ({"message": "busy", "code": "503"}, ModelError, 3),
        ({"message": "busy", "type": "rate_limit_error"}, ModelError, 3),
        ({"message": "busy", "type": "overloaded_error"}, ModelError, 3),
        ({"message": "busy", "code": None}, ModelError, 3),
        ({"message": "busy", "code": "10" * 300}, ModelError, 3),
        ("busy", ModelError, 3),
        (["busy"], ModelError, 3),
        ({"message": "busy", "code": 400}, ModelError, 1),
        ({"message": "busy", "type": "invalid_request_error", "code": "no_image"}, ModelError, 1),
        ({"message": "busy", "code": "context_length_exceeded"}, ModelError, 1),
        ({"message": "busy", "code": 403}, ServerError, 1),
        ({"message": "busy", "code": "insufficient_quota"}, ServerError, 1),
        ({"message": "busy", "code": 402}, ServerError, 1),
        ({"message": "busy", "code": "model_not_found"}, ServerError, 1),
        ({"error": {"detail": [{"msg": "busy"}]}, "code": 500}, ModelError, 3),
    ],
)
@pytest.mark.parametrize("place", ["error", "choice", "top"])
def test_error_with_status_200_is_shown_and_its_code_decides(place, error, kind, num_requests):
    content = {"error": error}
    if place == "choice":
        content = {"choices": [{"error": error, "finish_reason": "error", "message": None}]}
    if place == "top":  # as vLLM, without a field "error"
        is_whole = isinstance(error, dict) and "message" in error
        content = error if is_whole else {"message": error}
    with pytest.raises(kind, match="busy") as caught:
        replies(Fault(body=json.dumps(content)), num_retries=2)
    assert replies.num_requests == num_requests
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ('{"error": {"message": "no\\u001b[2J \\ud800 \\u202e"}}', r"no\\x1b\[2J \\ud800 \\u202e$"),
        ('{"error": "plain"}', "plain$"),
        ('{"message": {"detail": "deep"}}', "deep$"),
        ('{"detail": [{"loc": ["body", "n"], "msg": "bad"}, {"msg": "worse"}]}', "n: bad; worse$"),
        ('{"other": [1, "two"]}', r'\{"other": \[1, "two"\]\}$'),
        (
            "<html><title>502 Bad Gateway</title><body><h1>nginx</h1>",
            "HTML: 502 Bad Gateway nginx$",
        ),
        ("<" * 200_000, "a page in HTML: <"),
        ('{"error": {"message": 1e999}}', "1e999"),
        ('{"error": ' * 200, "error"),
        ("null", "no reason is given$"),
        ("", "no reason is given$"),
        ("\0\x07\x9b31m", r"\\x00\\x07\\x9b31m$"),
    ],
)
def test_reason_of_an_error_is_one_printable_line(body, reason):
    with pytest.raises(ModelError, match=rf"HTTP 502 from http.*{reason}") as caught:
        replies(Fault(502, body=body))
    assert len(str(caught.value)) < 450 and str(caught.value).isprintable()


@pytest.mark.parametrize(
    "value", ["1e400", "9" * 5000, "-1e9", "nan", "", "Fri, 31 Dec 99999", "\t"]
)
def test_odd_time_to_wait_is_no_crash(value):
    fault = Fault(429, headers={"Retry-After": value})
    with pytest.raises(ModelError, match="HTTP 429"):
        replies(fault, num_retries=1)


NAMES = ["choices", "message", "content", "text", "type", "usage", "prompt_tokens", "error", "code"]
NAMES += ["finish_reason", "detail", "loc", "param", "refusal", "reasoning", "tool_calls"]
WORDS = ["length", "content_filter", "text", "429", "\ud800", "\x1b", "", "400", "stop"]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(WORDS) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=5)
    ),
    max_leaves=12,
)
BODIES = st.builds(
    lambda choice, rest: json.dumps({**rest, "choices": [choice]}).encode(),
    st.dictionaries(st.sampled_from(NAMES), VALUES),
    st.dictionaries(st.sampled_from(NAMES), VALUES),
)
GOOD = answer("Red", 120).encode()
CUT = st.builds(
    lambda start, noise, end: GOOD[:start] + noise + GOOD[end:],
    st.integers(0, len(GOOD)),
    st.binary(max_size=4),
    st.integers(0, len(GOOD)),
)
PARSER = ResponseParser("http://h", "http://h", "m", ApiKey("KEY", "sk-0123456789", is_set=True))


@settings(max_examples=80, deadline=None)
@given(
    body=BODIES | VALUES.map(lambda value: json.dumps(value).encode()) | CUT | st.binary(),
    status=st.sampled_from([200, 200, 200, 302, 400, 401, 404, 429, 500, 999, 101]),
    headers=st.dictionaries(st.sampled_from(["retry-after", "location"]), st.text()),
)
def test_any_response_is_a_reply_or_one_line(body, status, headers):
    try:
        reply = PARSER.read(Response(status, headers, body), 0.1)
    except (ModelError, ServerError, TryAgain, Refused) as error:
        assert str(error).isprintable() and len(str(error)) < 1000
        return
    assert isinstance(reply, Reply) and isinstance(reply.text, str)
    assert reply.prompt_tokens is None or 0 < reply.prompt_tokens <= 10**9
