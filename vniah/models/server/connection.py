"""One HTTP request to a server: in bounded time, with a bounded answer, and without surprises.

The time-out is for the whole request, from connecting to the last byte of the answer: a server that
sends one byte a second is not waited for. No more of an answer is read than `MOST_BYTES`, counted
before and after decompression. Redirects are not followed. Every request has a connection of its
own, since one that is kept open may be closed by the server while a request is written to it.

Nothing but a proxy (`vniah.models.server.proxies`) and certificates is taken from the environment.
"""

import asyncio
import importlib.metadata
import logging
import os
import ssl
import threading
import zlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from vniah.errors import InputError, MissingDependencyError
from vniah.models.server.api_keys import ApiKey
from vniah.models.server.proxies import find_proxy

if TYPE_CHECKING:
    import httpx2

MOST_BYTES = 1_000_000
"""How large a response may be; an answer has some hundred bytes."""

_CHUNK_BYTES = 2**18
_LONGEST_CONNECT_SECONDS = 60.0
_GZIP_OR_ZLIB = zlib.MAX_WBITS | 32
_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR")


@dataclass(frozen=True)
class Response:
    """The response to a request, whatever its status.

    Attributes:
        status: the HTTP status code.
        headers: with lower-case names.
        body: decompressed.
    """

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


class NoResponse(Exception):
    """A request got no response, or none that can be used; the message says why in a few words.

    Args:
        reason: may hold anything that the server sent.
        is_connected: False if the server could not be reached.
        may_pass: False if the same request would end the same way.
    """

    def __init__(self, reason: str, *, is_connected: bool = True, may_pass: bool = True) -> None:
        super().__init__(reason)
        self.is_connected = is_connected
        self.may_pass = may_pass


class Connection:
    """Sends requests to one server; several threads may use it at the same time.

    Args:
        base_url: of the server.
        key: sent with every request.
        timeout_seconds: how long a request may take in all.

    Attributes:
        address: the base URL, and the proxy if there is one, for messages.

    Raises:
        InputError: the address, a proxy or certificates of the environment cannot be used.
        MissingDependencyError: the package httpx2 is not installed.
    """

    def __init__(self, base_url: str, key: ApiKey, *, timeout_seconds: float) -> None:
        try:
            import httpx2
        except ImportError as error:
            raise MissingDependencyError(
                "httpx2", extra="server", purpose="--model openai:"
            ) from error
        try:
            self._url = httpx2.URL(f"{base_url}/chat/completions")
        except (httpx2.InvalidURL, ValueError) as error:
            raise InputError(f"the address of the server cannot be read: {error}") from error
        self._key = key
        self._timeout_seconds = timeout_seconds
        self._proxy = find_proxy(base_url)
        self._certificates = _certificates(
            is_needed=any(
                urlsplit(url).scheme == "https"
                for url in (base_url, *([self._proxy.url] if self._proxy else []))
            )
        )
        self.address = base_url
        if self._proxy is not None:
            self.address += f" (through the proxy {self._proxy.shown})"
        _keep_headers_out_of_logs()

    def post(self, body: bytes) -> "Response | NoResponse":
        """The response to a request with this body of JSON, or why there is none.

        That is returned, not raised: what follows from it has no cause with the key in it.
        """
        future = asyncio.run_coroutine_threadsafe(self._post(body), _event_loop(os.getpid()))
        try:
            return future.result()
        finally:
            future.cancel()  # does nothing unless Ctrl-C ended the wait

    async def _post(self, body: bytes) -> Response | NoResponse:
        import httpx2

        try:
            async with asyncio.timeout(self._timeout_seconds), self._client() as client:
                request = client.build_request(
                    "POST",
                    self._url,
                    content=_in_chunks(body),
                    headers={
                        "Authorization": f"Bearer {self._key.value}",
                        "Content-Type": "application/json",
                        "Content-Length": str(len(body)),
                        "Accept-Encoding": "identity",
                        "Connection": "close",
                        "User-Agent": f"vniah/{importlib.metadata.version('vniah')}",
                    },
                )
                return await _read(await client.send(request, stream=True))
        except NoResponse as failure:
            return failure
        except TimeoutError:
            return NoResponse(f"no answer within {self._timeout_seconds:g} s")
        except httpx2.ConnectTimeout:
            return NoResponse("it does not answer", is_connected=False)
        except (httpx2.ConnectError, httpx2.ProxyError) as error:
            return NoResponse(_innermost(error), is_connected=False)
        except httpx2.HTTPError as error:
            reason = _innermost(error).rstrip(".")
            return NoResponse(
                f"the connection broke off: {reason} (the request had {len(body):,} bytes)"
            )
        except (OSError, ValueError) as error:  # ValueError: a name that no host can have
            return NoResponse(_innermost(error), is_connected=False)

    def _client(self) -> "httpx2.AsyncClient":
        import httpx2

        proxy = None
        if self._proxy is not None:
            is_https = self._proxy.url.startswith("https:")
            proxy = httpx2.Proxy(
                self._proxy.url, ssl_context=self._certificates if is_https else None
            )
        connect_seconds = min(self._timeout_seconds, _LONGEST_CONNECT_SECONDS)
        return httpx2.AsyncClient(
            trust_env=False,
            follow_redirects=False,
            verify=self._certificates,
            proxy=proxy,
            timeout=httpx2.Timeout(None, connect=connect_seconds),
        )


async def _in_chunks(body: bytes) -> AsyncIterator[bytes]:
    """The body in pieces, so that it is not copied as a whole."""
    view = memoryview(body)
    for start in range(0, len(body), _CHUNK_BYTES):
        yield bytes(view[start : start + _CHUNK_BYTES])


async def _read(response: "httpx2.Response") -> Response:
    """A response with its body, of which no more is read than may be used."""
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > MOST_BYTES:
            raise _too_large()
    headers = {name.lower(): value for name, value in response.headers.items()}
    encoding = headers.get("content-encoding", "identity").strip().lower()
    return Response(response.status_code, headers, _decompress(bytes(body), encoding))


def _decompress(body: bytes, encoding: str) -> bytes:
    """The body without its compression, which nobody asked for."""
    if encoding in ("", "identity"):
        return body
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise NoResponse(f"the answer is encoded as {encoding!r}, unasked", may_pass=False)
    try:
        found = zlib.decompressobj(_GZIP_OR_ZLIB).decompress(body, MOST_BYTES + 1)
    except zlib.error as error:
        raise NoResponse(f"the answer cannot be decompressed: {error}") from error
    if len(found) > MOST_BYTES:
        raise _too_large()
    return found


def _too_large() -> NoResponse:
    return NoResponse(
        f"the answer is larger than {MOST_BYTES:,} bytes, which no answer needs", may_pass=False
    )


def _innermost(error: BaseException) -> str:
    """What the system said: outer errors say only that something failed."""
    for _ in range(10):
        inner = error.__cause__ or error.__context__
        if isinstance(error, BaseExceptionGroup):
            inner = error.exceptions[0]
        if inner is None or not str(inner):
            break
        error = inner
    if isinstance(error, OSError) and not isinstance(error, ssl.SSLError) and error.errno:
        return os.strerror(error.errno) if error.errno > 0 else error.strerror or str(error)
    return str(error) or type(error).__name__


def _certificates(*, is_needed: bool) -> ssl.SSLContext:
    """The certificate authorities to trust, by the environment or the system.

    Raises:
        InputError: the environment names a file that cannot be used.
    """
    import httpx2

    none_trusted = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if not is_needed:
        return none_trusted
    place = next((name for name in _CERTIFICATES if os.environ.get(name)), None)
    try:
        if place is None:
            return httpx2.create_ssl_context(trust_env=False)
        kind = "cafile" if place == "SSL_CERT_FILE" else "capath"
        none_trusted.load_verify_locations(**{kind: os.environ[place]})
        return none_trusted
    except OSError as error:  # ssl.SSLError is one of them
        if place is None:
            raise InputError(f"the system's certificates cannot be read: {error}") from error
        raise InputError(
            f"the certificates of {place}={os.environ[place]!r} cannot be read: "
            f"{error.strerror or error}; unset {place}, or name a file of certificates"
        ) from error


def _keep_headers_out_of_logs() -> None:
    """At level DEBUG the HTTP library logs headers, in which a server may show the key."""
    for name in ("httpx2", "httpcore2"):
        log = logging.getLogger(name)
        if log.level == logging.NOTSET:
            log.setLevel(logging.WARNING)


@cache
def _event_loop(process_id: int) -> asyncio.AbstractEventLoop:
    """The loop that sends the requests of all threads of this process.

    Its thread does not keep the process from ending. A forked process has a loop of its own.
    """
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="vniah-requests", daemon=True).start()
    return loop
