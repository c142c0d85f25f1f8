"""The key of a server is found in a text however it is written, and ordinary text stays."""

import base64
import json
import logging
import traceback
import urllib.parse

import pytest
from chat_server import Fault, answer, serve, serve_raw, write_haystack, write_needles

from vniah.cli import main
from vniah.errors import InputError, VniahError
from vniah.models.server.api_keys import ApiKey
from vniah.models.server.client import ServerOptions, open_server
from vniah.models.server.key_search import PART_LENGTH

KEY = "sk-proj-Abc123Def456Ghi789JkL0"

ECHOES = {
    "whole": KEY,
    "in a header": f"Authorization: Bearer {KEY}",
    "without its first letters": KEY[3:],
    "without its first half": KEY[15:],
    "without its last letters": KEY[:-3],
    "one part of eight": KEY[9:17],
    "small": KEY.lower(),
    "capital": KEY.upper(),
    "swapped case": KEY.swapcase(),
    "spaced": " ".join(KEY),
    "spaced by no-break spaces": "\u00a0".join(KEY),
    "with invisible characters": "\u200b".join(KEY),
    "with points": ".".join(KEY),
    "without its punctuation": KEY.replace("-", ""),
    "over lines": "\n".join(KEY[i : i + 8] for i in range(0, len(KEY), 8)),
    "over quoted lines": "\n> ".join(KEY[i : i + 9] for i in range(0, len(KEY), 9)),
    "in parts": f"first {KEY[:8]} then {KEY[8:16]} then {KEY[16:24]}",
    "as a list": repr(list(KEY)),
    "as numbers": repr(list(KEY.encode())),
    "backwards": KEY[::-1],
    "escaped for URLs": urllib.parse.quote(KEY.replace("-", "/"), safe=""),
    "all escaped for URLs": "".join(f"%{ord(c):02x}" for c in KEY),
    "twice escaped for URLs": "".join(f"%25{ord(c):02X}" for c in KEY),
    "escaped for JSON": "".join(f"\\u{ord(c):04x}" for c in KEY),
    "escaped for HTML": "".join(f"&#{ord(c)};" for c in KEY),
    "escaped for HTML in hexadecimal digits": "".join(f"&#x{ord(c):x};" for c in KEY),
    "escaped for Python": "".join(f"\\x{ord(c):02x}" for c in KEY),
    "escaped for mail": "".join(f"={ord(c):02X}" for c in KEY),
    "in base64": base64.b64encode(KEY.encode()).decode(),
    "in base64 with what is before": base64.b64encode(f"Bearer {KEY}".encode()).decode(),
    "in base64 with a user": base64.b64encode(f"me:{KEY}".encode()).decode(),
    "in base64 for URLs": base64.urlsafe_b64encode(f"x{KEY}".encode()).decode().rstrip("="),
    "in base32": base64.b32encode(f"Bearer {KEY}".encode()).decode(),
    "in hexadecimal digits": KEY.encode().hex(),
    "in capital hexadecimal digits": KEY.encode().hex(":").upper(),
    "escaped in octal digits": "".join(f"\\{ord(c):03o}" for c in KEY),
    "escaped for Python at length": "".join(f"\\U{ord(c):08x}" for c in KEY),
    "escaped for HTML with zeros": "".join(f"&#{ord(c):07d};" for c in KEY),
    "in octal digits": " ".join(f"{ord(c):03o}" for c in KEY),
    "in binary digits": " ".join(f"{ord(c):08b}" for c in KEY),
    "UTF-16 in hexadecimal digits": KEY.encode("utf-16-le").hex(),
    "dumped": " ".join(f"0x{ord(c):02x}," for c in KEY),
    "in wide letters": "".join(chr(ord(c) + 0xFEE0) for c in KEY),
    "as bytes of UTF-16": repr(KEY.encode("utf-16-le")),
    "masked": KEY[:7] + "*" * 16 + KEY[-4:],
    "masked by points": KEY[:8] + "..." + KEY[-4:],
    "masked by letters": KEY[:8] + "xxxxxxxx" + KEY[-4:],
    "masked by bullets": KEY[:7] + "\u2022" * 5 + KEY[-3:],
}
MASKED = {
    "masked but for the end": "*" * 20 + KEY[-4:],
    "masked but for the beginning": KEY[:5] + "*" * 20,
    "masked by an ellipsis": KEY[:5] + "\u2026" + KEY[-3:],
    "beginning alone": f"the key {KEY[:6]} is unknown",
}


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    return ApiKey.read(None)


def letters(text):
    return "".join(filter(str.isalnum, text.lower()))


def shows(text):
    """True if a text holds 8 characters of the key in a row, forwards or backwards."""
    line, whole = letters(text), letters(KEY)
    parts = {whole[i : i + PART_LENGTH] for i in range(len(whole) - PART_LENGTH + 1)}
    return any(part in line or part[::-1] in line for part in parts)


@pytest.mark.parametrize("echo", ECHOES.values(), ids=ECHOES.keys())
def test_key_is_hidden_however_it_is_written(key, echo):
    given = f"bad key {echo} for you"
    for text in (key.hide(given), key.hide_in_answer(given)):
        assert text.startswith("bad key ") and text.endswith(" for you") and "[key]" in text
        left = text.replace("[key]", "")
        assert not shows(left)
        assert len(letters(left)) <= len("bad key Authorization Bearer for you")


@pytest.mark.parametrize("echo", MASKED.values(), ids=MASKED.keys())
def test_less_than_a_part_of_the_key_is_hidden_in_messages(key, echo):
    text = key.hide(echo)
    assert "[key]" in text
    assert KEY[:6] not in text and KEY[-3:] not in text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Red.",
        "**JkL0**",
        "The sky project of Abc, 124 Def ... and so on #1",
        "maximum context length is 4096 tokens, got 5000 (see https://example.org/a%20b?x=1)",
        "proj-A",
        "0123456789 " * 500,
        "The quick brown fox jumps over the lazy dog. " * 100,
        "%zz \\u12 &#99999999; 100%",
    ],
)
def test_ordinary_text_stays(key, text):
    assert key.hide_in_answer(text) == text
    assert key.hide(text.replace("**JkL0**", "JkL0")) == text.replace("**JkL0**", "JkL0")


def test_neighbours_of_the_key_stay(key):
    assert key.hide(f"got '{KEY}', want a key") == "got '[key]', want a key"
    assert key.hide(f"{KEY} {KEY}\n{KEY}") == "[key] [key]\n[key]"


@pytest.mark.parametrize("value", ["EMPTY", "none", "Red"])
def test_placeholder_is_hidden_in_messages_as_a_word(monkeypatch, value):
    monkeypatch.setenv("OPENAI_API_KEY", value)
    key = ApiKey.read(None)
    assert key.hide(f"key {value} in {value}able") == f"key [key] in {value}able"
    assert key.hide_in_answer(f"key {value}") == f"key {value}"


@pytest.mark.parametrize("value", ["hf_abcdefGHIJ", KEY, "a\0b", "x=y", ""])
def test_key_given_as_the_name_of_a_variable_is_not_shown(value):
    with pytest.raises(InputError, match="takes the name of an environment variable") as caught:
        ApiKey.read(value)
    assert not value or value not in str(caught.value)


@pytest.mark.parametrize(
    "source", [f"http://h/{KEY}/v1#m", f"http://h/v1#{KEY}", "http://h/v1#Abc123Def"]
)
def test_key_in_the_address_or_the_name_of_the_model_is_refused(source):
    with pytest.raises(InputError, match="holds a part of the key in OPENAI_API_KEY") as caught:
        open_server(f"openai:{source}")
    assert not shows(str(caught.value))


def test_server_that_is_called_like_its_placeholder_can_be_asked(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "lm-studio")
    model = open_server("openai:http://lm-studio.local:1234/v1#m")
    assert model.settings["base_url"] == "http://lm-studio.local:1234/v1"


def raised(server, caplog):
    """All that can be seen of a request that fails: the error, its causes, logs, and the model."""
    caplog.set_level(logging.DEBUG)
    model = open_server(server.model, ServerOptions(num_retries=0))
    with pytest.raises(VniahError) as caught:
        model.ask([], "Which colour?")
    seen = [caplog.text, repr(model), repr(vars(model)), repr(model._connection)]
    seen += [json.dumps(dict(model.settings)), json.dumps(dict(model.record()))]
    error = caught.value
    while error is not None:
        shown = traceback.TracebackException.from_exception(error)
        seen += [repr(error), repr(vars(error)), *(line for line in shown.format())]
        error = error.__cause__ or error.__context__
    return seen


@pytest.mark.parametrize("status", [200, 400, 404, 500])
def test_error_that_echoes_the_key_in_all_ways_shows_none(caplog, status):
    echoes = iter(ECHOES.values())

    def fault(request):
        echo = next(echoes)
        return Fault(status, json.dumps({"error": {"message": echo, "code": "odd", "type": echo}}))

    with serve(fault=fault) as server:
        while len(server.requests) < len(ECHOES):
            assert not any(map(shows, raised(server, caplog)))


@pytest.mark.parametrize(
    "body",
    [
        KEY,
        f"<html>{KEY}</html>",
        f'{{"choices": "{KEY}"}}',
        f'{{"choices": [{{"message": {{"content": {{"{KEY}": 1}}}}}}]}}',
        f'{{"usage": {{"prompt_tokens": "{"x" * 25}{KEY}{"x" * 60}"}}, "choices": []}}',
        f'{{"{KEY}": 1, "{KEY}": 2}}',
        json.dumps({"choices": [{"message": {"content": None, "refusal": KEY}}]}),
        "x" * 290 + KEY,
        "x" * 29_990 + KEY,
    ],
)
def test_body_that_cannot_be_read_does_not_show_the_key(caplog, body):
    with serve(fault=lambda request: Fault(body=body)) as server:
        assert not any(map(shows, raised(server, caplog)))


@pytest.mark.parametrize(
    "head",
    [
        f"HTTP/1.1 302 Found\r\nLocation: http://h/{KEY}\r\n",
        f"HTTP/1.1 302 Found\r\nLocation: http://{KEY}@h/{KEY[::-1]}?{KEY}\r\n",
        f"HTTP/1.1 500 {KEY}\r\nX-Echo: {KEY}\r\n",
        f"HTTP/1.1 429 No\r\nRetry-After: {KEY}\r\n",
        f"HTTP/1.1 200 OK\r\nContent-Encoding: {KEY}\r\n",
        f"HTTP/1.1 200 OK\r\nContent-Length: {KEY}\r\n",
        f"{KEY}\r\n",
        f"HTTP/1.1 200 OK\r\n{KEY} no header\r\n",
    ],
)
def test_headers_that_echo_the_key_do_not_show_it(caplog, head):
    data = f"{head}\r\n".encode()
    with serve_raw(lambda connection: connection.sendall(data)) as server:
        assert not any(map(shows, raised(server, caplog)))


def test_answers_that_echo_the_key_do_not_show_it():
    echoes = list(ECHOES.values())
    with serve(fault=lambda request: Fault(body=answer(echoes[request.number], 10))) as server:
        model = open_server(server.model, ServerOptions())
        assert not any(shows(model.ask([], "Which colour?").text) for _ in echoes)


def test_run_over_a_server_that_echoes_the_key_in_all_ways_writes_and_prints_none(
    tmp_path, capfd, caplog
):
    caplog.set_level(logging.DEBUG)
    write_haystack(tmp_path / "grey", 12)
    write_needles(tmp_path / "colours")
    echoes = list(ECHOES.values())

    def fault(request):
        number = request.number - 4  # after the prompts that show how tokens grow
        if not 0 <= number < 2 * len(echoes):
            return None
        if number % 2:
            return Fault(400, json.dumps({"error": {"message": echoes[number // 2]}}))
        num_tokens = 20 + 100 * len(request.labels) + len(request.question)
        return Fault(body=answer(echoes[number // 2], num_tokens))

    with serve(fault=fault) as server:
        words = ["run", "--model", server.model, "--output", str(tmp_path / "out")]
        words += ["--haystack", str(tmp_path / "grey"), "--needles", str(tmp_path / "colours")]
        words += ["--frames", "3:12:1", "--depths", "0,0.4,0.7,1", "--frame-size", "16x16"]
        main([*words, "--controls", "none", "--concurrency", "1"])
        assert len(server.requests) == 4 + 120
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert {"manifest.json", "samples.jsonl"} <= {path.name for path in files}
    texts = [path.read_text("utf-8", "replace") for path in files]
    assert sum(text.count("[key]") for text in texts) >= 2 * len(echoes)
    assert not any(map(shows, (*texts, *capfd.readouterr(), caplog.text)))
