"""Hooks of mkdocs: pages that are made when the site is built, and links that leave ``docs/``.

The files of the repository's root are pages, and so are the options of all commands.

Links in the repository are such that they work where the files are read: relative ones in
``docs/``, absolute ones in the files of the root, which also appear on package indexes. On the
site both lead to pages of the site where there is one.
"""

import argparse
import re
from functools import partial
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from vniah.cli.arguments import build_parser

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
