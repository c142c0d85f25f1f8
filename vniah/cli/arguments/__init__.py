"""The arguments of every command: `build_parser` and `parse`."""

from vniah.cli.arguments.parser import build_parser, parse

__all__ = ["build_parser", "parse"]
