"""Variables that name a proxy for all programs: none for this machine, and none unnamed."""

import pytest
from chat_server import answer, serve, serve_raw

from vniah.errors import InputError, MissingDependencyError, ModelError, ServerError
from vniah.models.server.client import ServerOptions, open_server
from vniah.models.server.proxies import find_proxy, is_this_machine

NAMES = ("http", "https", "all", "no", "ftp")
OTHER = "http://server.example:8000/v1"


@pytest.fixture(autouse=True)
def no_proxy_of_the_user(monkeypatch):
    for name in NAMES:
        for spelled in (f"{name}_proxy", f"{name}_PROXY".upper()):
            monkeypatch.delenv(spelled, raising=False)


@pytest.mark.parametrize(
    "proxy",
    [
        "http://127.0.0.1:1",
        "socks://127.0.0.1:1",
        "socks5://127.0.0.1:1",
        "http://a:b",
        "://",
        "x y",
    ],
)
@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])
def test_server_on_this_machine_is_asked_without_a_proxy(monkeypatch, variable, proxy):
    monkeypatch.setenv(variable, proxy)
    with serve() as server:
        model = open_server(server.model, ServerOptions(num_retries=0, needs_usage=False))
        assert model.ask([], "Which colour?").text == "I see no card"
        assert model._connection.address == server.url


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", True),
        ("LocalHost.", True),
        ("my.localhost", True),
        ("127.0.0.1", True),
        ("127.8.9.10", True),
        ("127.1", True),
        ("0.0.0.0", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("128.0.0.1", False),
        ("::2", False),
        ("localhost.example", False),
        ("notlocalhost", False),
        ("127.0.0.1.example", False),
        ("10.0.0.1", False),
        ("", False),
        ("a" * 5000, False),
        ("\udcff", False),
    ],
)
def test_loopback_address_however_it_is_written(host, expected):
    assert is_this_machine(host) == expected


@pytest.mark.parametrize(
    ("variables", "shown"),
    [
        ({}, None),
        ({"HTTP_PROXY": "http://p:1"}, "http://p:1, set by HTTP_PROXY"),
        ({"http_proxy": "p:1"}, "http://p:1, set by http_proxy"),
        ({"HTTPS_PROXY": "http://p:1"}, None),
        ({"ALL_PROXY": "https://p"}, "https://p, set by ALL_PROXY"),
        ({"ALL_PROXY": "http://a:1", "HTTP_PROXY": "http://b:2"}, "http://b:2, set by HTTP_PROXY"),
        ({"HTTP_PROXY": "http://me:geheim@p:1"}, "http://p:1, set by HTTP_PROXY"),
        ({"HTTP_PROXY": "http://[::5]:1"}, "http://[::5]:1, set by HTTP_PROXY"),
        ({"HTTP_PROXY": "http://p:1", "NO_PROXY": "server.example"}, None),
        ({"HTTP_PROXY": "http://p:1", "NO_PROXY": ".example"}, None),
        ({"HTTP_PROXY": "http://p:1", "NO_PROXY": "server.example:8000"}, None),
        ({"HTTP_PROXY": "http://p:1", "NO_PROXY": "*"}, None),
        (
            {"HTTP_PROXY": "http://p:1", "no_proxy": "a, 10.0.0.0/8"},
            "http://p:1, set by HTTP_PROXY",
        ),
    ],
)
def test_proxy_of_the_environment_is_found(monkeypatch, variables, shown):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    proxy = find_proxy(OTHER)
    assert (proxy and proxy.shown) == shown
    assert "geheim" not in repr(proxy)


def test_range_of_addresses_needs_no_proxy(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://p:1")
    monkeypatch.setenv("NO_PROXY", "server, 10.0.0.0/8,fd00::/8,")
    assert find_proxy("http://10.1.2.3:8000/v1") is None
    assert find_proxy("http://[fd00::7]:8000/v1") is None
    assert find_proxy("http://11.1.2.3:8000/v1") is not None


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("socks://me:geheim@p:1", "it begins with 'socks'; write .*add server.example to NO_PROXY"),
        ("ftp://me:geheim@p:1", "it begins with 'ftp'"),
        ("http://me:geheim@p:port", "it is no address"),
        ("http://me:geheim@p:99999", "it is no address"),
        ("http://", "it is no address"),
        ("http://[", "it is no address"),
        ("\x1b[31mgeheim\x1b[0m", "it is no address"),
    ],
)
def test_value_that_is_no_proxy_is_one_line_without_its_password(monkeypatch, value, message):
    monkeypatch.setenv("ALL_PROXY", value)
    with pytest.raises(
        InputError, match=f"proxy that ALL_PROXY sets cannot be used: {message}"
    ) as e:
        open_server(f"openai:{OTHER}#m")
    assert "geheim" not in str(e.value) and str(e.value).isprintable()


def test_socks_proxy_without_its_package_is_one_line(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setenv("ALL_PROXY", "socks5h://me:geheim@p:1080")
    with pytest.raises(
        MissingDependencyError, match=r"proxy socks5h://p:1080 .*'vniah\[server\]'"
    ) as e:
        open_server(f"openai:{OTHER}#m")
    assert "geheim" not in str(e.value)


def ask_through(monkeypatch, proxy, url=OTHER):
    monkeypatch.setenv("ALL_PROXY", proxy.replace("http://", "http://me:geheim@"))
    options = ServerOptions(num_retries=0, timeout_seconds=20)
    return open_server(f"openai:{url}#m", options).ask([], "Which colour?").text


def test_request_goes_through_the_proxy(monkeypatch):
    good = answer("Red.", 10).encode()
    data = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(good), good)
    with serve_raw(lambda connection: connection.sendall(data)) as proxy:
        assert ask_through(monkeypatch, proxy.url.removesuffix("/v1")) == "Red."
    assert proxy.requests[0].startswith(b"POST http://server.example:8000/v1/chat/completions")


@pytest.mark.parametrize(
    ("url", "data", "error"),
    [
        (OTHER, b"HTTP/1.1 502 Bad\r\nContent-Length: 14\r\n\r\n<p>No host</p>", ModelError),
        (OTHER, b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n", ServerError),
        (OTHER, b"", ModelError),
        (OTHER.replace("http", "https"), b"HTTP/1.1 407 Log in\r\n\r\n", ServerError),
        (OTHER.replace("http", "https"), b"", ModelError),
    ],
)
def test_proxy_that_stands_between_is_named(monkeypatch, url, data, error):
    with serve_raw(lambda connection: connection.sendall(data)) as proxy:
        address = proxy.url.removesuffix("/v1")
        with pytest.raises(error) as caught:
            ask_through(monkeypatch, address, url)
    assert f"{url} (through the proxy {address}, set by ALL_PROXY)" in str(caught.value)
    assert "geheim" not in str(caught.value)


def test_proxy_that_is_not_there_is_named(monkeypatch):
    with serve() as server:
        address = server.url.removesuffix("/v1")
    with pytest.raises(
        ServerError, match=rf"cannot connect to {OTHER} \(through the proxy {address}"
    ):
        ask_through(monkeypatch, address)
