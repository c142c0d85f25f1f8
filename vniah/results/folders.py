"""Runs and exports lie in folders of their own, none inside another's."""

import tempfile
from pathlib import Path

from vniah.errors import ResultsError
from vniah.results.manifests import MANIFEST_NAME, PERPLEXITY_NAME
from vniah.results.reading import has_lines

EXPORT_NAME = "export.json"
"""The manifest of an export."""

PLAN_NAME = "plan.jsonl"
"""The samples of an export."""


def require_writable(directory: Path, what: str) -> None:
    """Raises `ResultsError` before hours of work if a folder cannot be made or written to.

    Args:
        directory: need not exist yet.
        what: it is for: ``"a run"``.
    """
    existing = next(path for path in (directory, *directory.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise ResultsError(f"{existing} is a file; the output of {what} must be a folder")
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise ResultsError(
            f"{existing} cannot be written to: {error.strerror}; choose another --output"
        ) from error


def require_no_export(directory: Path, what: str = "a run needs") -> None:
    """Raises `ResultsError` for the folder of an export, and for a new run that would lie in one.

    Args:
        directory: where a run is to be written.
        what: is to be written there, with its verb.
    """
    if (directory / EXPORT_NAME).exists():
        raise ResultsError(
            f"{directory} is the folder of an export, and {what} one of its own; choose "
            "another --output"
        )
    if not (directory / MANIFEST_NAME).exists():
        require_apart(directory, is_run=True)


def require_no_perplexity(directory: Path, what: str = "a run needs") -> None:
    """Raises `ResultsError` for the folder of a result of `vniah.results.perplexity`.

    Args:
        directory: need not exist.
        what: needs another folder, with its verb.
    """
    if (directory / PERPLEXITY_NAME).exists():
        raise ResultsError(
            f"{directory} holds perplexity, and {what} a folder of its own; choose another --output"
        )


def require_apart(directory: Path, *, is_run: bool) -> None:
    """Raises `ResultsError` if a new folder would lie inside another one.

    Args:
        directory: the new folder.
        is_run: whether it is of a run: that may lie beside the pictures of another one.
    """
    for outer in directory.resolve().parents:
        if (outer / EXPORT_NAME).is_file() and (outer / PLAN_NAME).is_file():
            kind = "an export"
        elif not is_run and (outer / MANIFEST_NAME).is_file() and has_lines(outer):
            kind = "a run"
        else:
            continue
        raise ResultsError(
            f"{directory} lies inside {outer}, which is the folder of {kind}; choose another "
            "--output"
        )
