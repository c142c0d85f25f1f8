"""Text haystacks: the text in which a needle of text is hidden, and its length in a model's tokens.

A text haystack is a folder of .txt files, a file, a column of a data set, prose that is generated
from a seed, or the language reference that comes with CPython. Where a sentence ends is found in
the text, never in the tokens of one tokenizer. How long the text is depends on the tokenizer, so a
haystack is read by a model before a task makes samples of it.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from math import floor
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from vniah.errors import HaystackTooShortError, InputError, counted
from vniah.files import hash_text
from vniah.haystacks.dataset_rows import is_dataset
from vniah.haystacks.frames import Frame
from vniah.haystacks.paths import explained
from vniah.haystacks.prose import GENERATOR, write_prose
from vniah.haystacks.text_datasets import parse_column, read_dataset, require_dataset
from vniah.haystacks.text_files import read_text, text_files
from vniah.paths import user_path

PYDOC = "pydoc"
"""The name of CPython's language reference, which Python holds for its help()."""

# What is read and searched beyond what is needed, so that a cut changes neither tokens nor the ends
# of sentences before it: samples are the same whatever else a grid holds.
_MARGIN = 256
_CHARACTERS_PER_TOKEN = 12  # more than any tokenizer has on average in English prose

# A full stop, question mark or exclamation mark with the closing quotes and brackets behind it,
# before white space and the beginning of another sentence; or one of a script without such space.
_END = re.compile(
    r"[.!?]+[\"'\u201d\u2019)\]]*(?=\s+[\"'\u201c\u2018(\[]*[^\W_a-z])"
    r"|[\u3002\uff01\uff1f]+[\u300d\u300f\u201d\u2019]*"
)
_ABBREVIATION = re.compile(
    r"(?:^|[\s(\[\"'])(?:[A-Z]|Mr|Mrs|Ms|Dr|Prof|St|No|vs|cf|e\.g|i\.e|etc|approx)\.$"
)
_LONGEST_ABBREVIATION = 8


@runtime_checkable
class CountsTokens(Protocol):
    """What a text needs of a model: `vniah.protocol.LanguageModel` has it."""

    name: str

    def token_ends(self, text: str) -> Sequence[int]:
        """For every token of a text, the number of characters up to its end."""


@dataclass(frozen=True)
class TextHaystack:
    """A text, before any model has read it. Made by `open_text`.

    Attributes:
        name: shown to people and used in file names.
        kind: ``"prose"`` is generated, ``"text"`` is read from files, ``"pydoc"`` CPython's.
        sha256: of generated prose, of its recipe; else of the whole text.
        body: the text.
    """

    name: str
    kind: Literal["prose", "text", "pydoc"]
    sha256: str
    body: str = field(repr=False)

    def identity(self) -> dict[str, str]:
        """All that decides the text; the length of generated prose is not part of it."""
        return {"kind": self.kind, "sha256": self.sha256}

    def frames(
        self,
        *,
        start: int = 0,
        stop: int | None = None,
        on_damage: Callable[[str], None] | None = None,
    ) -> Iterator[Frame]:
        """There are none.

        Raises:
            InputError: always.
        """
        raise InputError(
            f"the haystack {self.name} is text, and the task shows frames; give a video, or "
            "measure a task of text, --task niah"
        )

    def read_by(self, model: CountsTokens, num_tokens: int) -> "TokenText":
        """The text with its length in the tokens of a model.

        Args:
            model: has the tokenizer.
            num_tokens: the most tokens that are needed. A long text is read only so far.
        """
        length = num_tokens
        while True:
            length = min(2 * length, len(self.body))
            ends = _ends_in_text(model.token_ends(self.body[:length]))
            if len(ends) >= num_tokens + _MARGIN or length == len(self.body):
                break
        return TokenText(self, model, ends[:num_tokens])


@dataclass(frozen=True)
class TokenText:
    """A text haystack as a model reads it.

    Attributes:
        haystack: the text.
        model: has the tokenizer.
        ends: for every token of the text, the number of characters up to its end, ascending; those
            of one character are equal.
    """

    haystack: TextHaystack
    model: CountsTokens = field(repr=False)
    ends: tuple[int, ...] = field(repr=False)

    @property
    def name(self) -> str:
        """As `TextHaystack.name`."""
        return self.haystack.name

    @property
    def body(self) -> str:
        """The whole text."""
        return self.haystack.body

    def identity(self) -> dict[str, str]:
        """As `TextHaystack.identity`."""
        return self.haystack.identity()

    def frames(
        self,
        *,
        start: int = 0,
        stop: int | None = None,
        on_damage: Callable[[str], None] | None = None,
    ) -> Iterator[Frame]:
        """As `TextHaystack.frames`: there are none."""
        return self.haystack.frames(start=start, stop=stop, on_damage=on_damage)

    def count(self, text: str) -> int:
        """The number of tokens of any text, as the model reads it at the beginning of a prompt."""
        return len(self.model.token_ends(text))

    def characters(self, num_tokens: int) -> int:
        """The number of characters of the first tokens.

        Raises:
            HaystackTooShortError: the text has fewer tokens.
        """
        if num_tokens > len(self.ends):
            raise HaystackTooShortError(
                f"the text {self.name} has {counted(len(self.ends), 'token')} as {self.model.name} "
                f"reads it, and {num_tokens:,} are needed. Ask for fewer tokens, or give a longer "
                "text: it is never looped."
            )
        return self.ends[num_tokens - 1] if num_tokens > 0 else 0

    def tokens_before(self, character: int) -> int:
        """The number of whole tokens among the first characters."""
        return bisect_right(self.ends, character)

    def sentence_end(self, num_tokens: int, depth: Fraction) -> int:
        """The last end of a sentence within a share of the first tokens, in characters.

        Args:
            num_tokens: tokens of the text.
            depth: the share of them, in [0, 1].

        Returns:
            0, which is where the first sentence begins, if none ends before.
        """
        limit = self.characters(floor(depth * num_tokens))
        place = bisect_right(self._sentence_ends, limit)
        return self._sentence_ends[place - 1] if place else 0

    def sentence_end_before(self, character: int) -> int:
        """The last end of a sentence before a character, or 0."""
        place = bisect_left(self._sentence_ends, character)
        return self._sentence_ends[place - 1] if place else 0

    @cached_property
    def _sentence_ends(self) -> tuple[int, ...]:
        if not self.ends:
            return ()
        last = self.ends[-1]
        found = find_sentence_ends(self.body[: last + _MARGIN])
        return found[: bisect_right(found, last)]


@dataclass(frozen=True)
class UnreadText(TokenText):
    """A text of which nothing is known, not even that it is long enough.

    For whoever needs what the samples of a task of text ask and accept, as to judge answers anew.
    These samples show no haystack, and nothing is measured of them.
    """

    @classmethod
    def named(cls, name: str) -> "UnreadText":
        """In place of the text with that name."""
        return cls(TextHaystack(name, "text", "", ""), _Nobody(name), ())


@dataclass
class _Nobody:
    """In place of a model that reads a text."""

    name: str

    def token_ends(self, text: str) -> Sequence[int]:
        raise AssertionError(f"nobody has read {self.name}")


def find_sentence_ends(text: str) -> tuple[int, ...]:
    """Where sentences end: the number of characters up to each end, without white space behind it.

    >>> find_sentence_ends("It rained. Dr. Roe left (at once!) Then")
    (10, 34)
    """
    found = []
    for match in _END.finditer(text):
        before = text[max(0, match.end() - _LONGEST_ABBREVIATION) : match.end()]
        if not _ABBREVIATION.search(before):
            found.append(match.end())
    return tuple(found)


def open_text(source: str | Path | None = None, *, num_tokens: int, seed: int = 0) -> TextHaystack:
    """A text haystack.

    Args:
        source: a folder of .txt files, or a file, as `vniah.haystacks.text_files.read_text`;
            ``"datasets:NAME#SPLIT.COLUMN"`` for a column of a data set, of the hub or in a folder
            (`vniah.haystacks.text_datasets`); ``"pydoc"``, for the language reference that comes
            with CPython; None for prose that is generated.
        num_tokens: so many tokens are needed; prose is generated as far.
        seed: another seed gives other prose.

    Raises:
        HaystackError: there is no such text, or it cannot be read.
        InputError: the path cannot be one.
    """
    if source is None:
        body = write_prose(num_tokens * _CHARACTERS_PER_TOKEN, seed=seed)
        recipe = f"{GENERATOR} seed {seed}"
        return TextHaystack(f"{GENERATOR}-seed{seed}", "prose", hash_text(recipe), body)
    if str(source) == PYDOC:
        from pydoc_data.topics import topics

        body = " ".join(re.sub(r"\s+", " ", text).strip() for _, text in sorted(topics.items()))
        return TextHaystack(PYDOC, "pydoc", hash_text(body), body)
    if is_dataset(str(source)):
        column = parse_column(str(source))
        body = read_dataset(column)
        return TextHaystack(column.name, "text", hash_text(body), body)
    path = user_path(source, "a haystack")
    with explained("read", path):
        body = read_text(path)
    return TextHaystack(path.resolve().name or "text", "text", hash_text(body), body)


def require_text(source: str | Path) -> None:
    """Requires what `open_text` does, without reading a text; of a data set the first row.

    Args:
        source: as `open_text`.

    Raises:
        HaystackError: there is no such folder or file, or no text in the folder.
        InputError: the path cannot be one.
    """
    if is_dataset(str(source)):
        require_dataset(parse_column(str(source)))
    elif str(source) != PYDOC:
        path = user_path(source, "a haystack")
        with explained("read", path):
            text_files(path)


def _ends_in_text(ends: Sequence[int]) -> tuple[int, ...]:
    """The ends of the tokens that are of the text itself, ascending.

    Several tokens may be of one character, as of those that take several bytes, and end alike.
    """
    return tuple(sorted(end for end in ends if end > 0))
