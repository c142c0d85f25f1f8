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

_SECONDS_A_DAY = 24 * 3600


def list_caches(options: argparse.Namespace) -> int:
    """Prints what is cached: encoded frames and generated films."""
    from vniah.embeddings.inventory import find_cached, size_of

    root = _root(options)
    found = list(find_cached(root, verify=options.verify))
    if not found:
        show(f"nothing is cached in {root}")
        return 0
    rows = [("model", "frames of", "frames", "size", "last used", "checksums", "folder")]
    for one in found:
        rows.append(
            (
                one.model or "(film)",
                one.source,
                f"{one.num_frames:,}",
                scaled(size_of(one.everything), "B"),
                time.strftime("%Y-%m-%d %H:%M", time.localtime(one.last_used)),
                _about_checksums(one, is_verified=options.verify),
                _name(one, root),
            )
        )
    show(f"caches in {root}")
    show()
    show_lines(format_columns(rows, justify=str.ljust))
    total = sum(size_of(one.everything) for one in found)
    show()
    show(f"{scaled(total, 'B')} in {counted(len(found), 'folder')}")
    return 0


def prune_caches(options: argparse.Namespace) -> int:
    """Removes cached files that vniah wrote; prints what it freed."""
    from vniah.embeddings.inventory import find_cached, remove, size_of

    root, days = _root(options), options.older_than
    if days is not None and days < 0:
        raise InputError(f"--older-than must be at least 0 days, got {days:g}")
    freed = 0
    for one in list(find_cached(root, verify=options.damaged)):
        if options.damaged:
            files = one.damaged
        elif options.all or one.last_used < time.time() - days * _SECONDS_A_DAY:
            files = one.everything
        else:
            continue
        if not files:
            continue
        num_bytes = size_of(files) if options.dry_run else remove(files, one.path)
        verb = "would remove" if options.dry_run else "removed"
        what = f"{counted(len(files), 'file')}, {scaled(num_bytes, 'B')}"
        show(f"{verb} {what}: {_name(one, root)}")
        freed += num_bytes
    show(f"{'would free' if options.dry_run else 'freed'} {scaled(freed, 'B')}")
    return 0


def _root(options: argparse.Namespace) -> Path:
    if options.cache is None:
        return cache_dir()
    if not options.cache.is_dir():
        raise InputError(f"there is no folder {options.cache}; give the folder of a cache")
    return Path(options.cache)


def _name(one: "CachedFolder", root: Path) -> str:
    return str(one.path.relative_to(root))


def _about_checksums(one: "CachedFolder", *, is_verified: bool) -> str:
    whole, checked = len(one.files), one.num_checked
    if checked == whole:
        words = "verified" if is_verified and whole else "yes" if whole else "-"
    else:
        words = f"{checked} of {whole} files" if checked else "no"
    return words + (f", {len(one.damaged)} damaged" if one.damaged else "")
