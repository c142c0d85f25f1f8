"""The form of a text in which two texts are compared.

Two characters are the same if Unicode says that they are one character, or one character drawn in
another way: composed and decomposed letters, full-width and half-width forms, ligatures, styled
letters, no-break spaces. Superscripts, subscripts, fractions and circled numbers keep their
meaning: ``10²`` is not ``102``. Curly quotes inside of words are straight ones, and hyphens,
en dashes and minus signs are one sign.

Characters that nobody sees are removed: control characters, and those that Unicode calls default
ignorable (zero-width space, joiners, byte order mark, soft hyphen, marks of writing direction,
variation selectors, tags). Joiners between emoji, and tags that make a flag, are seen and stay.
"""

import re
import unicodedata

_AROUND_WORDS = ".,;:!?…'\"`*_()[]{}“”‘’„‚«»‹›¿¡。、，：；！？（）「」『』【】《》〈〉"

# Characters that are never part of a spelling: white space is, joiners in Persian or Hindi are.
_NEVER_MEANT = (
    "\u0000-\u0008\u000e-\u001b\u007f-\u0084\u0086-\u009f\u00ad\u061c\u200b\u200e\u200f"
    "\u202a-\u202e\u2060-\u206f\ufeff\ufff0-\ufffb"
)
_SOMETIMES_MEANT = (
    "\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200c\u200d\u2800\u3164\ufe00-\ufe0f\uffa0"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
_EMOJI = "\u2190-\u2bff\U0001f000-\U0001faff"
_FLAG = "\U0001f3f4[\U000e0020-\U000e007e]+\U000e007f"
_JOINED = f"(?<=[{_EMOJI}\ufe0f])\u200d(?=[{_EMOJI}])"
_INVISIBLE = re.compile(f"({_FLAG}|{_JOINED})|[{_NEVER_MEANT}{_SOMETIMES_MEANT}]")
_UNWANTED = re.compile(f"[{_NEVER_MEANT}]")
_AT_ENDS = re.compile(
    rf"\A[\s{_NEVER_MEANT}{_SOMETIMES_MEANT}]+|(?<![\s{_NEVER_MEANT}])[\s{_NEVER_MEANT}]+\Z"
)

_DRAWN_OTHERWISE = (
    "<font>",
    "<noBreak>",
    "<initial>",
    "<medial>",
    "<final>",
    "<isolated>",
    "<vertical>",
    "<wide>",
    "<narrow>",
    "<small>",
    "<square>",
    "<compat>",
)


class _Forms(dict[int, str]):
    """For `str.translate`: how a character is written plainly; filled when one is first met."""

    def __missing__(self, code: int) -> str:
        kind, _, parts = unicodedata.decomposition(chr(code)).partition(" ")
        found = chr(code)
        # A space before a mark would split a word; these are accents that stand alone.
        if kind in _DRAWN_OTHERWISE and not parts.startswith("0020 "):
            found = "".join(self[int(part, 16)] for part in parts.split())
        self[code] = found
        return found


_FORMS = _Forms(
    {
        **dict.fromkeys(map(ord, "‘’ʼ´"), "'"),
        **dict.fromkeys(map(ord, "“”"), '"'),
        **dict.fromkeys(map(ord, "\u2010\u2011\u2012\u2013\u2212"), "-"),
    }
)


def visible(text: str) -> str:
    r"""A text without the characters that nobody sees, each other character in its plain form.

    >>> visible("\ufeff７\u200b ﬁsh")
    '7 fish'
    """
    seen = _INVISIBLE.sub(lambda match: match[1] or "", text)
    return seen if seen.isascii() else unicodedata.normalize("NFC", seen.translate(_FORMS))


def strip_invisible(text: str) -> str:
    r"""A text as it is scored token by token: without what cannot be meant.

    White space and invisible characters at its ends are removed, and inside of it those that belong
    to no spelling (byte order marks, soft hyphens, zero-width spaces, marks of direction). Others,
    such as the joiners of Persian and Hindi, stay.

    >>> strip_invisible(" 7\ufeff0\u00a0")
    '70'
    """
    return _AT_ENDS.sub("", _UNWANTED.sub("", text))


def normalize(text: str) -> str:
    """A text without what does not count, by the rules of `vniah.answers`.

    >>> normalize(" The RED card. ")
    'red card'
    """
    return fold(text, drops_articles=True)


def fold(text: str, *, drops_articles: bool) -> str:
    """Small letters, single spaces, no punctuation around words; the text itself if no word is.

    Args:
        text: any text.
        drops_articles: leaves out *a*, *an* and *the* before another word.
    """
    written = visible(text).split()
    last = max((index for index, word in enumerate(written) if _bare(word)), default=-1)
    words = []
    for index, word in enumerate(written):
        is_article = word == "a" or word.casefold() in ("an", "the")
        if drops_articles and is_article and index < last:
            continue
        words.append(_bare(word.casefold()))
    folded = " ".join(filter(None, words)) or " ".join(written).casefold()
    return unicodedata.normalize("NFC", folded)


def _bare(word: str) -> str:
    """A word without punctuation around it; a point before a digit stays: ``.5``."""
    bare = word.strip(_AROUND_WORDS)
    before = word[: word.find(bare)] if bare else ""
    return f".{bare}" if before.endswith(".") and bare[0].isdigit() else bare
