"""Finds a key in a text, however it is written there.

A server may show a key whole, in part, in other letters, spaced, or encoded. So every part of
`PART_LENGTH` characters of the key is written in all these ways, and each is looked for in the
text, of which only letters and digits count.

Eight characters are as much as a reader could use, and so few that no larger part stays. They are
also enough: a random key has some 100 such parts of 41 bits each, so a page of 2,000 letters holds
one by chance once in ten million pages.
"""

import base64
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

PART_LENGTH = 8
"""Length in characters of the parts of a key that are looked for."""

# A part such as "sk-a-b-c" has few letters and digits; fewer than this may be anything.
_LEAST_LETTERS = 6

_MOST_LEVELS = 3
_ESCAPE = re.compile(
    r"%([0-9a-f]{2})|\\+u\{?(?:0000)?([0-9a-f]{4})\}?|\\+x([0-9a-f]{2})|\b0x([0-9a-f]{2})\b"
    r"|&#x0*([0-9a-f]{2,4});"
    r"|=([0-9a-f]{2})|\\+([0-7]{3})|&#0*([0-9]{2,4});",
    re.IGNORECASE,
)
_BASE_OF_GROUP = {7: 8, 8: 10}  # of the others: 16
_PUNCTUATION = re.compile(r"[^\w\s-]+|[xX]{3,}|_{3,}")
_MASK = re.compile(r"[*\u2022\u25cf\u00b7\u2026#]|\.\.|[xX]{3}|_{3}")
_BASES: Sequence[tuple[Callable[[bytes], bytes], int, int]] = (
    (base64.b64encode, 6, 3),
    (base64.b32encode, 5, 5),
)


class KeySearch:
    """Finds one key in texts.

    Args:
        key: at least `PART_LENGTH` characters of ASCII.
    """

    def __init__(self, key: str) -> None:
        assert len(key) >= PART_LENGTH
        self._key = key.lower()
        self._parts: defaultdict[str, set[str]] = defaultdict(set)
        for start in range(len(key) - PART_LENGTH + 1):
            for part in _spellings(key[start : start + PART_LENGTH]):
                letters = "".join(_letters(part))
                if len(letters) >= _LEAST_LETTERS:
                    self._parts[letters[:_LEAST_LETTERS]].add(letters)

    def spans(self, text: str, *, least_shown: int) -> list[tuple[int, int]]:
        """The half-open spans of a text that hold parts of the key, in order, without overlap.

        Args:
            text: any text.
            least_shown: a masked key such as ``sk-pr****789`` is found if it shows as many
                characters of the key's beginning and end.
        """
        found = list(self._masked(text, least_shown))
        characters = [(c, i, i + 1) for i, c in enumerate(text)]
        for _ in range(_MOST_LEVELS):
            found += self._whole_parts(characters)
            decoded = _decode(characters)
            if len(decoded) == len(characters):
                break
            characters = decoded
        return _merge(found)

    def _whole_parts(self, characters: Sequence[tuple[str, int, int]]) -> Iterator[tuple[int, int]]:
        """Spans of parts, of which only letters and digits have to be there.

        Args:
            characters: each with the half-open span that it takes in the text.
        """
        letters = [(letter, start, end) for c, start, end in characters for letter in _letters(c)]
        line = "".join(letter for letter, _, _ in letters)
        for start in range(len(line) - _LEAST_LETTERS + 1):
            for part in self._parts.get(line[start : start + _LEAST_LETTERS], ()):
                if line.startswith(part, start):
                    yield letters[start][1], letters[start + len(part) - 1][2]

    def _masked(self, text: str, least_shown: int) -> Iterator[tuple[int, int]]:
        """Spans of a mask with the key's first or last characters beside it."""
        for run in _PUNCTUATION.finditer(text):
            if not _MASK.search(run[0]):
                continue
            start, end = run.span()
            while start > 0 and run.start() - start < len(self._key) and _is_word(text[start - 1]):
                start -= 1
            while end < len(text) and end - run.end() < len(self._key) and _is_word(text[end]):
                end += 1
            before, after = text[start : run.start()].lower(), text[run.end() : end].lower()
            shown = len(before) * self._key.startswith(before)
            shown += len(after) * self._key.endswith(after)
            if shown >= least_shown:
                yield start, end


def _is_word(character: str) -> bool:
    return character.isalnum() or character in "-_"


def _letters(text: str) -> Iterator[str]:
    """The letters and digits of a text in lower case; all other characters may separate them."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return (c for c in text.lower() if c.isascii() and c.isalnum())


def _spellings(part: str) -> Iterator[str]:
    """A part of a key as it is, backwards, as numbers of its letters, and within encoded text."""
    data = part.encode("ascii")
    yield part
    yield part[::-1]
    yield data.hex()
    yield "".join(map(str, data))
    yield "".join(f"{byte:03o}" for byte in data)
    yield "".join(f"{byte:08b}" for byte in data)
    yield data.decode("ascii").encode("utf-16-le").hex()
    for encode, num_bits, num_shifts in _BASES:
        for shift in range(num_shifts):
            # The first and the last character of an encoded text depend on what stands around.
            first = -(-8 * shift // num_bits)
            last = 8 * (shift + len(data)) // num_bits
            yield encode(b"\0" * shift + data).decode("ascii")[first:last]


def _decode(characters: Sequence[tuple[str, int, int]]) -> list[tuple[str, int, int]]:
    """Characters with one level of escapes taken off: ``%73``, ``0x73``, ``&#115;`` and more."""
    line = "".join(c for c, _, _ in characters)
    decoded: list[tuple[str, int, int]] = []
    done = 0
    for match in _ESCAPE.finditer(line):
        decoded += characters[done : match.start()]
        done = match.end()
        assert match.lastindex is not None
        number = int(match[match.lastindex], _BASE_OF_GROUP.get(match.lastindex, 16))
        decoded.append((chr(number), characters[match.start()][1], characters[done - 1][2]))
    return [*decoded, *characters[done:]]


def _merge(spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    return merged
