"""The schemas of a run's files: what is written is described, and nothing else is accepted."""

import copy
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from chat_server import serve
from chat_server import write_haystack as write_greys
from chat_server import write_needles as write_colours
from jsonschema import Draft202012Validator
from needle_sets import FRAME_TASKS, numbered_needles
from planted_models import Planted, honest, write_haystack, write_needles
from runs import cell, make_grid, make_manifest, make_sample

from vniah.cli import main
from vniah.errors import InputError
from vniah.grid import Grid
from vniah.haystacks.haystack import open_haystack
from vniah.models.loading import load_model
from vniah.models.server.client import ServerOptions, open_server
from vniah.models.server.messages import FrameFormat
from vniah.needles import load_needles
from vniah.options.approximation import EXACT
from vniah.options.intervention import APPLIED
from vniah.results import FORMAT_VERSION, format_schema
from vniah.results.format_schema import SCHEMAS_DIR
from vniah.results.manifests import READ_VERSIONS, Manifest
from vniah.results.samples import SampleLine
from vniah.scoring import GeneratedText, LogitsScore, Reading
from vniah.sweep.outcomes import result_of
from vniah.sweep.run import run_sweep
from vniah.tasks import TASKS, load_task
from vniah.tasks.controls import CONTROLS, plan_samples

RESULTS = Path(__file__).resolve().parents[1] / "results"
BASELINES = sorted(path.parent.name for path in RESULTS.glob("*/manifest.json"))
FILES = [(file, version) for file in ("manifest", "samples") for version in READ_VERSIONS]
FILES += [("attention", FORMAT_VERSION), ("perplexity", 1), ("document", 1)]


def validator(file: str, version: int = FORMAT_VERSION) -> Draft202012Validator:
    return Draft202012Validator(format_schema(file, version))


def faults(found: Draft202012Validator, content: Any) -> list[str]:
    return [f"{error.json_path}: {error.message}" for error in found.iter_errors(content)]


def require_described(folder: Path) -> None:
    """Fails if the schemas do not describe a run whole."""
    manifest = json.loads((folder / "manifest.json").read_bytes())
    version = manifest["format_version"]
    assert faults(validator("manifest", version), manifest) == []
    names = ["samples", *(["attention"] if "attention_trace" in manifest else [])]
    for name in names:
        lines = validator(name, version)
        for line in (folder / f"{name}.jsonl").read_bytes().splitlines():
            assert faults(lines, json.loads(line)) == []


def properties_of(schema: Mapping[str, Any], path: str = "$") -> Iterator[tuple[str, Any]]:
    """Every property that a schema describes, at any depth."""
    for name, one in schema.get("properties", {}).items():
        yield f"{path}.{name}", one
        yield from properties_of(one, f"{path}.{name}")
    for pattern, one in schema.get("patternProperties", {}).items():
        yield f"{path}.{pattern}", one
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            yield from properties_of(schema[key], f"{path}.{key}")


def kinds_of(schema: Mapping[str, Any]) -> set[str]:
    kind = schema.get("type", [])
    return {kind} if isinstance(kind, str) else {*kind}


@pytest.mark.parametrize("name", BASELINES)
def test_stored_runs_are_as_their_schema_says(name):
    require_described(RESULTS / name)


def test_there_are_stored_runs_of_both_versions():
    versions = {
        json.loads((RESULTS / name / "manifest.json").read_bytes())["format_version"]
        for name in BASELINES
    }
    assert versions == {*READ_VERSIONS}


@pytest.mark.parametrize(("file", "version"), FILES)
def test_schema_names_the_version_that_the_files_carry(file, version):
    schema = format_schema(file, version)
    Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["version"] == version
    assert schema["$id"].endswith(f"/vniah/data/schemas/{file}-{version}.json")
    assert (SCHEMAS_DIR / f"{file}-{version}.json").is_file()
    if file in ("manifest", "perplexity"):
        assert schema["properties"]["format_version"]["const"] == version


@pytest.mark.parametrize(("file", "version"), FILES)
def test_every_field_has_a_meaning_and_every_number_a_unit(file, version):
    found = dict(properties_of(format_schema(file, version)))
    assert len(found) > (5 if file in ("document", "attention") else 15)
    for path, one in found.items():
        assert len(one.get("description", "")) > 5, path
        inside = [one, *filter(None, [one.get("items"), one.get("additionalProperties")])]
        kinds = set().union(*(kinds_of(part) for part in inside if isinstance(part, dict)))
        is_free = {"string", "boolean"} <= kinds or path.endswith((".predicted_ids", ".stop_ids"))
        if kinds & {"number", "integer"} and not is_free and "properties" not in str(one):
            assert one.get("unit"), path


def test_declared_fields_are_described():
    line = format_schema("samples")["properties"]
    assert {*SampleLine.__annotations__} <= {*line}
    assert {*make_sample(cell(8, "0"), 0).record()} <= {*line}
    manifest = format_schema("manifest")["properties"]
    declared = [("$", Manifest.__annotations__, manifest)]
    while declared:
        where, annotations, properties = declared.pop()
        for name, kind in annotations.items():
            assert name in properties, f"{where}.{name}"
            if own := getattr(kind, "__annotations__", None):
                declared.append((f"{where}.{name}", own, properties[name]["properties"]))


def test_schema_knows_the_tasks_and_controls_of_vniah():
    schema = format_schema("samples")
    rule = next(one for one in schema["allOf"] if "propertyNames" in one.get("then", {}))
    known = rule["if"]["properties"]
    assert {*known["task"]["enum"]} == {*TASKS}
    assert {*known["control"]["enum"]} == {None, *CONTROLS, EXACT, APPLIED}
    names, _ = rule["then"]["propertyNames"]["anyOf"]
    assert names["enum"] == [*schema["properties"]]


LOGITS = LogitsScore((54,), True, -0.25, 1, 3.5)


def readings_of(sample: Any) -> Iterator[tuple[Reading, ...]]:
    """A model with logits, one that generates as well, and one that answers in words."""
    num = len(sample.candidates)
    scores = [LogitsScore((k,), k == 0, -0.5 - k, 1 + k, 1.0 - k) for k in range(num)]
    said = GeneratedText(sample.answer, (1, 2))
    yield tuple(Reading(0.5, (k,), one, "7") for k, one in enumerate(scores))
    yield tuple(Reading(0.5, (k,), one, "7", said) for k, one in enumerate(scores))
    yield (Reading(0.5, generated=GeneratedText(sample.answer), prompt_tokens=7),)
    yield (Reading(0.5, generated=GeneratedText("none of them")),)


OPTIONS: dict[str, list[dict[str, Any]]] = {
    "vniah": [{}, {"needle_frames": 2}],
    "vniah-d": [{"distractors": "0,1", "distance": "2"}, {"similarity": "1"}],
    "localization": [{}, {"ask": "second", "within": "0,3"}],
    "count": [{}, {"answers": "words", "spacing": "2"}],
}


@pytest.mark.parametrize("name", FRAME_TASKS)
def test_every_field_of_every_task_and_control_is_described(name):
    lines, needles = validator("samples"), numbered_needles(6)
    controls: set[str | None] = set()
    for options in OPTIONS.get(name, [{}]):
        task = load_task(name, options)
        samples = plan_samples(task, Grid.parse("40", "0.4"), needles, None, "all")
        for sample in {(s.control, *s.fields): s for s in samples}.values():
            controls.add(sample.control)
            for outcome in (*readings_of(sample), "out of memory"):
                result = result_of(task, sample, outcome)
                if result.error is None or isinstance(outcome, str):
                    assert faults(lines, json.loads(result.to_json())) == []
                    continue
                assert "in generated text" in result.error or "tokens" in result.error
    assert None in controls and len(controls) > 1


def test_run_of_a_model_with_a_decoder_is_described(
    checkpoint, image_folder, needle_folder, tmp_path
):
    model, haystack = load_model(checkpoint, device="cpu"), open_haystack(image_folder)
    needles = load_needles(needle_folder)
    for scorer in ("argmax", "generate"):
        traced = scorer == "generate"
        run_sweep(
            *(model, haystack, needles, Grid.of([4], [0, 1])),
            output=tmp_path / scorer,
            scorer=scorer,
            trace_attention=traced,
            progress=False,
        )
        require_described(tmp_path / scorer)
        assert (tmp_path / scorer / "attention.jsonl").exists() == traced


def test_run_of_a_model_of_ones_own_is_described(tmp_path):
    model = Planted(honest)
    model.settings = {"trained_on": "words", "steps": 3, "share": 0.5}
    haystack = open_haystack(write_haystack(tmp_path / "film", 4))
    needles = load_needles(write_needles(tmp_path / "needles"))
    run_sweep(
        *(model, haystack, needles, make_grid("2,4", "", "1")),
        output=tmp_path / "run",
        progress=False,
    )
    require_described(tmp_path / "run")


def test_run_of_a_server_is_described(tmp_path):
    haystack = open_haystack(write_greys(tmp_path / "film", 4))
    needles = load_needles(write_colours(tmp_path / "needles"))
    with serve() as server:
        model = open_server(server.model, ServerOptions(frames=FrameFormat("images", (16, 16))))
        run_sweep(
            *(model, haystack, needles, Grid.of([2, 4], [0])),
            output=tmp_path / "run",
            progress=False,
        )
    require_described(tmp_path / "run")


@pytest.fixture(scope="module")
def line() -> dict[str, Any]:
    path = RESULTS / "reference-short" / "samples.jsonl"
    lines = map(json.loads, path.read_bytes().splitlines())
    return next(one for one in lines if one["control"] is None)


@pytest.fixture(scope="module")
def manifest() -> dict[str, Any]:
    return json.loads((RESULTS / "reference-short" / "manifest.json").read_bytes())


OPTIONAL = {"prompt_tokens", "variant", "argmax_correct", "greedy_correct", "needle_id"}


def test_line_that_lacks_a_field_or_has_another_type_is_refused(line):
    lines = validator("samples")
    assert faults(lines, line) == []
    for name in line:
        fewer = {key: value for key, value in line.items() if key != name}
        if name not in OPTIONAL | {"sample_id", "needle_index"}:
            assert faults(lines, fewer), name
        assert faults(lines, line | {name: {"a": 1}}), name
    assert faults(lines, {k: v for k, v in line.items() if k not in ("sample_id", "needle_id")})


@pytest.mark.parametrize(
    "changes",
    [
        {"unknown": 1},
        {"corect": True},
        {"correct": None},
        {"error": "no memory"},
        {"correct": None, "error": "no memory", "rank": 2},
        {"logprob": 0.5},
        {"rank": 0},
        {"depth": 1.5},
        {"depth": "a third"},
        {"num_frames": 0},
        {"sample_id": "a b"},
        {"needle_ids": "red"},
        {"within_x": True},
    ],
)
def test_line_with_an_invalid_value_is_refused(line, changes):
    assert faults(validator("samples"), line | changes)


def test_sample_without_a_depth_is_one_of_a_control(line):
    without = {key: value for key, value in line.items() if key != "depth"}
    named = {"sample_id": "32/-/card-red-7/no-needle", "control": "no-needle"}
    assert faults(validator("samples"), without | named) == []
    assert faults(validator("samples"), without | named | {"control": None})
    assert faults(validator("samples"), without | {"control": "no-needle"})


def test_task_of_ones_own_has_fields_of_its_own(line):
    lines = validator("samples")
    own = {"colour": "red", "scores": [1, 2.5, None, "x"]}
    assert faults(lines, line | own)
    assert faults(lines, line | own | {"task": "mine"}) == []
    assert faults(lines, line | own | {"control": "my-control"}) == []
    assert faults(lines, line | {"task": "mine", "nested": {"a": 1}})
    assert faults(lines, line | {"task": "mine", "nested": [[1]]})


def sections_of(content: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The paths of all objects in a manifest."""
    if isinstance(content, dict):
        yield path
        for name, value in content.items():
            yield from sections_of(value, (*path, name))


OPEN = (("model",), ("haystack",), ("environment", "packages"))


def test_manifest_with_an_unknown_field_or_another_type_is_refused(manifest):
    found = validator("manifest")
    assert faults(found, manifest) == []
    tried = 0
    for path in sections_of(manifest):
        changed = copy.deepcopy(manifest)
        section = changed
        for name in path:
            section = section[name]
        section["unknown"] = "some text"
        if path not in OPEN:
            assert faults(found, changed), path
        del section["unknown"]
        for name, value in [*section.items()]:
            section[name] = [[value]]
            assert faults(found, changed), (*path, name)
            section[name] = value
            tried += 1
    assert tried > 60


def test_manifest_that_lacks_a_section_is_refused(manifest):
    for name in ("format_version", "task", "model", "haystack", "needles", "grid", "protocol"):
        assert faults(validator("manifest"), {k: v for k, v in manifest.items() if k != name})
    other = {"format_version": 1}
    assert faults(validator("manifest"), manifest | other)
    assert faults(validator("manifest", 1), manifest)


def test_made_up_manifests_of_the_tests_are_real_ones():
    assert faults(validator("manifest"), make_manifest(Grid.parse("8", "0"))) == []


def test_command_prints_a_schema(capsys):
    assert main(["schema", "samples"]) == 0
    assert json.loads(capsys.readouterr().out) == format_schema("samples")
    assert main(["schema", "manifest", "--format-version", "1"]) == 0
    assert json.loads(capsys.readouterr().out)["version"] == 1
    assert main(["schema", "manifest", "--format-version", "3"]) == 2
    assert "format_version of manifest is one of 1, 2, got 3" in capsys.readouterr().err


def test_unknown_schema_is_refused():
    with pytest.raises(
        InputError, match="manifest, samples, attention, perplexity and document, got 're"
    ):
        format_schema("report")
