"""Reads the responses of a server: a reply, a failure to be retried, or one of two errors.

a text                                                   `Reply`
no response, 408, 409, 429, 5xx, a reply without text    `TryAgain`: sent again after a while
400, 422                                                 `Refused`: perhaps sent in other words
413 and the like, no text within the limit               `ModelError`: this question fails
3xx, 401, 403, 404, no money left                        `ServerError`: the run stops

Some servers send an error with HTTP 200; then its code counts as the status. Nothing that is
raised here shows the key, and all of it is one line of printable characters.
"""

import email.utils
import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypedDict, cast
from urllib.parse import urljoin, urlsplit

import msgspec

from vniah.errors import ModelError, ServerError, VniahError, printable
from vniah.files import to_json
from vniah.models.server.api_keys import ApiKey
from vniah.models.server.complaints import (
    Complaint,
    any_json,
    plain_text,
    read_complaint,
    status_of,
)
from vniah.models.server.connection import NoResponse, Response
from vniah.schema import parse_json, require_type

_MAX_TEXT = 300
_TRANSIENT = (408, 409, 429)
_REWORDABLE = (400, 422)
_NO_MONEY = re.compile(r"insufficient_quota|billing|credit", re.IGNORECASE)
_PATH = "/chat/completions"

# What servers call an answer that had reached the largest number of tokens.
_CUT = ("length", "max_tokens", "model_length")

_TEXT_PARTS = ("text", "output_text")  # others hold what a model thought, or pictures

# Numbers that are not read may be larger than 64 bits with a sign hold, such as seeds.
_INT_BOUND = 10**31

_Tokens = Annotated[int, msgspec.Meta(ge=0, le=10**9)]


class _Usage(TypedDict, total=False):
    prompt_tokens: _Tokens | None


class _Message(TypedDict, total=False):
    content: str | list[dict[str, Any]] | None
    refusal: Any
    tool_calls: Any
    reasoning: Any
    reasoning_content: Any


class _Choice(TypedDict, total=False):
    message: _Message | None
    text: str | None  # of the older API
    finish_reason: Any
    error: Any


class _Body(TypedDict, total=False):
    choices: list[_Choice] | None
    usage: _Usage | None
    error: Any


@dataclass(frozen=True)
class Reply:
    """A server's answer.

    Attributes:
        text: the text that the model wrote.
        prompt_tokens: how many tokens the server read, if it says so.
        seconds: from the request to the answer.
        is_cut: True if the answer was not at its end when the largest number of tokens was reached.
    """

    text: str
    prompt_tokens: int | None = None
    seconds: float = 0.0
    is_cut: bool = False


class TryAgain(Exception):
    """The request failed, but may succeed if it is sent again.

    Args:
        error: what to raise if it is not sent again.
        retry_after_seconds: how long to wait before, if the server says so.
    """

    def __init__(self, error: VniahError, retry_after_seconds: float | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.retry_after_seconds = retry_after_seconds


class Refused(Exception):
    """The server rejected the request (HTTP 400 or 422).

    Args:
        error: what to raise if the request cannot be changed.
        text: the server's reason.
        fields: names of the fields that the server complains of, if it lists them.
    """

    def __init__(self, error: ModelError, text: str, fields: tuple[str, ...]) -> None:
        super().__init__(str(error))
        self.error = error
        self.text = text
        self.fields = fields


@dataclass(frozen=True)
class ResponseParser:
    """Turns the responses of a server into replies and exceptions, none of which shows the key.

    Attributes:
        base_url: of the server.
        address: the same, as messages name it.
        model_id: the model that requests name.
        key: the key that requests carry; it is hidden in all texts.
    """

    base_url: str
    address: str
    model_id: str
    key: ApiKey

    def no_response(self, failure: NoResponse) -> Exception:
        """The exception to raise for a request without a response."""
        reason = self._line(str(failure))
        if not failure.is_connected:
            hint = "SSL_CERT_FILE names more" if "CERTIFICATE" in reason else "Does the server run?"
            return TryAgain(ServerError(f"cannot connect to {self.address}: {reason}. {hint}"))
        error = ModelError(f"{self.address}: {reason}")
        return TryAgain(error) if failure.may_pass else error

    def read(self, response: Response, seconds: float) -> Reply:
        """The answer in a response.

        Args:
            response: of any status.
            seconds: how long it took.

        Raises:
            TryAgain: it is none, but the next one may be.
            Refused: the server wants another request.
            ModelError: it is none, and a further request would not help.
            ServerError: the server answers no request.
        """
        status = response.status
        if 300 <= status < 400:
            raise self._redirected(response)
        if not 200 <= status < 300:
            complaint = read_complaint(any_json(response.body))
            raise self._failed(status, f"HTTP {status}", complaint, response)
        if response.body.lstrip().startswith((b"data:", b"event:")):
            raise ModelError(f"{self.address} sent a stream of events, which nobody asked for")
        body = self._parse(response.body)
        choices = body.get("choices") or []
        error = body.get("error") or (choices[0].get("error") if choices else None)
        if not choices and not error and body.keys() & {"message", "detail", "msg"}:
            error = body
        if error:
            complaint = read_complaint(error)
            where = f"HTTP {status} with an error ({complaint.code or 'without a code'})"
            raise self._failed(status_of(complaint.code), where, complaint, response)
        if not choices:
            raise self._no_text(f"gave no choices: {to_json(body).decode()}")
        tokens = (body.get("usage") or {}).get("prompt_tokens")
        is_cut = str(choices[0].get("finish_reason")).lower() in _CUT
        return Reply(self._text(choices[0]), tokens or None, seconds, is_cut)

    def _parse(self, body: bytes) -> _Body:
        try:
            content = parse_json(
                body, cast("type[Any]", Any), ValueError, "the answer", int_bound=_INT_BOUND
            )
        except ValueError as error:
            is_json = body.lstrip()[:1] in (b"{", b"[")
            what = str(error) if is_json else f"the answer is no JSON: {plain_text(body)!r}"
            raise self._no_text(f"cannot be understood: {what}") from None
        # The key is hidden before a message cuts a text, and shows half of it.
        content = self.key.hide_in_json(content)
        try:
            return require_type(content, _Body, ValueError, "the answer")
        except ValueError as error:
            raise self._no_text(f"cannot be understood: {error}") from None

    def _text(self, choice: _Choice) -> str:
        """What the model wrote for the user; what it thought before is no part of it."""
        message, finish = choice.get("message") or {}, choice.get("finish_reason")
        content = message.get("content")
        if content is None and "message" not in choice:
            content = choice.get("text")
        if isinstance(content, list):
            parts = [part.get("text") for part in content if part.get("type") in _TEXT_PARTS]
            texts = [part for part in parts if isinstance(part, str)]
            content = "".join(texts) if texts else None
        if finish == "content_filter":
            raise ModelError(f"{self.address} held the answer back: content_filter")
        if finish in ("error", "abort"):
            raise self._no_text(f"broke off the answer: finish_reason is {finish}")
        if content:
            return content
        if str(finish).lower() in _CUT:
            raise ModelError(
                f"{self.model_id} used up its tokens before its first word; raise --max-tokens"
            )
        if isinstance(refusal := message.get("refusal"), str) and refusal:
            raise ModelError(f"{self.model_id} refuses to answer: {self._line(refusal)}")
        if message.get("tool_calls"):
            raise ModelError(f"{self.model_id} calls a tool instead of answering")
        if content is not None:  # the model ended at once: an answer, and a wrong one
            return content
        thought = message.get("reasoning_content") or message.get("reasoning")
        raise self._no_text("gave a reasoning without an answer" if thought else "gave no text")

    def _failed(
        self, status: int, where: str, complaint: Complaint, response: Response
    ) -> Exception:
        text = self._line(complaint.text)
        if status == 401:  # what servers say here often shows a part of the key
            return ServerError(
                f"{self.address} refuses the key in {self.key.variable} (HTTP 401)"
                if self.key.is_set
                else f"{self.address} wants a key (HTTP 401): set {self.key.variable}"
            )
        if status == 403:
            return ServerError(f"{self.address} refuses to answer (HTTP 403): {text}")
        if status == 404:
            return ServerError(
                f"{self.address} has no model {self.model_id!r}, or is not the address of an "
                f"API (HTTP 404): {text}"
            )
        if status == 402 or (status == 429 and _NO_MONEY.search(complaint.code)):
            return ServerError(f"{self.address} answers no more (HTTP {status}): {text}")
        failed = ModelError(f"{self._line(where)} from {self.address}: {text}")
        if status in _TRANSIENT or status >= 500:
            return TryAgain(failed, _retry_after(response.headers))
        if status in _REWORDABLE:
            return Refused(failed, complaint.text, complaint.fields)
        return failed

    def _redirected(self, response: Response) -> ServerError:
        """Frames and key are sent nowhere but to the address that was given."""
        place = response.headers.get("location", "")
        try:
            # Without user, password and query, which may be secrets.
            parts = urlsplit(urljoin(self.base_url + _PATH, place))
            target = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        except ValueError:
            target = ""
        there = self._line(target.removesuffix(_PATH)) if place and target else "no address"
        return ServerError(
            f"{self.address} redirects to {there} (HTTP {response.status}), which is not followed; "
            "if that is your server, give its address by --model"
        )

    def _no_text(self, what: str) -> TryAgain:
        return TryAgain(ModelError(f"{self.address} {self._line(what)}"))

    def _line(self, text: str) -> str:
        """The text in one printable line of bounded length; the key is hidden before it is cut."""
        line = printable(" ".join(self.key.hide(text[: 100 * _MAX_TEXT]).split()))
        return line if len(line) <= _MAX_TEXT else f"{line[:_MAX_TEXT]}..."


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, from the header ``retry-after``: a number, or a date."""
    text = headers.get("retry-after")
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(text).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None
