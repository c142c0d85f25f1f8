"""What all tests share: one thread, a cache of their own, the generated film, small real parts."""

import contextlib
import gc
import importlib
import itertools
import json
import os
import re
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Tensors are small here, and several threads spend more time on one another than on them. torch
# reads this when it is imported; processes that tests start inherit it.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = "1"
# What matrix products in half precision allocate depends on the CPU: no test uses AMX.
os.environ["ONEDNN_MAX_CPU_ISA"] = "AVX512_CORE_BF16"

import numpy as np  # noqa: E402
import pytest  # noqa: E402
from filelock import FileLock  # noqa: E402
from PIL import Image  # noqa: E402

# Files whose tests start processes with tests/jobs.py. Two of them at once would fight for the
# cores, and each worker would have to load what the processes are forked from.
PROCESSES = (
    *("test_cli", "test_greedy", "test_haystacks", "test_jobs", "test_mesh", "test_ring"),
    *("test_run_folder", "test_runner", "test_server_engine", "test_sharding"),
)


USER_CACHE = os.environ.get("VNIAH_CACHE")
"""As it is outside of tests, where `vniah models --fetch` stores a model."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `pytest -n 2` a worker runs whole files, whose tests share fixtures."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "processes" if Path(file).stem in PROCESSES else file

    return Scheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts first what takes longest: one worker should not end long after the others."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (item.path.stem not in PROCESSES, item.path not in slow))


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Iterator[None]:
    """Keeps the bytecode of tests and of vniah, also where the environment asks for none.

    To compile both takes each worker as long as to import all else. Workers collect at the same
    time: where all files are collected, every second worker begins with the last, and when they
    meet, each finds what the other has written.
    """
    plain, sys.dont_write_bytecode = sys.dont_write_bytecode, False
    is_odd = os.environ.get("PYTEST_XDIST_WORKER", "gw0")[-1] in "13579"
    if is_odd and all(Path(name).is_dir() for name in session.config.args):
        for path in sorted(Path(__file__).parent.glob("test_*.py"), reverse=True):
            # What is wrong with a file is said when it is collected.
            with contextlib.suppress(Exception, pytest.skip.Exception):
                importlib.import_module(path.stem)
    result = yield
    sys.dont_write_bytecode = plain
    gc.freeze()  # all that was imported, which the garbage collector would search again and again
    gc.set_threshold(20_000, 10, 10)  # new objects, in place of 700: a search takes as long as most
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    """Freezes what the tests of a file have imported, and what they keep for others.

    Else each collection that a test or vniah itself asks for takes longer from file to file.
    """
    yield
    if nextitem is not None and nextitem.path != item.path:
        gc.collect()
        gc.freeze()


_NUMBERS = itertools.count()


@pytest.fixture
def tmp_path(request, tmp_path_factory) -> Path:
    """pytest's own, but named without a search in the folder of all tests.

    The search takes as long as the folder has entries: half a minute for all tests together.
    """
    name = re.sub(r"\W", "_", request.node.name)[:30]
    return tmp_path_factory.mktemp(f"{name}_{next(_NUMBERS)}", numbered=False)


@pytest.fixture(autouse=True)
def no_cache_of_others(tmp_path_factory, monkeypatch) -> Path:
    """No test sees the user's cache, or that of another test. What needs one makes the folder."""
    folder = tmp_path_factory.getbasetemp() / f"cache-{next(_NUMBERS)}"
    monkeypatch.setenv("VNIAH_CACHE", str(folder))
    return folder


@pytest.fixture
def own_cache(no_cache_of_others) -> Path:
    """The folder of the test's own cache."""
    no_cache_of_others.mkdir(exist_ok=True)
    return no_cache_of_others


@pytest.fixture
def user_cache() -> str | None:
    """$VNIAH_CACHE as it is outside of tests; None where it is not set."""
    return USER_CACHE


@pytest.fixture(scope="session")
def drawn_film(tmp_path_factory) -> Path:
    """A cache with the first part of the generated film, drawn once for all workers."""
    from vniah.haystacks.haystack import generated_haystack

    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    folder = folder / "drawn-film"
    with FileLock(folder.with_suffix(".lock")), pytest.MonkeyPatch.context() as patch:
        patch.setenv("VNIAH_CACHE", str(folder))
        generated_haystack(1)
    return folder


@pytest.fixture
def film(drawn_film, own_cache) -> None:
    """The test's cache holds a copy of the generated film, as if it had been drawn before."""
    shutil.copytree(drawn_film, own_cache, dirs_exist_ok=True)


@pytest.fixture
def no_network(monkeypatch) -> None:
    """Nothing connects anywhere, and the datasets library knows that."""

    def refuse(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)


@pytest.fixture
def short_measurements(monkeypatch) -> None:
    """Rates are measured for milliseconds: no test needs them to be exact."""
    from vniah.sweep import throughput

    monkeypatch.setattr(throughput, "_MEASURED_SECONDS", 0.02)


@pytest.fixture
def quick_pictures(monkeypatch) -> None:
    """Pictures are drawn, and nothing is measured for it: see `runs.draw_quickly`."""
    from runs import draw_quickly

    draw_quickly(monkeypatch)


_CHECKED: dict[Any, Any] = {}


@pytest.fixture
def checked_once(monkeypatch) -> None:
    """What the check of a forward pass found is kept for later runs of the same checkpoint.

    For tests that make many runs of one, for which each run makes the same check: that is half of a
    short run. Models whose revision is not a hash over files are checked each time, and so is the
    same checkpoint with other options, another kernel or other sequences.
    """
    from vniah.engines import decoder
    from vniah.forward.costs import DecoderShape

    check = decoder.check_forward

    def check_once(model: Any, sequences: Any, store: Any, **options: Any) -> Any:
        if len(model.revision) < 16 or options["ring"] is not None:
            return check(model, sequences, store, **options)
        kernel, place = options["kernel"], options["kv_location"]
        key = (
            *(type(model), model.revision, str(model.dtype), repr(dict(model.settings))),
            *(DecoderShape.of(model.decoder), kernel and kernel.name, place, repr(sequences)),
        )
        if key not in _CHECKED:
            _CHECKED[key] = check(model, sequences, store, **options)
        return _CHECKED[key]

    monkeypatch.setattr(decoder, "check_forward", check_once)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    """A tiny random checkpoint in the LongVA layout."""
    from checkpoints import write_checkpoint

    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    write_checkpoint(folder)
    return folder


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory) -> Path:
    """A haystack of forty small pictures."""
    folder = tmp_path_factory.mktemp("haystack")
    rng = np.random.default_rng(1)
    for index in range(40):
        pixels = rng.integers(0, 256, (32, 32, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:03d}.png")
    return folder


@pytest.fixture(scope="session")
def needle_folder(tmp_path_factory) -> Path:
    """Three needles with questions that the tiny tokenizer knows; one answer has two tokens."""
    folder = tmp_path_factory.mktemp("needles") / "three"
    folder.mkdir()
    rng = np.random.default_rng(2)
    rows = []
    for needle_id, answer in (("a", "7"), ("b", "yes"), ("c", "4 2")):
        pixels = rng.integers(0, 256, (32, 32, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{needle_id}.png")
        rows.append(
            {
                "file_name": f"{needle_id}.png",
                "needle_id": needle_id,
                "question": "find the red card . what is on it ?",
                "answer": answer,
            }
        )
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder
