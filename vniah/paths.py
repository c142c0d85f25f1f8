"""Paths that a user names: on the command line, or as arguments of public functions."""

import os
from pathlib import Path

from vniah.errors import InputError, quoted

_MOST_IN_A_PATH = 4096  # characters; Linux takes as many bytes
_MOST_IN_A_NAME = 255  # bytes
_PICTURES = (".png", ".pdf", ".svg")
_PAGES = (".html", ".htm")


def user_path(given: str | Path, what: str = "a path") -> Path:
    """The path that a user named; a tilde at its beginning is a user's folder.

    An empty text, such as that of a shell variable that is not set, would be the working folder:
    it is refused. `pathlib.Path("")` cannot be told from ``Path(".")``, so texts should be given to
    this function as they are.

    Args:
        given: what the user wrote.
        what: names it in errors, e.g. ``"a haystack"``.

    Raises:
        InputError: it is empty, names an unknown user, or can be no path.
    """
    text = str(given)
    if not text.strip():
        raise InputError(
            f"{what} must not be empty, got {text[:20]!r} (a shell variable that is not set?)"
        )
    shown = quoted(text, 60)
    if len(text) > _MOST_IN_A_PATH:
        raise InputError(f"{what} of {len(text):,} characters is too long for a path: {shown}")
    try:
        path = Path(text).expanduser()
        longest = max(map(len, map(os.fsencode, path.parts)), default=0)
    except RuntimeError as error:
        raise InputError(
            f"{what} begins with the folder of a user who is not known here: {shown}"
        ) from error
    except UnicodeEncodeError as error:
        raise InputError(f"{what} has characters that no file name can have: {shown}") from error
    if "\0" in text:
        raise InputError(f"{what} holds a zero byte, which no file name can have: {shown}")
    if longest > _MOST_IN_A_NAME:
        raise InputError(
            f"{what} holds a name of {longest:,} bytes; {_MOST_IN_A_NAME} are possible: {shown}"
        )
    return path


def picture_path(given: str | Path) -> Path:
    """The path of a picture that can be written.

    Raises:
        InputError: it can be no path, or its suffix is of no format of pictures.
    """
    path = user_path(given, "a picture")
    if path.suffix.lower() not in _PICTURES:
        raise InputError(
            f"a picture cannot be saved as {path.name!r}: use one of {', '.join(_PICTURES)}"
        )
    return path


def page_path(given: str | Path) -> Path:
    """The path of a page that can be written.

    Raises:
        InputError: it can be no path, or its suffix is not that of a page.
    """
    path = user_path(given, "a page")
    if path.suffix.lower() not in _PAGES:
        raise InputError(f"a page cannot be saved as {path.name!r}: use .html")
    return path
