"""The arguments of the commands that make, list or remove files of data."""

from typing import Any

from vniah.cli import caches, commands, values
from vniah.cli.arguments.groups import add_command, add_quiet_option
from vniah.grid import MAX_FRAMES


def add_haystack(verbs: Any) -> None:
    """``haystack make``."""
    haystack = add_command(verbs, "haystack", "make a haystack")
    haystack_verbs = haystack.add_subparsers(required=True, metavar="VERB")
    make = add_command(
        haystack_verbs,
        "make",
        "draw a video of random scenes; the same seed gives the same video",
    )
    make.add_argument("path", type=values.path, metavar="PATH", help="an .mp4 file")
    for name, default, most, metavar, text in (
        ("seconds", None, MAX_FRAMES, "N", "length of the video"),
        ("seed", 0, 2**63 - 1, "S", "which video is drawn; default 0"),
        ("fps", 8, 1000, "N", "frames per second; default 8"),
    ):
        make.add_argument(
            f"--{name}",
            type=values.whole(most),
            required=default is None,
            default=default,
            metavar=metavar,
            help=text,
        )
    make.add_argument(
        "--size",
        type=values.size,
        default=(96, 96),
        metavar="WxH",
        help="width and height in pixels; default 96x96",
    )
    make.add_argument("--overwrite", action="store_true", help="replace an existing file")
    add_quiet_option(make)
    make.set_defaults(command=commands.make_haystack)


def add_cache(verbs: Any) -> None:
    """``cache list`` and ``cache prune``."""
    cache = add_command(verbs, "cache", "list or remove cached frames, generated films and models")
    cache_verbs = cache.add_subparsers(required=True, metavar="VERB")
    show = add_command(
        cache_verbs, "list", "list what is cached, how large it is, and when it was used"
    )
    show.add_argument(
        "--verify", action="store_true", help="read every byte and compare it with its checksum"
    )
    show.set_defaults(command=caches.list_caches)
    prune = add_command(cache_verbs, "prune", "remove cached files that vniah wrote")
    which = prune.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "--older-than", type=values.real(1e6), metavar="DAYS", help="what was last used before that"
    )
    which.add_argument(
        "--damaged",
        action="store_true",
        help="files that are damaged, and those that were set aside; reads every byte",
    )
    which.add_argument("--all", action="store_true", help="everything but models")
    prune.add_argument(
        "--models",
        action="store_true",
        help="also models that vniah models --fetch has stored; without it they are kept, unless "
        "they are damaged",
    )
    prune.add_argument(
        "--dry-run", action="store_true", help="only say what would be removed and freed"
    )
    prune.set_defaults(command=caches.prune_caches)
    for verb in (show, prune):
        verb.add_argument(
            "--cache", type=values.path, metavar="DIR", help="folder; default: the user's cache"
        )
