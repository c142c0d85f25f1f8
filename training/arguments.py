"""What the commands of the stages share."""

import argparse
from collections.abc import Iterable


def add_names(parser: argparse.ArgumentParser, known: Iterable[str], *, metavar: str) -> None:
    """Adds ``names``: any number of the ``known`` ones (``choices`` do not go with that)."""
    known = list(known)

    def one_of(name: str) -> str:
        if name not in known:
            raise argparse.ArgumentTypeError(f"no {name!r}; there are {', '.join(known)}")
        return name

    parser.add_argument("names", nargs="*", type=one_of, metavar=metavar, help=", ".join(known))
