"""The workflow: least permissions, all supported versions of Python, and commands that exist."""

import configparser
import re
from pathlib import Path

import yaml

from vniah import compare
from vniah.cli.arguments import parse
from vniah.cli.inputs import needles_name, parse_grid
from vniah.models.loading import embedded_models
from vniah.results import grid_record, load_results

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8")
WORKFLOW = yaml.safe_load(TEXT)
STEPS = [step for job in WORKFLOW["jobs"].values() for step in job["steps"]]


def test_it_may_only_read_and_older_runs_of_a_branch_end():
    assert WORKFLOW["permissions"] == {"contents": "read"}
    assert not any("permissions" in job for job in WORKFLOW["jobs"].values())
    assert WORKFLOW["concurrency"]["cancel-in-progress"] is True
    assert "github.ref" in WORKFLOW["concurrency"]["group"]
    assert all(job["timeout-minutes"] <= 60 for job in WORKFLOW["jobs"].values())
    checkouts = [step for step in STEPS if step.get("uses", "").startswith("actions/checkout")]
    assert len(checkouts) == len(WORKFLOW["jobs"])
    assert all(step["with"]["persist-credentials"] is False for step in checkouts)


def test_it_runs_on_changes_only():
    assert set(WORKFLOW[True]) == {"push", "pull_request"}  # YAML reads the key `on` as true


def test_it_has_the_versions_of_python_that_the_package_names():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    named = re.findall(r"Python :: (3\.\d+)", config["metadata"]["classifiers"])
    assert WORKFLOW["jobs"]["test"]["strategy"]["matrix"]["python-version"] == named
    assert config["options"]["python_requires"] == f">={named[0]}"


def test_actions_are_pinned_to_major_versions_and_packages_are_kept():
    used = [step["uses"] for step in STEPS if "uses" in step]
    assert all(re.fullmatch(r"actions/[\w-]+@v\d+", action) for action in used)
    pythons = [step for step in STEPS if step.get("uses", "").startswith("actions/setup-python")]
    assert all(step["with"]["cache"] == "pip" for step in pythons)


def test_targets_of_make_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([\w-]+):", makefile, re.MULTILINE))
    called = set(re.findall(r"\bmake (?:-C \S+ )?(\w+)", TEXT))
    assert {"test", "regression", "docs"} <= called <= targets


def test_regression_measures_every_baseline_with_its_settings(monkeypatch):
    monkeypatch.chdir(ROOT)
    members = parse(["run", "--config", "results/regression.toml"]).sweep.plan(Path("out")).members
    baselines = sorted(path.parent for path in Path("results").glob("reference-*/manifest.json"))
    assert [path.name for path in baselines] == sorted(embedded_models())
    assert [member.options.model for member in members] == [path.name for path in baselines]
    for member, path in zip(members, baselines, strict=True):
        assert member.name == f"{path.name}__generated__vniah"  # as the Makefile has it
        manifest = load_results(path).manifest
        assert grid_record(parse_grid(member.options)) == manifest["grid"]
        assert (member.options.task, member.options.needles) == (manifest["task"], None)
        assert needles_name(member.options) == manifest["needles"]["name"]
        assert manifest["haystack"]["name"].startswith("generated")


def test_rules_of_the_regression_hold_and_fall():
    long, short = (ROOT / "results" / f"reference-{name}" for name in ("long", "short"))
    rules = ROOT / "results" / "gate.toml"
    assert compare(long, long, rules=rules).passed
    found = compare(long, short, rules=rules)
    failed = {finding.rule for finding in found.findings if not finding.passed}
    assert {"significance", "max_mean_drop"} <= failed
