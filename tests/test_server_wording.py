"""Requests in the words of servers that refuse some field, by what they really answer."""

import json

import pytest
from chat_server import Fault, serve

from vniah.errors import ModelError
from vniah.models.server.client import ServerOptions, open_server
from vniah.models.server.wording import Wording

FIRST = Wording.first(128)
OF_OPENAI_LIMIT = (
    "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
    "'max_completion_tokens' instead."
)
OF_OPENAI_TEMPERATURE = (
    "Unsupported value: 'temperature' does not support 0 with this model. Only the default (1) "
    "value is supported."
)


@pytest.mark.parametrize(
    ("reason", "named", "gone"),
    [
        (OF_OPENAI_TEMPERATURE, ("temperature",), {"temperature"}),
        (OF_OPENAI_TEMPERATURE, (), {"temperature"}),
        ("`temperature` must be strictly positive", (), {"temperature"}),
        ("temperature: Extra inputs are not permitted", (), {"temperature"}),
        ("O-series models don't support temperature=0. Only temperature=1 is", (), {"temperature"}),
        (
            "`temperature` (=0) has to be a strictly positive float, otherwise your next token "
            "scores are going to be wrong",
            (),
            {"temperature"},
        ),
        ("Unknown field seed", (), {"seed"}),
        ("unexpected keyword argument 'seed'", (), {"seed"}),
        ("Extra inputs are not permitted", ("seed", "temperature"), {"seed", "temperature"}),
        (OF_OPENAI_LIMIT, ("max_tokens",), {"max_tokens"}),
        (OF_OPENAI_LIMIT, (), {"max_tokens"}),
        ("Unrecognized request argument supplied: max_tokens", (), {"max_tokens"}),
        ("use max_completion_tokens", (), {"max_tokens"}),
    ],
)
def test_field_that_is_refused_is_sent_no_more(reason, named, gone):
    other = FIRST.reworded(reason, named)
    assert set(FIRST.fields) - set(other.fields) == gone
    assert set(other.refused) == gone
    assert len(other.notes()) == len(gone)
    assert ("max_completion_tokens" in other.fields) == ("max_tokens" in gone)
    assert {**other.fields}.get("max_completion_tokens", 128) == 128


@pytest.mark.parametrize(
    ("reason", "named"),
    [
        ("maximum context length is 4096 tokens", ()),
        (
            "'max_tokens' or 'max_completion_tokens' is too large: 128. This model's maximum "
            "context length is 100 tokens",
            (),
        ),
        ("max_tokens must be at most 64", ("max_tokens",)),
        ("invalid image: {'model': 'm', 'temperature': 0, 'max_tokens': 128, 'seed': 0}", ()),
        ('only 8 images: {"temperature": 0, "max_tokens": 128, "seed": 0}', ()),
        ("the temperature of the seed in the picture", ()),
        ("could not finish the message because max_tokens were reached", ()),
        ("unseeded, max_tokens_total is unknown", ()),
        ("Invalid value for content: seed, temperature", ("messages",)),
        ("", ()),
    ],
)
def test_other_refusal_is_no_matter_of_words(reason, named):
    assert FIRST.reworded(reason, named) is None


def test_limit_goes_back_to_no_name_that_was_refused():
    other = FIRST.reworded(OF_OPENAI_LIMIT)
    assert other.reworded("unknown field max_completion_tokens, use max_tokens") is None


def test_limit_of_the_other_name_is_found_too():
    other = Wording({"max_completion_tokens": 5}).reworded("unknown field max_completion_tokens")
    assert dict(other.fields) == {"max_tokens": 5}


def refusing(*names, status=400):
    """A server that refuses the fields one by one, as OpenAI's does."""

    def fault(request):
        for name in names:
            if name in request.body:
                use = " Use 'max_completion_tokens' instead." * (name == "max_tokens")
                message = f"Unsupported parameter: '{name}' is not supported.{use}"
                error = {"message": message, "param": name, "code": "unsupported_parameter"}
                return Fault(status, json.dumps({"error": error}))
        return None

    return fault


def test_every_field_is_reworded_once_and_for_all_requests():
    with serve(fault=refusing("temperature", "max_tokens", "seed")) as server:
        model = open_server(server.model, ServerOptions(max_requests=6))
        for _ in range(3):
            assert model.ask([], "Which colour?").text == "I see no card"
    assert model.record()["request"] == {"max_completion_tokens": 128}
    assert len(server.requests) == 6
    assert [note.partition(":")[0] for note in model.notes()] == [
        "the server refuses temperature 0",
        "the server refuses max_tokens",
        "the server refuses seed",
    ]
    assert "temperature" not in server.requests[-1].body


def test_errors_of_a_validator_name_all_fields_at_once():
    def fault(request):
        extra = [name for name in ("seed", "temperature") if name in request.body]
        detail = [
            {"type": "extra_forbidden", "loc": ["body", name], "msg": "Extra inputs", "input": 0}
            for name in extra
        ]
        return Fault(422, json.dumps({"detail": detail})) if extra else None

    with serve(fault=fault) as server:
        model = open_server(server.model, ServerOptions())
        model.ask([], "Which colour?")
    assert model.record()["request"] == {"max_tokens": 128}
    assert len(server.requests) == 2


def test_field_that_is_refused_by_an_error_with_status_200_is_reworded():
    with serve(fault=refusing("temperature", status=200)) as server:
        model = open_server(server.model, ServerOptions())
        assert model.ask([], "Which colour?").text == "I see no card"
    assert model.record()["request"] == {"max_tokens": 128, "seed": 0}
    assert len(server.requests) == 2


def test_refusal_that_does_not_end_is_an_error():
    error = {"error": {"message": "temperature is not supported", "param": "temperature"}}
    with (
        serve(fault=lambda request: Fault(400, json.dumps(error))) as server,
        pytest.raises(ModelError, match=r"HTTP 400 from .*temperature is not supported"),
    ):
        open_server(server.model, ServerOptions()).ask([], "Which colour?")
    assert len(server.requests) == 2


def test_temperature_of_a_run_does_not_change_in_its_middle():
    """As behind a balancer with one server of another kind."""

    def fault(request):
        return refusing("temperature")(request) if request.number == 1 else None

    with serve(fault=fault) as server:
        model = open_server(server.model, ServerOptions())
        model.ask([], "Which colour?")
        with pytest.raises(ModelError, match="HTTP 400"):
            model.ask([], "Which colour?")
        model.ask([], "Which colour?")
    assert all(request.body["temperature"] == 0 for request in server.requests)
    assert model.notes() == []
