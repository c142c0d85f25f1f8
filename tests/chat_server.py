"""A server of the chat API on this machine that really looks at the frames, or misbehaves.

Frame k of `write_haystack` is a flat grey that says k; needles are flat colours. The server decodes
every picture it is sent and names the first colour that it sees. What it saw is in `requests`.
"""

import base64
import io
import json
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

COLOURS = {"red": (220, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 220)}
MODEL = "tiny/Looker"
_LOST = "more requests than any test needs"


def write_haystack(folder: Path, num_frames: int) -> Path:
    """Flat greys of 16 x 16 pixels, each a step of 4 lighter than the one before."""
    folder.mkdir()
    assert num_frames <= 50
    for k in range(num_frames):
        Image.new("RGB", (16, 16), (40 + 4 * k,) * 3).save(folder / f"{k:02d}.png")
    return folder


def write_needles(folder: Path) -> Path:
    """A flat colour each, of another shape than the frames."""
    folder.mkdir()
    rows = []
    for name, colour in COLOURS.items():
        Image.new("RGB", (24, 12), colour).save(folder / f"{name}.png")
        question = f"Which colour has the card of {name}?"
        row = {"file_name": f"{name}.png", "needle_id": name, "question": question, "answer": name}
        rows.append(json.dumps(row) + "\n")
    (folder / "metadata.jsonl").write_text("".join(rows))
    return folder


@dataclass(frozen=True)
class Request:
    """What came in.

    Attributes:
        number: of this request, from 0.
        labels: what each picture shows: a colour, or the number of the frame.
        sizes: (width, height) of each.
        question: the text part.
        body: all of it.
        headers: with lower-case names.
    """

    number: int
    labels: tuple[str | int, ...]
    sizes: tuple[tuple[int, int], ...]
    question: str
    body: dict[str, Any]
    headers: dict[str, str]

    @property
    def num_frames(self) -> int:
        """Haystack frames."""
        return len(self.labels) - 1


@dataclass(frozen=True)
class Fault:
    """Something else than an answer: a status with a body, or the connection closed."""

    status: int = 200
    body: str = '{"error": {"message": "no"}}'
    headers: dict[str, str] = field(default_factory=dict)
    closes: bool = False


def answer(words: str | None, prompt_tokens: int | None, finish: str = "stop") -> str:
    """The body of a good response; without usage where no number is given."""
    message = {"role": "assistant", "content": words}
    content: dict[str, Any] = {"choices": [{"message": message, "finish_reason": finish}]}
    if prompt_tokens is not None:
        content["usage"] = {"prompt_tokens": prompt_tokens, "completion_tokens": 1}
    return json.dumps(content)


@dataclass
class ChatServer:
    """What the server does and what it saw.

    Attributes:
        keeps: it reads so many pictures of a request and drops the others without a word.
        tokens: prompt tokens for (pictures read, question); None gives no usage.
        fault: asked before every answer; what it gives is sent instead.
        requests: all that came, in order.
        most_at_once: the most requests that were being answered at the same time.
    """

    keeps: int | None = None
    tokens: Callable[[int, str], int | None] = lambda count, text: 20 + 100 * count + len(text)
    fault: Callable[[Request], Fault | None] = lambda request: None
    requests: list[Request] = field(default_factory=list)
    most_at_once: int = 0
    url: str = ""
    _now: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def model(self) -> str:
        """What --model takes."""
        return f"openai:{self.url}#{MODEL}"

    def respond(self, body: dict[str, Any], headers: dict[str, str]) -> Fault:
        """The response to one request."""
        labels, sizes, question, kept = self._look(body)
        with self._lock:
            request = Request(len(self.requests), labels, sizes, question, body, headers)
            self.requests.append(request)
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        assert request.number < 300, _LOST
        try:
            if (fault := self.fault(request)) is not None:
                return fault
            colours = [label for label in kept if isinstance(label, str)]
            words = f" {colours[0].capitalize()}. " if colours else "I see no card"
            return Fault(body=answer(words, self.tokens(len(kept), question)))
        finally:
            with self._lock:
                self._now -= 1

    def _look(self, body: dict[str, Any]) -> tuple[Any, ...]:
        """Labels and sizes of all pictures, the question, and the labels of those that are read."""
        (message,) = body["messages"]
        *parts, text = message["content"]
        keeps = self.keeps
        if any(part["type"] == "video_url" for part in parts):
            (part,) = parts
            start, _, data = part["video_url"]["url"].partition(",")
            assert start == "data:video/jpeg;base64"
            pictures = [_decode(item) for item in data.split(",")]
            video = body.get("media_io_kwargs", {}).get("video", {})
            keeps = keeps or {-1: None}.get(video.get("num_frames", 32), 32)  # as vLLM does
            np.stack([np.asarray(picture) for picture in pictures])  # needs one size
        else:
            urls = [part["image_url"]["url"].partition(",") for part in parts]
            assert {start for start, _, _ in urls} <= {"data:image/jpeg;base64"}
            pictures = [_decode(data) for _, _, data in urls]
        labels = tuple(_label(picture) for picture in pictures)
        return labels, tuple(picture.size for picture in pictures), text["text"], labels[:keeps]


def _decode(data: str) -> Image.Image:
    picture = Image.open(io.BytesIO(base64.b64decode(data)))
    assert picture.format == "JPEG"
    return picture.convert("RGB")


def _label(picture: Image.Image) -> str | int:
    """By the pixel in the middle."""
    pixel = np.array(picture.getpixel((picture.width // 2, picture.height // 2)), int)
    if np.ptp(pixel) > 100:
        return min(COLOURS, key=lambda name: np.abs(pixel - COLOURS[name]).sum())
    return round((float(pixel.mean()) - 40) / 4)


@contextmanager
def serve(**changes: Any) -> Iterator[ChatServer]:
    """A server on a free port of this machine, as long as the block lasts."""
    chat = ChatServer(**changes)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            assert self.path == "/v1/chat/completions"
            headers = {name.lower(): value for name, value in self.headers.items()}
            response = chat.respond(body, headers)
            if response.closes:
                self.close_connection = True
                return
            data = response.body.encode()
            try:
                self.send_response(response.status)
                for name, value in {"Content-Type": "application/json", **response.headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True  # the client did not wait

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False

    server = Server(("127.0.0.1", 0), Handler)
    chat.url = f"http://127.0.0.1:{server.server_port}/v1"
    with _running(server):
        yield chat


@contextmanager
def _running(server: socketserver.BaseServer) -> Iterator[None]:
    """Runs a server in a thread of its own, and closes it at the end."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@dataclass
class RawServer:
    """A server that sends whatever bytes a test wants.

    Attributes:
        url: the base URL of its API.
        requests: the head of every request, in order.
    """

    url: str = ""
    requests: list[bytes] = field(default_factory=list)

    @property
    def model(self) -> str:
        """What --model takes."""
        return f"openai:{self.url}#{MODEL}"


@contextmanager
def serve_raw(
    respond: Callable[[socket.socket], None], *, host: str = "127.0.0.1", reads_body: bool = True
) -> Iterator[RawServer]:
    """A server that reads a request and calls ``respond`` with the connection, then closes it."""
    server = RawServer()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            head = b"".join(iter(self.rfile.readline, b"\r\n"))
            server.requests.append(head)
            lengths = [line for line in head.splitlines() if line.lower().startswith(b"content-l")]
            if reads_body and lengths:
                self.rfile.read(int(lengths[0].partition(b":")[2]))
            with suppress(OSError):  # the client may not wait
                respond(self.connection)

    class Server(socketserver.ThreadingTCPServer):
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        daemon_threads = True
        block_on_close = False

    listening = Server((host, 0), Handler)
    shown = f"[{host}]" if ":" in host else host
    server.url = f"http://{shown}:{listening.server_address[1]}/v1"
    with _running(listening):
        yield server
