"""The syntax of the package's modules, for tests that look for something in all of them."""

import ast
from functools import lru_cache


@lru_cache(maxsize=1000)
def parse(source: str) -> ast.Module:
    """The tree of a module's text, which takes three times as long to make as to walk.

    The tests of a file that asked for it call `parse.cache_clear` at their end: the trees of all
    modules take 100 MB.
    """
    return ast.parse(source)


def last_name(node: ast.expr) -> str:
    """The last part of a dotted name, such as that of a function that is called; else empty."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""
