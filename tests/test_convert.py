"""Runs as logs of Inspect and as results of lmms-eval, read back by their own readers if there."""

import json
from pathlib import Path
from zipfile import ZipFile

import pytest
from runs import PUBLISHED_DIR, cell, make_manifest, make_sample, write_run

from vniah.analysis.convert import convert_results
from vniah.cli import main
from vniah.errors import InputError, ResultsError
from vniah.files import to_json
from vniah.grid import Grid
from vniah.results import Results, load_results

BASELINE = Path(__file__).resolve().parents[1] / "results" / "reference-short"
HOSTILE = "<script>alert('1')</script> \u202e\x1b[2J\0 ✓ 針 إبرة \udcff ]]> | `{{ 7 }}`\n"


def some_errors(cell, k):
    """Right, wrong, an error, and samples that have no line yet."""
    return {0: True, 1: False, 2: f"out of memory {HOSTILE}", 3: None}[k % 4]


@pytest.fixture
def unfinished(tmp_path) -> Results:
    return load_results(write_run(tmp_path / "run", num_needles=8, outcome=some_errors))


@pytest.fixture(scope="module")
def baseline() -> Results:
    return load_results(BASELINE)


def hostile_results() -> Results:
    """A run of which every text from outside is hostile."""
    grid = Grid.parse("9", positions="3")
    (place,) = grid.cells
    name = HOSTILE.replace(" ", "").replace("\n", "")
    manifest = make_manifest(grid, num_needles=1, model__name=f"../../{HOSTILE}")
    manifest |= {"task": HOSTILE, "sample_ids": place.prefix + name, "controls": []}
    manifest["needles"] = {**manifest["needles"], "ids": [name]}
    sample = make_sample(
        place,
        0,
        sample_id=place.prefix + name,
        task=HOSTILE,
        question=HOSTILE,
        answer=HOSTILE,
        prediction=HOSTILE,
        fields={"needle_id": name, "listed": [HOSTILE, 1.5, None], "score": HOSTILE},
    )
    return Results(manifest["model"]["name"], Path("nowhere"), manifest, (sample,))


def inspect_samples(path: Path) -> dict[str, dict]:
    if path.suffix == ".json":
        found = json.loads(path.read_bytes())["samples"]
    else:
        with ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.startswith("samples/")]
            assert len({*names}) == len(names) and archive.testzip() is None
            found = [json.loads(archive.read(name)) for name in names]
            summaries = json.loads(archive.read("summaries.json"))
            assert [one["id"] for one in summaries] == [one["id"] for one in found]
    return {one["id"]: one for one in found}


def inspect_header(path: Path) -> dict:
    if path.suffix == ".json":
        return json.loads(path.read_bytes())
    with ZipFile(path) as archive:
        return json.loads(archive.read("header.json"))


@pytest.mark.parametrize("suffix", [".json", ".eval"])
def test_every_sample_of_a_run_survives_in_a_log_of_inspect(baseline, tmp_path, suffix):
    (path,) = convert_results(baseline, "inspect", output=tmp_path / f"log{suffix}")
    found = inspect_samples(path)
    everything = (*baseline.samples, *baseline.control_samples)
    assert len(found) == len(everything) == 790
    for sample in everything:
        one, record = found[sample.sample_id], json.loads(sample.to_json())
        (scorer,) = one["scores"]
        assert scorer == ("vniah" if sample.control is None else f"vniah/{sample.control}")
        score = one["scores"][scorer]
        assert (one["input"], one["target"]) == (sample.question, sample.answer)
        assert score["answer"] == one["output"]["completion"] == sample.prediction
        assert score["value"] == ("C" if sample.correct else "I")
        again = one["metadata"] | score["metadata"]
        own = {"sample_id", "question", "answer", "prediction", "correct", "error"}
        assert again == {name: value for name, value in record.items() if name not in own}


@pytest.mark.parametrize("suffix", [".json", ".eval"])
def test_log_of_inspect_says_what_was_measured(baseline, tmp_path, suffix):
    (path,) = convert_results(baseline, "inspect", output=tmp_path / f"log{suffix}")
    header = inspect_header(path)
    assert (header["version"], header["status"]) == (2, "success")
    assert header["eval"]["model"] == "reference-short"
    assert header["eval"]["dataset"]["sample_ids"] == baseline.manifest["sample_ids"].split()
    metadata = header["eval"]["metadata"]
    assert metadata["axes"] == ["num_frames", "depth"]
    assert metadata["manifest"]["haystack"] == baseline.manifest["haystack"]
    assert len(metadata["cells"]) == 36 and metadata["average"] == baseline.average
    scores = {one["name"]: one for one in header["results"]["scores"]}
    assert {*scores} == {"vniah", "vniah/no-needle", "vniah/blind", "vniah/other-needle"}
    assert scores["vniah"]["metrics"]["cell_mean"]["value"] == baseline.average
    assert scores["vniah/no-needle"]["metrics"]["accuracy"]["value"] == 0
    assert "cell_mean" not in scores["vniah/blind"]["metrics"]


@pytest.mark.parametrize("suffix", [".json", ".eval"])
def test_errors_and_what_is_missing_are_no_wrong_answers_in_inspect(unfinished, tmp_path, suffix):
    (path,) = convert_results(unfinished, "inspect", output=tmp_path / f"log{suffix}")
    header, samples = inspect_header(path), inspect_samples(path)
    assert header["status"] == "started"
    assert header["results"]["total_samples"] == 48 and len(samples) == 36
    assert header["results"]["completed_samples"] == 24
    (score,) = header["results"]["scores"]
    assert (score["scored_samples"], score["unscored_samples"]) == (24, 12)
    assert score["metrics"]["accuracy"]["value"] == 0.5
    failed = [one for one in samples.values() if "error" in one]
    assert len(failed) == 12
    for one in failed:
        assert one["scores"] is None and one["error"]["message"].startswith("out of memory <script")
        assert one["output"]["choices"] == []


def lines_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def lmms_tasks(files: tuple[Path, ...]) -> dict[str, list[dict]]:
    return {path.stem.split("_samples_")[1]: lines_of(path) for path in files[1:]}


def test_every_sample_of_a_run_survives_in_results_of_lmms_eval(baseline, tmp_path):
    files = convert_results(baseline, "lmms-eval", output=tmp_path)
    assert files[0].parent == tmp_path / "reference-short"
    assert files[0].name.endswith("_results.json")
    tasks = lmms_tasks(files)
    assert {*tasks} == {"vniah", "vniah_no_needle", "vniah_blind", "vniah_other_needle"}
    lines = {line["vniah"]["sample_id"]: line for task in tasks.values() for line in task}
    planned = baseline.manifest["sample_ids"].split()
    for sample in (*baseline.samples, *baseline.control_samples):
        line = lines.pop(sample.sample_id)
        assert line["vniah"] == json.loads(sample.to_json())
        assert planned[line["doc_id"]] == sample.sample_id
        assert (line["input"], line["target"]) == (sample.question, sample.answer)
        assert line["filtered_resps"] == sample.prediction
        assert line["vniah_score"] == float(sample.correct)
    assert not lines
    results = json.loads(files[0].read_bytes())
    assert {*results["results"]} == {*tasks} == {*results["task_hashes"]}
    assert results["results"]["vniah"]["vniah_cell_mean,none"] == baseline.average
    assert results["results"]["vniah_no_needle"]["vniah_score,none"] == 0
    assert results["n-samples"]["vniah_blind"] == {"original": 10, "effective": 10}
    assert results["configs"]["vniah"]["metadata"]["axes"] == ["num_frames", "depth"]
    assert results["configs"]["vniah_blind"]["metadata"]["control"] == "blind"


def test_errors_and_what_is_missing_are_no_wrong_answers_in_lmms_eval(unfinished, tmp_path):
    files = convert_results(unfinished, "lmms-eval", output=tmp_path / "out")
    (lines,) = lmms_tasks(files).values()
    failed = [line for line in lines if line["error"] is not None]
    assert (len(lines), len(failed)) == (36, 12)
    assert all((line["vniah_score"], line["filtered_resps"]) == (None, []) for line in failed)
    results = json.loads(files[0].read_bytes())
    assert results["n-samples"]["vniah"] == {"original": 48, "effective": 24}
    assert results["results"]["vniah"]["vniah_score,none"] == 0.5


def test_run_of_which_nothing_could_be_run_has_no_mean(tmp_path):
    run = load_results(write_run(tmp_path / "run", outcome=lambda cell, k: "no memory"))
    (path,) = convert_results(run, "inspect", output=tmp_path / "log.json")
    (score,) = json.loads(path.read_bytes())["results"]["scores"]
    assert score["metrics"] == {} and score["unscored_samples"] == 60
    files = convert_results(run, "lmms-eval", output=tmp_path / "out")
    means = json.loads(files[0].read_bytes())["results"]["vniah"]
    assert means["vniah_score,none"] == means["vniah_cell_mean,none"] == ""


def test_run_without_a_line_yet_is_converted(tmp_path):
    run = load_results(write_run(tmp_path / "run", outcome=lambda cell, k: None))
    (path,) = convert_results(run, "inspect", output=tmp_path / "log.eval")
    assert inspect_header(path)["results"]["completed_samples"] == 0
    assert inspect_samples(path) == {}
    results, samples = convert_results(run, "lmms-eval", output=tmp_path / "out")
    assert samples.read_bytes() == b"" and results.exists()


@pytest.mark.parametrize("suffix", [".json", ".eval"])
def test_hostile_text_survives_in_a_log_of_inspect(tmp_path, suffix):
    (path,) = convert_results(hostile_results(), "inspect", output=tmp_path / f"log{suffix}")
    (one,) = inspect_samples(path).values()
    readable = HOSTILE.replace("\udcff", "\\udcff")
    assert one["input"] == one["target"] == one["output"]["completion"] == readable
    assert one["metadata"]["listed"] == [readable, 1.5, None]
    assert one["metadata"]["depth"] == "1/3"


def test_hostile_names_stay_inside_the_folder(tmp_path):
    files = convert_results(hostile_results(), "lmms-eval", output=tmp_path / "out")
    assert {path.parent.parent for path in files} == {tmp_path / "out"}
    assert sorted(tmp_path.iterdir()) == [tmp_path / "out"]
    assert all(path.name.isprintable() for path in files)
    (line,) = lines_of(files[1])
    assert line["input"] == HOSTILE.replace("\udcff", "\\udcff")


def test_model_that_is_called_like_a_folder_gets_another_name(tmp_path):
    results = hostile_results()
    for name in ("..", "/", "...", "a/.."):
        one = Results(name, results.path, results.manifest, results.samples)
        files = convert_results(one, "lmms-eval", output=tmp_path / "out")
        assert files[0].parent.parent == tmp_path / "out"


def test_conversion_twice_gives_the_same_files(unfinished, tmp_path):
    first = convert_results(unfinished, "lmms-eval", output=tmp_path / "out")
    content = [path.read_bytes() for path in first]
    assert convert_results(unfinished, "lmms-eval", output=tmp_path / "out") == first
    assert [path.read_bytes() for path in first] == content
    for suffix in (".json", ".eval"):
        path = tmp_path / f"log{suffix}"
        convert_results(unfinished, "inspect", output=path)
        before = path.read_bytes()
        convert_results(unfinished, "inspect", output=path)
        assert path.read_bytes() == before


def test_command_says_what_it_wrote_and_what_is_missing(unfinished, tmp_path, capsys):
    log = tmp_path / "log.eval"
    assert main(["convert", str(unfinished.path), "--to", "inspect", "--output", str(log)]) == 0
    out, err = capsys.readouterr()
    assert out == f"inspect: {log}\n"
    assert "has lines for 36 of 48 samples" in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("source", "output", "message"),
    [
        (PUBLISHED_DIR / "longva-7b_vniah.json", "log.json", "is a published table: it has the"),
        (BASELINE, "log.txt", r"cannot be saved as 'log.txt': use one of .eval, .json"),
        (BASELINE, "log", "cannot be saved as 'log'"),
        (BASELINE / "nothing", "log.json", "no results at"),
    ],
)
def test_what_cannot_be_converted_is_refused_in_one_line(source, output, message, tmp_path, capsys):
    with pytest.raises((InputError, ResultsError), match=message):
        convert_results(source, "inspect", output=tmp_path / output)
    arguments = ["convert", str(source), "--to", "inspect", "--output", str(tmp_path / output)]
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_unknown_format_is_refused():
    with pytest.raises(InputError, match="inspect or lmms-eval, got 'helm'"):
        convert_results(BASELINE, "helm", output="x")


# What follows reads with the packages themselves. They are no part of the development install,
# since they bring more than a hundred others. To install: pip install inspect_ai, and
# pip install --no-deps lmms_eval


@pytest.fixture
def read_eval_log():
    return pytest.importorskip("inspect_ai.log", reason="inspect_ai is not installed").read_eval_log


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("suffix", [".json", ".eval"])
def test_inspect_reads_its_log(read_eval_log, baseline, unfinished, tmp_path, suffix):
    from inspect_ai.log import read_eval_log_sample, read_eval_log_sample_summaries

    for number, results in enumerate((baseline, unfinished, hostile_results())):
        (path,) = convert_results(results, "inspect", output=tmp_path / f"{number}{suffix}")
        log = read_eval_log(str(path))
        assert log.status == ("success" if results.is_complete else "started")
        everything = {s.sample_id: s for s in (*results.samples, *results.control_samples)}
        assert len(log.samples) == len(everything)
        by_hand = inspect_samples(path)
        for one in log.samples:
            written = by_hand[one.id]
            assert one.metadata == written["metadata"]
            assert (one.input, one.target) == (written["input"], written["target"])
            assert one.output.completion == written["output"]["completion"]
            if "error" in written:
                assert one.error.message == written["error"]["message"] and one.scores is None
            else:
                ((name, score),) = one.scores.items()
                expected = written["scores"][name]
                assert (score.value, score.answer) == (expected["value"], expected["answer"])
                assert score.metadata == expected["metadata"]
        assert len(read_eval_log_sample_summaries(str(path))) == len(everything)
        first = log.samples[0].id
        if "\0" not in first:
            assert read_eval_log_sample(str(path), first, 1).id == first
        header = read_eval_log(str(path), header_only=True)
        assert header.eval.metadata["axes"] == ["num_frames", "depth"]
        means = {score.name: score.metrics for score in header.results.scores}
        if results is baseline:
            assert means["vniah"]["cell_mean"].value == baseline.average


@pytest.mark.filterwarnings("default")
def test_lmms_eval_reads_its_results(baseline, unfinished, tmp_path):
    loader = pytest.importorskip("lmms_eval.baselines.loader", reason="lmms_eval is not installed")
    for results in (baseline, unfinished, hostile_results()):
        files = convert_results(results, "lmms-eval", output=tmp_path / "out")
        for path, lines in zip(files[1:], lmms_tasks(files).values(), strict=True):
            scores, aggregated = loader.load_baseline(str(path), "vniah")
            by_hand = {s["doc_id"]: s["vniah_score"] for s in lines if s["error"] is None}
            assert scores == by_hand
            assert aggregated["results"] == json.loads(files[0].read_bytes())["results"]


def test_names_of_tasks_stay_apart(tmp_path):
    grid = Grid.parse("8", "0")
    manifest = make_manifest(grid, num_needles=1, controls=["a+b", "a-b"])
    samples = [
        make_sample(cell(8, "0"), 0, sample_id=f"8/0/needle-0/{control}", control=control)
        for control in ("a+b", "a-b")
    ]
    manifest["sample_ids"] += "".join(f" {s.sample_id}" for s in samples)
    results = Results("tiny", Path("nowhere"), manifest, (), tuple(samples))
    files = convert_results(results, "lmms-eval", output=tmp_path)
    assert len({*files}) == 4
    assert to_json(manifest)
