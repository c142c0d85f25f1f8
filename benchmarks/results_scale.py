"""Claim: a run of 200,000 samples is read in under 4 s and compared in under 8 s, below 500 MB.

Makes two runs as a sweep would write them, with the controls of the default, and measures what the
commands do with them, each in a process of its own: reading with the scores of all cells, the
summary, the table of lengths, and the comparison of both runs. Reading is measured once more
line by line, as single lines are read (`SampleResult.from_json`), and both have to give the same.
Seconds are processor time of the work itself; loading libraries is not in it. Memory is the peak of
the whole process, libraries included.

    python -m benchmarks.results_scale [--samples 200000] [--needles 20] [--folder DIR]
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vniah import Grid
from vniah.files import to_json, write_json
from vniah.grid import Cell, place_prefix
from vniah.results import MANIFEST_NAME, SAMPLES_NAME, grid_record

CONTROLS = ["no-needle", "blind", "other-needle"]
DEPTHS = 50


def main(arguments: Sequence[str] | None = None) -> None:
    """Makes the runs, and prints a line for each thing that is done with them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--samples", type=int, default=200_000)
    parser.add_argument("--needles", type=int, default=20)
    parser.add_argument("--folder", type=Path, help="keep the runs there, and take those there are")
    parser.add_argument("--work", choices=WORK, help="do this one thing with the runs of a folder")
    options = parser.parse_args(arguments)
    if options.work:
        print(json.dumps(measure(options.work, options.folder)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)
        for name, share in (("before", 0.9), ("after", 0.89)):
            if not (folder / name).exists():
                num = make_run(folder / name, options.samples, options.needles, share)
                print(f"{name}: {num:,} samples", flush=True)
        found = {work: run_apart(work, folder) for work in WORK}
    fast, slow = found["read"], found["read line by line"]
    assert fast["result"] == slow["result"], "both ways of reading give the same"
    print(f"reading takes {slow['seconds'] / fast['seconds']:.1f}x as long line by line")


def run_apart(work: str, folder: Path) -> dict[str, Any]:
    """Measures one thing in a process of its own, and prints it."""
    command = [sys.executable, "-m", "benchmarks.results_scale"]
    command += ["--work", work, "--folder", str(folder)]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    print(f"{work:20s} {found['seconds']:6.2f} s  {found['bytes'] / 1e6:6.0f} MB", flush=True)
    return found


def measure(work: str, folder: Path) -> dict[str, Any]:
    """Does one thing; its processor time, and the peak memory of this process."""
    prepare, do = WORK[work]
    given = prepare(folder)
    started = time.process_time()
    result = do(given)
    seconds = time.process_time() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": seconds, "bytes": peak, "result": result}


def _read(folder: Path) -> object:
    import vniah

    results = vniah.load_results(folder / "before")
    return [results.average, len(results.cells), len(results.controls), results.num_done]


def _read_by_line(folder: Path) -> object:
    from vniah.results import SampleResult
    from vniah.results.manifests import read_manifest
    from vniah.results.reading import as_results

    manifest = read_manifest(folder / "before" / MANIFEST_NAME)
    with (folder / "before" / SAMPLES_NAME).open("rb") as file:
        results = as_results(folder, manifest, map(SampleResult.from_json, file))
        return [results.average, len(results.cells), len(results.controls), results.num_done]


def _loaded(folder: Path) -> Any:
    import vniah

    results = vniah.load_results(folder / "before")
    vniah.summarize(vniah.load_results("results/reference-short"))  # loads the libraries
    assert results.cells
    return results


def _summarize(results: Any) -> object:
    import vniah

    return list(vniah.summarize(results).lines)


def _table(results: Any) -> object:
    import vniah

    return len(vniah.table(results, "lengths"))


def _compare(folder: Path) -> object:
    import vniah

    return vniah.compare(folder / "before", folder / "after").summary()


def _ready(folder: Path) -> Path:
    import scipy.stats  # noqa: F401

    import vniah.analysis.statistics.falls  # noqa: F401

    return folder


WORK: dict[str, tuple[Callable[[Path], Any], Callable[[Any], object]]] = {
    "read": (_ready, _read),
    "read line by line": (_ready, _read_by_line),
    "summarize": (_loaded, _summarize),
    "table": (_loaded, _table),
    "compare": (_ready, _compare),
}


def make_run(folder: Path, num_samples: int, num_needles: int, share: float) -> int:
    """A run of the task ``vniah`` of about so many samples, of which a share of the test is right.

    Returns:
        The number of samples.
    """
    names = [f"card-{number:03d}" for number in range(num_needles)]
    num_lengths = max(1, round(num_samples / (2 * DEPTHS * num_needles + num_needles)))
    depths = [format(depth / DEPTHS, "g") for depth in range(DEPTHS)]
    grid = Grid.of([16 * (k + 1) for k in range(num_lengths)], depths)
    asked = [(None, None, name, "blind") for name in names]
    for num_frames in grid.frames:
        asked += [(num_frames, None, name, "no-needle") for name in names]
    for cell in grid.cells:
        for name in names:
            asked += [(cell.num_frames, cell, name, None), (cell.num_frames, cell, name, "other")]
    rng = np.random.default_rng(len(names) + int(1000 * share))
    lines = [_line(one, names, share, rng) for one in asked]
    manifest = {
        "format_version": 2,
        "task": "vniah",
        "axes": ["num_frames", "depth"],
        "controls": CONTROLS,
        "task_details": {"asks_needles": True},
        "model": {"name": "made-up", "revision": "1", "dtype": "float32", "tokens_per_frame": 4},
        "haystack": {"name": "seed-0", "sha256": "aa" * 32, "sampling": "clock"},
        "needles": {"name": "cards", "sha256": "bb" * 32, "ids": names},
        "grid": grid_record(grid),
        "protocol": {"criterion": "argmax at every position of the answer span"},
        "sample_ids": " ".join(line["sample_id"] for line in lines),
        "environment": {"python": "3.11"},
    }
    folder.mkdir(parents=True)
    write_json(folder / MANIFEST_NAME, manifest)
    # Branch by branch, as a sweep runs them: all lengths of a needle at one place.
    lines.sort(key=lambda line: (line["needle_id"], line.get("depth", -1)))
    with (folder / SAMPLES_NAME).open("wb") as file:
        file.writelines(to_json(line) + b"\n" for line in lines)
    return len(lines)


def _line(
    asked: tuple[int | None, Cell | None, str, str | None],
    names: Sequence[str],
    share: float,
    rng: np.random.Generator,
) -> dict[str, Any]:
    num_frames, cell, name, control = asked
    place = names.index(name)
    line: dict[str, Any] = {}
    other = names[(place + 7) % len(names)]
    asked_name = other if control == "other" else name
    ending = {None: "", "other": f"/{other}/other-needle"}.get(control, f"/{control}")
    depth = None if cell is None else cell.depth
    line["sample_id"] = f"{place_prefix(num_frames, depth)}{name}{ending}"
    line["task"] = "vniah"
    if num_frames is not None:
        line["num_frames"] = num_frames
    if cell is not None:
        line |= {"depth": float(cell.depth), "needle_index": cell.needle_index}
    line["needle_id"] = name
    if control == "other":
        line["asked_needle_id"] = other
    is_right = bool(rng.random() < (share if control is None else 0.05))
    margin = float(np.float32(rng.gamma(2.0) * (1 if is_right else -1)))
    return line | {
        "question": f"Read the digits on the card called {asked_name}",
        "answer": f"{7 * place % 97}",
        "control": "other-needle" if control == "other" else control,
        "prediction": f"{7 * place % 97}" if is_right else "nothing",
        "predicted_ids": [27 + place, 49] if is_right else [24, 49],
        "correct": is_right,
        "logprob": -float(np.float32(rng.gamma(1.0) * (0.01 if is_right else 5.0))),
        "rank": 1 if is_right else int(rng.integers(2, 20)),
        "margin": margin,
        "seconds": float(rng.random() / 30),
        "error": None,
    }


if __name__ == "__main__":
    main()
