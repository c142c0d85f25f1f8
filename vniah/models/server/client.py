"""A model behind an OpenAI-compatible server: vLLM, SGLang, or somebody else's.

    >>> model = open_server("openai:http://127.0.0.1:8000/v1#Qwen/Qwen2.5-VL-7B-Instruct")
    >>> model.answer([picture], "What is on the card?")
    '7'

A request holds all its frames (`vniah.models.server.messages`): with 3,000 frames of 448 x 448 it
has some 180 MB. Frames are encoded once and stay in memory, shared by all requests. A request takes
its size in memory until its answer is there, and twice its size while it is built; one is built at
a time. So the memory is about (2 + concurrency) times the largest request.
"""

import importlib.metadata
import itertools
import logging
import random
import re
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from vniah.errors import InputError, RequestLimitError, ServerError, VniahError
from vniah.files import to_json
from vniah.models.server.api_keys import ApiKey
from vniah.models.server.connection import Connection, NoResponse
from vniah.models.server.messages import FrameFormat
from vniah.models.server.responses import Refused, Reply, ResponseParser, TryAgain
from vniah.models.server.wording import Wording

if TYPE_CHECKING:
    import numpy as np

    from vniah.models.tokenizers import TokenCounter

_LOG = logging.getLogger("vniah")

PREFIX = "openai:"

_FORM = "openai:BASE_URL#MODEL, such as openai:http://127.0.0.1:8000/v1#Qwen/Qwen2.5-VL-7B-Instruct"

# Each has a thread and a connection, and most systems allow a process some 1,000 files.
_MOST_CONCURRENT = 1_000

# A server that demands a longer wait is taken as one that failed.
_LONGEST_WAIT_SECONDS = 600.0
_LONGEST_BACKOFF_SECONDS = 60.0
_WORTH_SAYING_SECONDS = 5.0


@dataclass(frozen=True)
class ServerOptions:
    """How requests are sent to a server.

    Attributes:
        frames: how frames are sent.
        max_tokens: the most tokens of an answer.
        concurrency: the most requests at the same time.
        max_requests: the most HTTP requests that this process sends in all; retries count too, as
            they may be billed. None is no limit.
        timeout_seconds: how long a request may take in all, to the last byte of its answer.
        num_retries: how often a question without an answer is sent again.
        backoff_seconds: about the wait before the first retry; it doubles for each further one. If
            the server says how long to wait, that is done instead.
        key_variable: environment variable with the key; by default OPENAI_API_KEY.
        needs_usage: True if the server has to say how many tokens it read.
        tokenizer: for a task of text, whose lengths are tokens: a folder or a hub id with the
            tokenizer of the model (`vniah.models.tokenizers.open_counter`).

    Raises:
        InputError: a value is invalid.
    """

    frames: FrameFormat = field(default_factory=FrameFormat)
    max_tokens: int = 128
    concurrency: int = 4
    max_requests: int | None = None
    timeout_seconds: float = 600.0
    num_retries: int = 5
    backoff_seconds: float = 1.0
    key_variable: str | None = None
    needs_usage: bool = True
    tokenizer: str | None = None

    def __post_init__(self) -> None:
        if self.concurrency > _MOST_CONCURRENT:
            raise InputError(
                f"concurrency must be at most {_MOST_CONCURRENT:,}, got {self.concurrency:,}"
            )
        for name, least in (("max_tokens", 1), ("concurrency", 1), ("num_retries", 0)):
            if getattr(self, name) < least:
                raise InputError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.max_requests is not None and self.max_requests < 1:
            raise InputError(f"max_requests must be at least 1, got {self.max_requests}")
        for name in ("timeout_seconds", "backoff_seconds"):
            if not 0 < getattr(self, name) < float("inf"):
                raise InputError(f"{name} must be above 0, got {getattr(self, name)}")


def is_server(source: str) -> bool:
    """True if the text names a server, ``openai:BASE_URL#MODEL``."""
    return source.startswith(PREFIX)


def open_server(source: str, options: ServerOptions | None = None) -> "ServerModel":
    """The model behind a server; no request is sent yet.

    Args:
        source: ``openai:BASE_URL#MODEL``.
        options: how requests are sent.

    Raises:
        InputError: the address has another form or holds a secret, there is no key, or a proxy or
            certificates that the environment names cannot be used.
        ModelError: the tokenizer cannot be had.
        MissingDependencyError: the package httpx2 is not installed.
    """
    base_url, model_id = _parse(source)
    return ServerModel(base_url, model_id, options or ServerOptions())


def _parse(source: str) -> tuple[str, str]:
    """Base URL and model id. Error messages show no part of an address that may be a secret."""
    address, _, model_id = source.removeprefix(PREFIX).partition("#")
    try:
        parts = urlsplit(address)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise InputError(f"the address of the server cannot be read; write {_FORM}") from None
    if "@" in parts.netloc or parts.query:
        raise InputError(
            "the address of a server must hold no user, password or query, which may be secrets; "
            "put the key into an environment variable: OPENAI_API_KEY, or name it by --api-key-env"
        )
    if parts.scheme not in ("http", "https") or not host or re.search(r"\s", address):
        raise InputError(f"a server is named by {_FORM}; got {source!r}")
    if not model_id.strip():
        raise InputError(f"{source!r} names no model; write {_FORM}")
    return address.rstrip("/"), model_id.strip()


class ServerModel:
    """A chat model behind a server; several threads may use it at the same time.

    Args:
        base_url: without the ending ``/chat/completions``.
        model_id: the server's name for the model.
        options: how requests are sent.

    Attributes:
        name: the model id.
        revision: always ``"as served"``, since only the server knows it.
        options: as given.
        settings: everything that the content of requests depends on, for the manifest; `record`
            says how requests were changed for a server that refuses some of it.

    Raises:
        InputError: as `open_server`.
        ModelError: as `open_server`.
        MissingDependencyError: as `open_server`.
    """

    def __init__(self, base_url: str, model_id: str, options: ServerOptions) -> None:
        self.name = model_id
        self.revision = "as served"
        self.options = options
        self.settings: dict[str, Any] = {
            "base_url": base_url,
            **options.frames.settings(),
            "max_tokens": options.max_tokens,
            "temperature": 0,
        }
        self._counter: TokenCounter | None = None
        if options.tokenizer is not None:
            from vniah.models.tokenizers import open_counter

            self._counter = open_counter(options.tokenizer)
            self.settings |= {
                "tokenizer": self._counter.name,
                "tokenizer_sha256": self._counter.sha256,
            }
        self._key = ApiKey.read(options.key_variable)
        if self._key.is_long and self.key_is_in(f"{base_url} {model_id}"):
            raise InputError(
                f"the address of the server or the name of the model holds a part of the key in "
                f"{self._key.variable}, and both are written into files; use another key or address"
            )
        self._connection = Connection(base_url, self._key, timeout_seconds=options.timeout_seconds)
        self._parser = ResponseParser(base_url, self._connection.address, model_id, self._key)
        self._budget = _Budget(options.max_requests)
        self._responds = False
        self._has_answered = False
        self._wording = Wording.first(options.max_tokens)
        self._rewording = threading.Lock()

    def __repr__(self) -> str:
        return f"<ServerModel {self.name} at {self.settings['base_url']}>"

    def answer(self, frames: "Sequence[np.ndarray]", question: str) -> str:
        """The model's answer, as in `vniah.protocol.ChatModel`."""
        return self.ask([self.encode_picture(frame) for frame in frames], question).text

    def encode_picture(self, frame: "np.ndarray") -> str:
        """A frame, RGB uint8 ``[height, width, 3]``, as text for `ask`."""
        return self.options.frames.encode(frame)

    def prepared_frames(self, frames: "Sequence[np.ndarray]") -> "list[np.ndarray]":
        """The frames as they are sent, RGB uint8 ``[height, width, 3]`` each."""
        return [self.options.frames.prepare(frame) for frame in frames]

    @property
    def tokenizer_name(self) -> str:
        """The name of the tokenizer that counts; empty if there is none."""
        return "" if self._counter is None else self._counter.name

    def token_ends(self, text: str) -> Sequence[int]:
        """For every token of a text, where it ends, by the tokenizer of `ServerOptions`.

        Raises:
            InputError: none was given.
        """
        if self._counter is None:
            raise InputError(
                f"the length of a text counts in tokens, and the tokenizer of {self.name} is not "
                "known here: give --tokenizer, a folder or a hub id with its tokenizer.json"
            )
        return self._counter.token_ends(text)

    def ask(
        self, frames: Sequence[str], question: str, *, stopped: threading.Event | None = None
    ) -> Reply:
        """The answer to a question about frames; requests without an answer are sent again.

        Args:
            frames: each as `encode_picture` gave it, in order.
            question: verbatim.
            stopped: once it is set, nothing more is sent, and waiting ends.

        Raises:
            ModelError: this question cannot be answered.
            ServerError: no question can be answered.
            RequestLimitError: the largest allowed number of requests was sent.
        """
        stopped = stopped or threading.Event()
        content = self.options.frames.content(frames, question)
        tries = itertools.count()
        while not stopped.is_set():
            self._budget.take()
            wording = self._wording
            started = time.perf_counter()
            seconds: float | None = 0.0
            error: VniahError | None = None
            try:
                return self._ask_once(content, wording)
            except Refused as refusal:
                if not self._reword(wording, refusal):
                    error = refusal.error
            except TryAgain as failure:
                seconds = self._wait_seconds(next(tries), failure)
                if seconds is None:
                    error = failure.error
                elif time.perf_counter() - started + seconds >= _WORTH_SAYING_SECONDS:
                    _LOG.info(f"{failure.error}; trying again in {seconds:.0f} s")
            if error is not None:
                raise error  # not above, where its context holds what the server sent
            stopped.wait(seconds)
        raise ServerError("stopped")

    def record(self) -> Mapping[str, Any]:
        """How requests are sent besides `settings`, for the manifest; after the first answer."""
        return {
            "concurrency": self.options.concurrency,
            "request": dict(self._wording.fields),
            "httpx2": importlib.metadata.version("httpx2"),
        }

    def notes(self) -> list[str]:
        """What the server refused of a request, and what that means; after the first answer."""
        return self._wording.notes()

    def key_is_in(self, text: str) -> bool:
        """True if a text holds a part of the key, which would be hidden in an answer."""
        return self._key.hide_in_answer(text) != text

    def _ask_once(self, content: list[dict[str, Any]], wording: Wording) -> Reply:
        request = {
            "model": self.name,
            "messages": [{"role": "user", "content": content}],
            **wording.fields,
            **self.options.frames.extra_body,
        }
        started = time.perf_counter()
        response = self._connection.post(to_json(request))
        if isinstance(response, NoResponse):
            raise self._parser.no_response(response)
        self._responds = True
        reply = self._parser.read(response, time.perf_counter() - started)
        self._has_answered = True
        return reply

    def _wait_seconds(self, num_tries: int, failure: TryAgain) -> float | None:
        """How long to wait before the next try; None if there shall be none.

        A server that has never answered anything is most likely not running: it is not retried.
        """
        is_missing = isinstance(failure.error, ServerError) and not self._responds
        if num_tries >= self.options.num_retries or is_missing:
            return None
        if failure.retry_after_seconds is not None:
            wanted = failure.retry_after_seconds
            return wanted if wanted <= _LONGEST_WAIT_SECONDS else None
        seconds = min(
            self.options.backoff_seconds * 2.0 ** min(num_tries, 100), _LONGEST_BACKOFF_SECONDS
        )
        # Threads that failed together do not retry together.
        return seconds * random.uniform(0.75, 1.25)

    def _reword(self, wording: Wording, refusal: Refused) -> bool:
        """True if a request that was refused may be accepted in the words of `_wording`.

        Args:
            wording: of the refused request; another thread may have changed it since.
            refusal: what the server said.
        """
        with self._rewording:
            if self._wording is not wording:
                return True
            other = wording.reworded(refusal.text, refusal.fields)
            # All answers of a run are given at one temperature.
            if other is None or (self._has_answered and other.temperature != wording.temperature):
                return False
            self._wording = other
            return True


class _Budget:
    """Counts the requests of all threads."""

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._num_sent = 0
        self._lock = threading.Lock()

    def take(self) -> None:
        """Allows one more request.

        Raises:
            RequestLimitError: no request is left.
        """
        with self._lock:
            if self._limit is not None and self._num_sent >= self._limit:
                raise RequestLimitError(
                    f"{self._limit} requests were sent, as many as --max-requests allows; what was "
                    "measured is kept, and the same command goes on, counting from 0"
                )
            self._num_sent += 1
