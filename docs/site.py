"""Hooks of mkdocs: pages that are made when the site is built, and links that leave ``docs/``.

The files of the repository's root are pages, and so are the options of all commands and the fields
of all files of a run.

Links in the repository are such that they work where the files are read: relative ones in
``docs/``, absolute ones in the files of the root, which also appear on package indexes. On the
site both lead to pages of the site where there is one.
"""

import argparse
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, get_args

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from vniah.cli.arguments import build_parser
from vniah.results import format_schema
from vniah.results.format_schema import SchemaFile

ROOT = Path(__file__).parent.parent
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
PICTURE = "results/long_context_transfer.png"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that are made here, and the picture of the README."""
    for name, page in PAGES.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=text))
    files.append(File.generated(config, "options.md", content=options_page()))
    files.append(File.generated(config, "fields.md", content=fields_page()))
    files.append(File.generated(config, PICTURE, abs_src_path=str(ROOT / PICTURE)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrites links to files of the repository: to pages of the site, or to the repository."""
    repository = f"{config.extra['repository']}/blob/main/"
    raw = repository.replace("//github.com/", "//raw.githubusercontent.com/").replace("/blob", "")

    def target(match: re.Match[str]) -> str:
        path, anchor = match["path"], match["anchor"] or ""
        if path in PAGES:
            return f"]({PAGES[path]}{anchor})"
        if path == PICTURE:
            return f"]({path})"
        if path.startswith("docs/"):
            return f"]({path.removeprefix('docs/')}{anchor})"
        return f"]({repository}{path}{anchor})"

    outside = "|".join(map(re.escape, (repository, raw, "../")))
    return re.sub(rf"\]\((?:{outside})(?P<path>[^)#\s]*)(?P<anchor>#[^)\s]*)?\)", target, markdown)


def options_page() -> str:
    """The help of every command."""
    sections = ["# All options\n\nWhat `vniah COMMAND --help` prints, for every command."]
    for parser in commands(build_parser()):
        parser.formatter_class = partial(argparse.HelpFormatter, width=98)
        sections.append(f"## {parser.prog}\n\n```text\n{parser.format_help().rstrip()}\n```")
    return "\n\n".join(sections) + "\n"


def commands(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    """The parsers of the commands and of their own commands."""
    found = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                found += commands(command) or [command]
    return found


def fields_page() -> str:
    """What every field of the files of a run means, from their schemas."""
    sections = [
        "# All fields\n\nWhat the schemas of the files of runs and of results of perplexity say "
        "([Format of runs](files.md)). A field that need not be there is in italics."
    ]
    for file in get_args(SchemaFile):
        schema = format_schema(file)
        rows = ["| field | type | unit | meaning |", "|---|---|---|---|"]
        rows += [" | ".join(("", *cells, "")).strip() for cells in field_rows(schema)]
        sections.append(f"## {schema['title']}\n\n{schema['description']}\n\n" + "\n".join(rows))
    return "\n\n".join(sections) + "\n"


def field_rows(schema: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, ...]]:
    """The cells of a line for each field, those of sections after the section."""
    named = {**schema.get("properties", {}), **schema.get("patternProperties", {})}
    for name, field in named.items():
        shown = f"`{prefix}{name}`"
        kinds = field.get("type", "number")
        yield (
            shown if name in schema.get("required", ()) else f"*{shown}*",
            kinds if isinstance(kinds, str) else ", ".join(kinds),
            field.get("unit", ""),
            field["description"].replace("|", "\\|"),
        )
        yield from field_rows(field, f"{prefix}{name}.")
