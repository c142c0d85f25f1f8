"""Damaged runs and tables: every one is read as it is, or refused in one line, and at once."""

import json
import random
import time

from hypothesis import given, settings
from hypothesis import strategies as st
from runs import PUBLISHED_DIR, write_run

from vniah.analysis.compare import compare
from vniah.analysis.labels import rope_remarks
from vniah.analysis.sentences import format_agreement, format_average
from vniah.cli.display import format_gaps, format_table
from vniah.errors import VniahError
from vniah.results import MANIFEST_NAME, SAMPLES_NAME, load_results

ODD = [
    None,
    True,
    -1,
    0,
    2**63,
    1e308,
    "",
    "\ud800\x1b[2J",
    "1e999999999",
    "1/0",
    "9" * 5000,
    [],
    ["a"],
    [[[[[0]]]]],
    {},
    {"a": {"b": None}},
]


def read_everything(path):
    """What the commands do with results; errors must be of vniah's own kind and one line."""
    started = time.process_time()
    try:
        results = load_results(path)
        repr(results), results._repr_html_().encode(), results.to_pandas()
        format_table(results), format_average(results), format_gaps(results)
        format_agreement(results), rope_remarks([results, results])
        compare(results, results)
    except VniahError as error:
        assert len(str(error).splitlines()) == 1 and len(str(error)) < 1500
    assert time.process_time() - started < 5


def places(value, path=()):
    """The paths to all values in a JSON value."""
    yield path
    children = value.items() if isinstance(value, dict) else enumerate(value)
    for key, child in children:
        if isinstance(child, dict | list):
            yield from places(child, (*path, key))
        else:
            yield (*path, key)


def replaced(value, path, new):
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = replaced(value[path[0]], path[1:], new)
    return copy


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32))
def test_run_with_values_replaced(tmp_path_factory, seed):
    chosen = random.Random(seed)
    directory = write_run(
        tmp_path_factory.mktemp("run"), "4,8", "0,1", num_needles=2, model__rope_theta=1e6
    )
    if chosen.random() < 0.5:
        path = directory / MANIFEST_NAME
        record = json.loads(path.read_text())
        path.write_text(
            json.dumps(replaced(record, chosen.choice(list(places(record))), chosen.choice(ODD)))
        )
    else:
        path = directory / SAMPLES_NAME
        lines = path.read_text().splitlines()
        number = chosen.randrange(len(lines))
        record = json.loads(lines[number])
        where = chosen.choice(list(places(record)))
        lines[number] = json.dumps(replaced(record, where, chosen.choice(ODD)))
        path.write_text("".join(f"{line}\n" for line in lines))
    read_everything(directory)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32))
def test_files_with_bytes_replaced(tmp_path_factory, seed):
    chosen = random.Random(seed)
    directory = tmp_path_factory.mktemp("run")
    write_run(directory, "4,8", "0,1", num_needles=2)
    (directory / "table.json").write_bytes((PUBLISHED_DIR / "longva-7b_vniah.json").read_bytes())
    path = directory / chosen.choice([MANIFEST_NAME, SAMPLES_NAME, "table.json"])
    content = bytearray(path.read_bytes())
    for _ in range(chosen.randrange(1, 4)):
        content[chosen.randrange(len(content))] = chosen.randrange(256)
    path.write_bytes(content[: chosen.choice([None, chosen.randrange(len(content))])])
    read_everything(path if path.suffix == ".json" and path.stem == "table" else directory)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32))
def test_table_with_values_replaced(tmp_path_factory, seed):
    chosen = random.Random(seed)
    rows = json.loads((PUBLISHED_DIR / "longva-7b_vniah.json").read_text())[:6]
    where = chosen.choice(list(places(rows)))
    path = tmp_path_factory.mktemp("table") / "table.json"
    path.write_text(json.dumps(replaced(rows, where, chosen.choice(ODD))))
    read_everything(path)
