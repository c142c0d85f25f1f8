"""The pages hold together: every page is in the navigation, and every link leads somewhere."""

import configparser
import re
from pathlib import Path

import pytest
import yaml
from test_layering import FLOORS

import vniah

ROOT = Path(__file__).parent.parent
REPOSITORY = "https://github.com/vniah/vniah"
# Files of the root that the site shows as pages (docs/site.py), by their name there.
ROOT_PAGES = {"index.md": "README.md", "contributing.md": "CONTRIBUTING.md"}
ROOT_PAGES["changelog.md"] = "CHANGELOG.md"
PAGES = sorted(path for path in (ROOT / "docs").glob("*.md"))
READMES = [ROOT / name for name in ROOT_PAGES.values()]
OTHERS = [
    path
    for folder in ("benchmarks", "examples", "haystacks", "needles", "results", "training")
    for path in sorted((ROOT / folder).rglob("README.md"))
]
ALL = [path.relative_to(ROOT).as_posix() for path in (*READMES, *PAGES, *OTHERS)]


def setup() -> configparser.ConfigParser:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    return config


def prose(text: str) -> str:
    """A page without its fenced blocks and inline code."""
    return re.sub(
        r"`[^`\n]*`", "", re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    )


def links(text: str) -> list[str]:
    """The targets of the links and pictures of a page."""
    return re.findall(r"\]\(([^)\s]+)\)", prose(text))


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub and mkdocs make them."""
    without_code = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.*)$", without_code, flags=re.MULTILINE)
    plain = [re.sub(r"[^\w\s-]", "", heading).strip().lower() for heading in headings]
    return {re.sub(r"[\s-]+", "-", heading) for heading in plain}


def broken(path: Path, text: str) -> list[str]:
    """The links of a page that lead to no file of the repository, or to no heading of one."""
    found = []
    for link in links(text):
        inside = link.removeprefix(f"{REPOSITORY}/blob/main/")
        inside = inside.removeprefix("https://raw.githubusercontent.com/vniah/vniah/main/")
        if inside == link and re.match(r"https?://|mailto:", link):
            continue
        target, _, anchor = inside.partition("#")
        base = path.parent if inside == link else ROOT
        file = (base / target) if target else path
        known = anchors(file.read_text(encoding="utf-8")) if anchor and file.is_file() else {anchor}
        if not file.exists() or anchor not in known:
            found.append(link)
    return found


@pytest.mark.parametrize("name", ALL)
def test_links_lead_to_files_and_headings(name):
    path = ROOT / name
    assert broken(path, path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "link",
    [
        "nowhere.md",
        "scoring.md#nowhere",
        "#nowhere",
        f"{REPOSITORY}/blob/main/docs/nowhere.md",
        f"{REPOSITORY}/blob/main/docs/scoring.md#nowhere",
    ],
)
def test_a_broken_link_is_found(link):
    assert broken(ROOT / "docs" / "house.md", f"# Title\n\nSee [this]({link}).\n") == [link]


def test_links_in_code_are_none_and_others_are_kept():
    text = "`[a](b)` [c](d.md)\n\n```\n[e](f)\n```\n"
    assert links(text) == ["d.md"]


@pytest.mark.parametrize("name", ROOT_PAGES.values())
def test_links_of_root_files_are_absolute(name):
    """They are shown on package indexes and on the site, where no file lies beside them."""
    text = (ROOT / name).read_text(encoding="utf-8")
    assert [link for link in links(text) if not link.startswith("https://")] == []


def test_the_address_of_the_repository_is_one():
    urls = setup()["metadata"]["project_urls"]
    assert set(re.findall(r"https://github\.com/[\w.-]+/[\w.-]+", urls)) == {REPOSITORY}
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert site["extra"]["repository"] == REPOSITORY
    for name in ("CITATION.cff", *ALL):
        text = (ROOT / name).read_text(encoding="utf-8")
        named = set(re.findall(r"https://github\.com/vniah[\w./-]*", text))
        assert all(url == REPOSITORY or url.startswith(f"{REPOSITORY}/") for url in named), name


def test_every_page_is_in_the_navigation():
    navigation = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    listed = [page for _, page in entries(navigation)]
    made = [*ROOT_PAGES, "options.md", "fields.md"]  # by docs/site.py
    assert sorted(listed) == sorted([*(path.name for path in PAGES), *made])


def entries(navigation: list) -> list[tuple[str, str]]:
    """The titles and pages of a navigation, without its sections."""
    found = []
    for entry in navigation:
        ((title, inside),) = entry.items()
        found += entries(inside) if isinstance(inside, list) else [(title, inside)]
    return found


def test_readme_names_every_page_of_a_reader():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    named = {link.rpartition("/docs/")[2].partition("#")[0] for link in links(readme)}
    assert {path.name for path in PAGES} - {"api.md"} <= named


def test_extras_that_are_named_exist():
    """In pages and messages alike."""
    extras = set(setup()["options.extras_require"])
    sources = [ROOT / name for name in ALL]
    sources += [*(ROOT / "vniah").rglob("*.py"), ROOT / "Makefile", ROOT / "setup.cfg"]
    named = {
        extra.strip()
        for path in sources
        for group in re.findall(r"(?:vniah|'\.)\[([\w, -]+)\]", path.read_text(encoding="utf-8"))
        for extra in group.split(",")
    }
    assert {"dev", "docs", "server"} <= named <= extras


def test_readme_explains_every_extra():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    explained = readme[readme.index("Extras add") : readme.index("## In Python")]
    assert set(setup()["options.extras_require"]) - {"dev", "docs"} == set(
        re.findall(r"`(\w+)`", explained)
    )


def test_all_holds_the_extras_that_need_no_compiler():
    extras = {
        name: {line.split(";")[0].strip() for line in text.splitlines() if line.strip()}
        for name, text in setup()["options.extras_require"].items()
    }
    named = {line for line in extras["all"] if line.startswith("vniah[")}
    inside = {extra for line in named for extra in re.findall(r"\w+", line)[1:]}
    held = (extras["all"] - named).union(*(extras[extra] for extra in inside))
    needed = (extras[name] for name in extras.keys() - {"all", "dev", "docs", "flash"})
    assert held == set().union(*needed)
    assert "vniah[all]" in extras["dev"]


def test_citation_agrees_with_the_package():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    metadata = setup()["metadata"]
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= set(citation)
    assert citation["version"] == vniah.__version__
    assert citation["license"] == metadata["license_expression"]
    assert [author["name"] for author in citation["authors"]] == [metadata["author"]]
    assert citation["repository-code"] == REPOSITORY


def test_the_page_on_the_package_is_true():
    text = (ROOT / "docs" / "house.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d) \| (.*) \|$", text, re.MULTILINE)
    floors = {int(floor): set(re.findall(r"(?:^| · )`(\w+)`", rooms)) for floor, rooms in rows}
    assert floors == {floor: set(rooms) for floor, rooms in FLOORS.items()}
    for path in re.findall(r"`([\w/]+/\w+\.py)`", text):
        assert (ROOT / path).exists() or (ROOT / "vniah" / path).exists(), path
