"""What all tests share: a cache of their own, and small real parts."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """No test sees the user's cache, or that of another test."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("VNIAH_CACHE", str(folder))
    return folder


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
