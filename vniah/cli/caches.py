"""The commands ``vniah cache list`` and ``vniah cache prune``."""

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

from vniah.analysis.tables import format_columns
from vniah.cli.display import scaled
from vniah.cli.printing import show, show_lines
from vniah.errors import InputError, counted
from vniah.files import cache_dir

if TYPE_CHECKING:
    from vniah.embeddings.inventory import CachedFolder
    from vniah.models.fetched import FetchedModel

_SECONDS_A_DAY = 24 * 3600


def list_caches(options: argparse.Namespace) -> int:
    """Prints what is cached: encoded frames, generated films, and models that were fetched."""
    from vniah.embeddings.inventory import find_cached, size_of
    from vniah.models.fetched import find_fetched

    root = _root(options)
    found = list(find_cached(root, verify=options.verify))
    models = list(find_fetched(root, verify=options.verify))
    if not found and not models:
        show(f"nothing is cached in {root}")
        return 0
    rows = [("model", "frames of", "frames", "size", "last used", "checksums", "folder")]
    for one in found:
        rows.append(
            (
                one.model or ("-" if one.num_frames is None else "(film)"),
                one.source,
                "-" if one.num_frames is None else f"{one.num_frames:,}",
                scaled(size_of(one.everything), "B"),
                _date(one.last_used),
                _about_checksums(one, is_verified=options.verify),
                _name(one.path, root),
            )
        )
    for model in models:
        rows.append(
            (
                model.name,
                "(the model itself)" if model.is_whole else "(a download that was stopped)",
                "-",
                scaled(model.num_bytes, "B"),
                _date(model.last_used),
                _about_model(model),
                _name(model.path, root),
            )
        )
    show(f"caches in {root}")
    show()
    show_lines(format_columns(rows, justify=str.ljust))
    total = sum(size_of(one.everything) for one in found) + sum(one.num_bytes for one in models)
    show()
    show(f"{scaled(total, 'B')} in {counted(len(found) + len(models), 'folder')}")
    return 0


def prune_caches(options: argparse.Namespace) -> int:
    """Removes cached files that vniah wrote; prints what it freed."""
    root, days = _root(options), options.older_than
    if days is not None and days < 0:
        raise InputError(f"--older-than must be at least 0 days, got {days:g}")
    freed = _prune_frames(options, root) + _prune_models(options, root)
    show(f"{'would free' if options.dry_run else 'freed'} {scaled(freed, 'B')}")
    return 0


def _prune_frames(options: argparse.Namespace, root: Path) -> int:
    from vniah.embeddings.inventory import find_cached, remove, size_of

    freed = 0
    for one in list(find_cached(root, verify=options.damaged)):
        if options.damaged:
            files = one.damaged
        elif _is_meant(options, one.last_used):
            files = one.everything
        else:
            continue
        if not files:
            continue
        num_bytes = size_of(files) if options.dry_run else remove(files, one.path)
        what = f"{counted(len(files), 'file')}, {scaled(num_bytes, 'B')}"
        show(f"{_verb(options)} {what}: {_name(one.path, root)}")
        freed += num_bytes
    return freed


def _prune_models(options: argparse.Namespace, root: Path) -> int:
    """Removes models that cannot be used; others only where --models says so."""
    from vniah.models.fetched import find_fetched, remove_fetched

    freed, left = 0, []
    for model in list(find_fetched(root, verify=options.damaged)):
        is_useless = model.is_damaged or not model.is_whole
        if not is_useless and (options.damaged or not _is_meant(options, model.last_used)):
            continue
        if not is_useless and not options.models:
            left.append(model)
            continue
        num_bytes = model.num_bytes if options.dry_run else remove_fetched(model)
        what = "the model" if model.is_whole else "a stopped download of the model"
        size = scaled(num_bytes, "B")
        show(f"{_verb(options)} {what} {model.name}, {size}: {_name(model.path, root)}")
        freed += num_bytes
    for model in left:
        show(
            f"kept the model {model.name}, {scaled(model.num_bytes, 'B')}, which would have to be "
            "fetched again: add --models to remove it as well"
        )
    return freed


def _is_meant(options: argparse.Namespace, last_used: float) -> bool:
    """Whether --all or --older-than speaks of what was last used then."""
    return bool(options.all or last_used < time.time() - options.older_than * _SECONDS_A_DAY)


def _verb(options: argparse.Namespace) -> str:
    return "would remove" if options.dry_run else "removed"


def _root(options: argparse.Namespace) -> Path:
    if options.cache is None:
        return cache_dir()
    if not options.cache.is_dir():
        raise InputError(f"there is no folder {options.cache}; give the folder of a cache")
    return Path(options.cache)


def _name(path: Path, root: Path) -> str:
    return str(path.relative_to(root))


def _date(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def _about_model(model: "FetchedModel") -> str:
    if not model.is_whole:
        return "-"
    return {None: "yes", False: "verified", True: "damaged"}[model.is_damaged]


def _about_checksums(one: "CachedFolder", *, is_verified: bool) -> str:
    whole, checked = len(one.files), one.num_checked
    if checked == whole:
        words = "verified" if is_verified and whole else "yes" if whole else "-"
    else:
        words = f"{checked} of {whole} files" if checked else "no"
    return words + (f", {len(one.damaged)} damaged" if one.damaged else "")
