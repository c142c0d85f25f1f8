"""Lines are read in a fraction of the time of `SampleResult.from_json`, and to the same results."""

import copy
import gc
import json
import pickle
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import TypedDict

import pytest
from runs import cell, make_run, make_sample, write_run

import vniah
from benchmarks.results_scale import make_run as make_large_run
from vniah.errors import ResultsError
from vniah.grid import Cell
from vniah.results import SampleResult
from vniah.results.lines import LineDecoder
from vniah.results.manifests import read_manifest
from vniah.results.plan import Plan, planned_ids
from vniah.results.reading import as_results
from vniah.results.samples import SampleReader

STORED = sorted(Path(__file__).parent.parent.glob("results/reference-*"))
LINE = {
    "sample_id": "8/0.5/red-7",
    "task": "vniah",
    "num_frames": 8,
    "depth": 0.5,
    "needle_index": 4,
    "needle_id": "red-7",
    "shares": [0.5, None, "a:b"],
    "question": "Which?",
    "answer": "7",
    "control": None,
    "prediction": "7",
    "predicted_ids": [7, 8],
    "correct": True,
    "logprob": -0.5,
    "rank": 1,
    "margin": 2.5,
    "seconds": 0.25,
    "error": None,
}
VALUES = [  # as they stand in a line
    "0",
    "-0",
    "-0.0",
    "1",
    "7.0",
    "-1",
    "-2.5",
    "1e2",
    "1E-400",
    "1e999",
    "1e308",
    "0.1",
    "9007199254740993",
    "9007199254740993.0",
    "2.2250738585072011e-308",
    "9223372036854775807",
    "9223372036854775808",
    "-9223372036854775808",
    "-9223372036854775809",
    "18446744073709551616",
    "123456789012345678901234567890",
    "NaN",
    "Infinity",
    "-Infinity",
    "01",
    "1.",
    ".5",
    "tru",
    "true",
    "false",
    "null",
    '""',
    '"x"',
    '"a:b"',
    '"\\u003a"',
    '"\\u0000"',
    '"\\ud800"',
    '"\\ud83d\\ude00"',
    '"\\q"',
    '"1/3"',
    '"0.5"',
    '"é"',
    '"\\""',
    "[]",
    "[1]",
    '[1,"x:y",null]',
    "[[1]]",
    "[1.5]",
    "[true]",
    "[9223372036854775808]",
    "{}",
    '{"a":1}',
    '["\\u003A"]',
]


def same(reader, line):
    """What both ways of reading give: an equal result with numbers of the same type, or a line."""
    found = []
    for read in (reader.read, SampleResult.from_json):
        try:
            result = read(line)
            found.append((result, repr(result), list(result.record())))
        except ResultsError as error:
            found.append(str(error))
    assert found[0] == found[1], line
    return found[0]


def learned():
    """A reader that knows the keys of the line; with what it has learned it is not slow."""
    reader = SampleReader(Plan(()))
    reader.read(json.dumps(LINE).encode())
    assert reader._decoder.decode(json.dumps(LINE).encode()) is not None
    return reader


@pytest.mark.parametrize("folder", STORED, ids=lambda folder: folder.name)
def test_stored_runs_are_read_as_line_by_line(folder):
    results = vniah.load_results(folder)
    lines = (folder / "samples.jsonl").read_bytes().splitlines(keepends=True)
    manifest = read_manifest(folder / "manifest.json")
    slow = as_results(folder, manifest, map(SampleResult.from_json, lines))
    assert results == slow and repr(results.samples) == repr(slow.samples)
    reader = SampleReader(planned_ids(manifest))
    for line in lines:
        reader.read(line)
    assert sum(reader._decoder.decode(line) is None for line in lines) == 0


@pytest.mark.parametrize("name", [*LINE, "prompt_tokens", "variant", "argmax_correct", "own"])
def test_values_of_every_kind_are_read_and_refused_alike(name):
    reader = learned()
    num_read = 0
    for value in VALUES:
        line = json.dumps({**LINE, name: "@"}).replace('"@"', value).encode()
        num_read += not isinstance(same(reader, line), str)
        assert not isinstance(same(reader, json.dumps(LINE).encode()), str)
    assert num_read or name in ("sample_id", "task", "num_frames", "depth")


@pytest.mark.parametrize(
    "change",
    [
        lambda line: line[:-1],
        lambda line: line + b"\n",
        lambda line: b" " + line + b"\t\r\n",
        lambda line: line + b"\0",
        lambda line: line + b" x",
        lambda line: b"\xef\xbb\xbf" + line,
        lambda line: line.replace(b"Which?", b"\xff"),
        lambda line: line.replace(b"Which?", b"\xed\xa0\x80"),
        lambda line: line.replace(b"Which?", b"\xc0\x80"),
        lambda line: line.replace(b"Which?", b"a\tb"),
        lambda line: line.replace(b"Which?", b"\\u0057hich\\u003A: "),
        lambda line: line.replace(b"Which?", b'\\": \\": '),
        lambda line: line.replace(b'": ', b'":'),
        lambda line: line.replace(b'": ', b'" : '),
        lambda line: line.replace(b'"task": ', b'"task": "x", "task": '),
        lambda line: line.replace(b'"task": ', b'"task": ":", "task" :'),
        lambda line: line.replace(b'"task": ', b'"needle_id": "red-7", "task": '),
        lambda line: line.replace(b'"task": ', b'"t\\u0061sk": "vniah", "task": '),
        lambda line: line.replace(b'"red-7", "sh', b'"red-7", "needle_id" :"\\u003a", "sh'),
        lambda line: line.replace(b'"shares"', b'"a\\"b"'),
        lambda line: line.replace(b'"shares"', b'"a:b"'),
        lambda line: line.replace(b'"shares"', b'"\\ud800"'),
        lambda line: line.replace(b'"shares"', b'"other_0"'),
        lambda line: line.replace(b'"shares"', b'""'),
        lambda line: line.replace(b'"error": null', b'"error": null, "variant": "a"'),
        lambda line: line.replace(b'"error": null', b'"error": "no", "x": 1'),
        lambda line: line.replace(b', "error": null', b""),
        lambda line: line.replace(b', "depth": 0.5', b""),
        lambda line: line.replace(b"{", b"[").replace(b"}", b"]"),
        lambda line: b"[" * 700 + b"]" * 700,
        lambda line: line.replace(b"7,", b"[" * 700 + b"]" * 700 + b","),
        lambda line: line.replace(b'"7"', b"1" * 5000),
        lambda line: b"",
    ],
)
def test_lines_that_are_unusual_or_damaged_are_read_and_refused_alike(change):
    reader = learned()
    line = change(json.dumps(LINE).encode())
    same(reader, line)
    assert same(reader, line) == same(reader, line), "also after it has learned what it can"


def test_many_layouts_are_read_alike():
    reader = learned()
    for number in range(120):
        line = json.dumps(
            {**LINE, **{f"field-{k}": k for k in range(number % 70)}, f"n{number}": 1}
        )
        assert not isinstance(same(reader, line.encode()), str)
        same(reader, line.encode())


def test_a_key_that_is_given_twice_is_never_taken():
    decoder = LineDecoder(TypedDict("Pair", {"a": int}))
    decoder.learn(b'{"a": 1}', {"a": 1})
    assert decoder.decode(b'{"a": 1}') is not None
    for line in (b'{"a": 1, "a":2}', b'{"a": 1,"a" :2}', b'{"a":2, "a": 1}'):
        assert decoder.decode(line) is None


def test_a_colon_in_a_text_is_no_key():
    decoder = LineDecoder(TypedDict("Pair", {"a": str, "b": str}))
    decoder.learn(b'{"a": "x", "b": "z"}', {"a": "x", "b": "z"})
    decoder.learn(b'{"a": "x: y", "b": "\\": z"}', {"a": "x: y", "b": '": z'})
    for text in ("x", "x: y", '": ', ":" * 5):
        line = json.dumps({"a": text, "b": "z"}).encode()
        assert decoder.decode(line)[0].a == text
        assert decoder.decode(line[:-1] + b', "a": "z"}') is None
    assert decoder.decode(b'{"a":"x","b":"z"}')[0].b == "z"


@pytest.fixture
def collector():
    """Puts back what the tests of all files froze and whether the collector is at work."""
    is_enabled, is_frozen = gc.isenabled(), gc.get_freeze_count() > 0
    yield
    gc.unfreeze()
    if is_frozen:
        gc.freeze()
    if is_enabled:
        gc.enable()


@pytest.mark.usefixtures("collector")
@pytest.mark.parametrize("most_samples", [0, 10**9])
def test_reading_leaves_the_collector_as_it_was(tmp_path, monkeypatch, most_samples):
    monkeypatch.setattr("vniah.results.reading._MANY_SAMPLES", most_samples)
    write_run(tmp_path)
    gc.unfreeze()
    gc.enable()
    vniah.load_results(tmp_path)
    assert gc.isenabled() and gc.get_freeze_count() == 0
    gc.freeze()
    num_frozen = gc.get_freeze_count()
    vniah.load_results(tmp_path)
    assert 0 < gc.get_freeze_count() <= num_frozen, "what others keep there stays there"
    gc.unfreeze()
    gc.disable()
    vniah.load_results(tmp_path)
    assert not gc.isenabled()


@pytest.mark.usefixtures("collector")
@pytest.mark.parametrize(("most_samples", "is_old"), [(10, True), (10**9, False)])
def test_many_samples_are_old_objects_at_once(tmp_path, monkeypatch, most_samples, is_old):
    monkeypatch.setattr("vniah.results.reading._MANY_SAMPLES", most_samples)
    write_run(tmp_path)
    gc.unfreeze()
    gc.enable()
    results = vniah.load_results(tmp_path)
    gc.disable()
    young = {id(thing) for generation in (0, 1) for thing in gc.get_objects(generation)}
    assert young.isdisjoint(map(id, results.samples)) == is_old


def test_samples_share_what_is_the_same(tmp_path):
    results = vniah.load_results(write_run(tmp_path))
    first, second = results.samples[:2]
    assert first.question is second.question and first.cell is second.cell
    again = vniah.load_results(tmp_path)
    assert first.sample_id is again.samples[0].sample_id
    assert planned_ids(results.manifest) is planned_ids(again.manifest)


def test_a_result_is_a_value_like_any_other():
    sample = make_sample(cell(8, "0.5"), 1)
    read = SampleReader(Plan(())).read(sample.to_json().encode())
    for same_one in (read, copy.deepcopy(read), pickle.loads(pickle.dumps(read)), replace(read)):
        assert same_one == sample and type(same_one) is SampleResult
    assert vars(read) == vars(sample) and list(vars(read))[:2] == ["sample_id", "task"]
    with pytest.raises(FrozenInstanceError):
        read.rank = 2


def test_equal_cells_have_equal_hashes():
    assert hash(cell(8, "0.5")) == hash(Cell(8, cell(4, "1/2").depth)) != hash(cell(8, "0.25"))
    assert len({run.samples[0].cell for run in (make_run(), make_run())}) == 1


def test_made_up_run_of_the_benchmark_is_read_like_line_by_line(tmp_path):
    num = make_large_run(tmp_path / "run", 2_100, 4, 0.5)
    results = vniah.load_results(tmp_path / "run")
    lines = (tmp_path / "run" / "samples.jsonl").read_bytes().splitlines()
    slow = as_results(results.path, results.manifest, map(SampleResult.from_json, lines))
    assert results == slow and results.num_done == num == len(lines)
    assert {score.control for score in results.controls} == {"blind", "no-needle", "other-needle"}
    assert vniah.compare(results, slow).passed
