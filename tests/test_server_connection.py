"""Servers that do not speak HTTP as they should: bounded time, bounded memory, one line."""

import gzip
import json
import socket
import time
import zlib

import numpy as np
import pytest
from chat_server import answer, serve, serve_raw

from vniah.errors import InputError, ModelError, ServerError, VniahError
from vniah.models.server.client import ServerOptions, open_server
from vniah.models.server.connection import MOST_BYTES
from vniah.models.server.messages import FrameFormat

CARD = np.full((16, 16, 3), (220, 20, 20), np.uint8)
GOOD = answer("Red.", 120).encode()
OK = b"HTTP/1.1 200 OK\r\n"


def ask(model, **changes):
    quick = {"frames": FrameFormat(size=(16, 16)), "backoff_seconds": 0.001, "num_retries": 0}
    options = ServerOptions(**{**quick, "timeout_seconds": 20, **changes})
    return open_server(model, options).answer([CARD], "Which colour?")


def has_ipv6():
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


def send(data):
    return lambda connection: connection.sendall(data)


def response(body, *headers, status=b"200 OK"):
    lines = [b"HTTP/1.1 " + status, b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def drip(data, seconds=0.02):
    def respond(connection):
        for number in range(len(data)):
            connection.sendall(data[number : number + 1])
            time.sleep(seconds)

    return respond


@pytest.mark.parametrize(
    "data",
    [
        response(GOOD),
        response(b"\xef\xbb\xbf" + GOOD),
        response(GOOD, b"Content-Type: text/html"),
        response(GOOD, b"Content-Type: application/json; charset=latin-1"),
        response(gzip.compress(GOOD), b"Content-Encoding: gzip"),
        response(zlib.compress(GOOD), b"Content-Encoding: deflate"),
        b"HTTP/1.0 200 OK\r\n\r\n" + GOOD,
        OK + b"\r\n" + GOOD,
        OK + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(GOOD), GOOD),
        b"HTTP/1.1 100 Continue\r\n\r\n" + response(GOOD),
        response(b"\n \n" + GOOD + b"\n"),
    ],
)
def test_unusual_response_is_read(data):
    with serve_raw(send(data)) as server:
        assert ask(server.model) == "Red."


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\0" * 100,
        OK + b"Content-Length: 9999\r\n\r\n" + GOOD,
        OK + b"Content-Length: -1\r\n\r\n" + GOOD,
        OK + b"Content-Length: 1, 2\r\n\r\n" + GOOD,
        OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n" + GOOD,
        OK + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b" % (len(GOOD), GOOD),
        OK + b"a" * 200_000,
        OK + b"X: " + b"a" * 200_000 + b"\r\n\r\n" + GOOD,
        response(b"no gzip", b"Content-Encoding: gzip"),
    ],
)
def test_response_that_is_none_is_asked_for_again_and_is_one_line(data):
    with serve_raw(send(data)) as server:
        with pytest.raises(ModelError) as caught:
            ask(server.model, num_retries=1)
        assert len(server.requests) == 2
    assert str(caught.value).startswith(server.url)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "data",
    [
        OK + b"Content-Length: 100\r\n\r\n" + b"x" * 100,
        OK + b"X-Header: " + b"x" * 100,
        b"HTTP/1.1 100 Continue\r\n\r\n" * 5,
        OK + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 20,
    ],
)
def test_answer_that_drips_is_ended_by_the_total_time_out(data):
    started = time.monotonic()
    with (
        serve_raw(drip(data)) as server,
        pytest.raises(ModelError, match=r"http.*: no answer within 0\.3 s"),
    ):
        ask(server.model, timeout_seconds=0.3)
    assert time.monotonic() - started < 5


def test_request_that_is_not_read_is_ended_by_the_total_time_out():
    with serve_raw(lambda connection: time.sleep(1), reads_body=False) as server:
        model = open_server(server.model, ServerOptions(timeout_seconds=0.3, num_retries=0))
        with pytest.raises(ModelError, match="no answer within"):
            model.ask(["data:image/jpeg;base64," + "A" * 20_000_000], "Which colour?")


def endless(head, chunk):
    def respond(connection):
        connection.sendall(head)
        for _ in range(2000):
            connection.sendall(chunk)

    return respond


BOMB = gzip.compress(b"{" + b" " * 30 * MOST_BYTES)


@pytest.mark.parametrize(
    ("respond", "message"),
    [
        (endless(OK + b"\r\n", b" " * 65536), r"larger than 1,000,000 bytes"),
        (endless(OK + b"Content-Length: 9999999999\r\n\r\n", b"x" * 65536), "larger than 1,000,00"),
        (
            endless(
                OK + b"Transfer-Encoding: chunked\r\n\r\n", b"10000\r\n%b\r\n" % (b"x" * 65536)
            ),
            "larger than 1,000,000",
        ),
        (endless(b"HTTP/1.1 500 No\r\n\r\n", b" " * 65536), "larger than 1,000,000 bytes"),
        (send(response(BOMB, b"Content-Encoding: gzip")), "larger than 1,000,000 bytes"),
        (send(response(BOMB, b"Content-Encoding: gzip, gzip")), "encoded as 'gzip, gzip', unasked"),
        (send(response(GOOD, b"Content-Encoding: br")), "encoded as 'br', unasked"),
    ],
)
def test_answer_without_end_is_not_read_to_its_end(respond, message):
    with serve_raw(respond) as server:
        with pytest.raises(ModelError, match=message):
            ask(server.model, num_retries=3)
        assert len(server.requests) == 1, "it would be the same again"


@pytest.mark.parametrize(
    ("place", "target"),
    [
        (b"https://other.example/v1/chat/completions?key=geheim", "https://other.example/v1"),
        (b"http://me:geheim@other.example:81/x/chat/completions", "http://other.example:81/x"),
        (b"/v2/chat/completions", "http://127.0.0.1:PORT/v2"),
        (b"//other.example/login", "http://other.example/login"),
        (b"http://[", "no address"),
        (b"ftp://\xff\xfe", "ftp://"),
    ],
)
@pytest.mark.parametrize("status", [b"301 Moved", b"307 Temporary", b"303 See", b"308 Permanent"])
def test_redirect_is_not_followed_and_is_said(place, target, status):
    data = response(b"moved", b"Location: " + place, status=status)
    with serve_raw(send(data)) as server:
        with pytest.raises(ServerError, match="is not followed") as caught:
            ask(server.model, num_retries=3)
        assert len(server.requests) == 1
    port = server.url.rpartition(":")[2].removesuffix("/v1")
    assert f"redirects to {target.replace('PORT', port)}" in str(caught.value)
    assert f"(HTTP {status[:3].decode()})" in str(caught.value)
    assert "geheim" not in str(caught.value)


def test_redirect_without_a_target_is_said():
    with (
        serve_raw(send(response(b"", status=b"302 Found"))) as server,
        pytest.raises(ServerError, match=r"redirects to no address \(HTTP 302\)"),
    ):
        ask(server.model)


def test_refusal_that_comes_before_the_request_is_read_is_shown():
    def respond(connection):
        connection.sendall(response(b'{"error": "too large"}', status=b"413 Too Large"))
        time.sleep(0.2)

    with serve_raw(respond, reads_body=False) as server:
        model = open_server(server.model, ServerOptions(num_retries=0))
        with pytest.raises(ModelError, match=r"HTTP 413 from .*: too large"):
            model.ask(["data:image/jpeg;base64," + "A" * 3_000_000], "Which colour?")


def test_every_request_has_a_connection_of_its_own():
    """A server that closes connections after each answer, without saying so, loses nothing."""
    with serve_raw(send(response(GOOD, b"Connection: keep-alive"))) as server:
        model = open_server(server.model, ServerOptions(num_retries=0))
        assert [model.answer([CARD], "Which colour?") for _ in range(3)] == ["Red."] * 3
    assert all(b"connection: close" in head.lower() for head in server.requests)


@pytest.mark.skipif(not has_ipv6(), reason="no IPv6 on this machine")
def test_server_on_the_ipv6_loopback_address_is_asked():
    with serve_raw(send(response(GOOD)), host="::1") as server:
        assert ask(server.model) == "Red."


@pytest.mark.parametrize("name", ["OPENAI_BASE_URL", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"])
def test_variables_of_other_programs_change_no_request(monkeypatch, name):
    heads = []
    for value in (None, "http://127.0.0.1:9/other"):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
            monkeypatch.setenv("OPENAI_LOG", "debug")
            monkeypatch.setenv("SSL_CERT_FILE", "/no/such/file")  # of no use for http
            monkeypatch.setenv("NETRC", "/no/such/file")
        with serve_raw(send(response(GOOD))) as server:
            assert ask(server.model) == "Red."
        host = server.url.split("/")[2].encode()
        heads.append(server.requests[0].replace(host, b"HOST"))
    assert heads[0] == heads[1]


def test_certificates_that_are_not_there_are_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    with pytest.raises(
        InputError, match=r"certificates of SSL_CERT_FILE=.*none\.pem.*No such file"
    ):
        open_server("openai:https://127.0.0.1:9/v1#m")


def test_log_of_secrets_for_other_programs_is_not_opened(monkeypatch, tmp_path):
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    monkeypatch.setenv("SSLKEYLOGFILE", "/no/such/folder/log")
    open_server("openai:https://127.0.0.1:9/v1#m")


def test_file_without_certificates_is_one_line(monkeypatch, tmp_path):
    path = tmp_path / "bad.pem"
    path.write_text("no certificate\n")
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    with pytest.raises(InputError, match=r"certificates of SSL_CERT_FILE=.*cannot be read"):
        open_server("openai:https://127.0.0.1:9/v1#m")


@pytest.mark.parametrize(
    "url",
    [
        "http://\x7f\x00host/v1",
        "http://[::1/v1",
        "http://[v1.x]/v1",
        "http://ho%zzst:1/v1",
        "http://\udcff/v1",
        "http://127.0.0.1:1/\udcff/v1",
        f"http://{'a' * 70_000}/v1",
        f"http://{'a' * 70}..invalid/v1",
    ],
)
def test_address_that_cannot_be_one_is_one_line(url):
    with pytest.raises(VniahError) as caught:
        ask(f"openai:{url}#m")
    assert "\n" not in str(caught.value) and str(caught.value).isprintable()


def test_unencrypted_port_asked_by_https_is_one_line():
    with serve() as server:
        model = server.model.replace("http:", "https:")
        with pytest.raises(ServerError, match=r"cannot connect to https://127.*SSL"):
            ask(model, timeout_seconds=20)


def test_body_of_a_request_is_json_of_utf_8_even_for_a_lone_surrogate():
    bodies = []

    def respond(connection):
        connection.sendall(response(GOOD))

    with serve_raw(respond) as server:
        model = open_server(server.model.replace("Looker", "Look\udcff"), ServerOptions())
        model._connection.post, post = (
            lambda body: bodies.append(body) or post(body),
            model._connection.post,
        )
        assert model.ask([], "Which \ud800 colour?").text == "Red."
    content = json.loads(bodies[0])
    assert content["messages"][0]["content"][0]["text"] == "Which \ud800 colour?"
