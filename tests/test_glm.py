"""GLM-V: which processor a checkpoint names decides how the times of frames are written."""

import json
from pathlib import Path

import pytest
from families import Tiny, build

from vniah.errors import ModelError
from vniah.models.loading import load_folder
from vniah.options import LoadOptions
from vniah.protocol import FrameSegment, TextSegment


def spelled(tiny: Tiny, folder: Path) -> str:
    """The prompt of three frames without their rows."""
    options = LoadOptions(frame_size=tiny.frame_size)
    model = load_folder(folder, name="tiny", options=options)
    frames = [FrameSegment("haystack", index) for index in range(3)]
    sequence = model.compose(frames, "Which?", "Red")
    texts = [segment for segment in sequence.segments if isinstance(segment, TextSegment)]
    return "".join(model.spell(text.token_ids) for text in texts)


def name_processor(folder: Path, file_name: str, processor: str) -> None:
    path = folder / file_name
    values = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(values | {"processor_class": processor}))


SECONDS = "<|end_of_image|>2<|end_of_video|>"
DECIMALS = "<|end_of_image|>2.0 seconds<|end_of_video|>"


@pytest.mark.parametrize(
    ("model_type", "written"),
    [("glm4v", SECONDS), ("glm4v_moe", SECONDS), ("glm46v", DECIMALS)],
)
def test_times_are_those_of_the_usual_processor_where_none_is_named(model_type, written, tmp_path):
    tiny = build(model_type)
    assert written in spelled(tiny, tiny.save(tmp_path / "checkpoint"))


@pytest.mark.parametrize(
    "file_name", ["preprocessor_config.json", "processor_config.json", "tokenizer_config.json"]
)
@pytest.mark.parametrize("model_type", ["glm4v", "glm4v_moe"])
def test_glm_4_6v_is_known_by_its_processor(model_type, file_name, tmp_path):
    """It has the model_type of GLM-4.5V, and GLM-4.6V-Flash that of GLM-4.1V."""
    tiny = build(model_type)
    folder = tiny.save(tmp_path / "checkpoint")
    name_processor(folder, file_name, "Glm46VProcessor")
    assert DECIMALS in spelled(tiny, folder)


def test_processor_of_another_family_is_refused(tmp_path):
    tiny = build("glm4v_moe")
    folder = tiny.save(tmp_path / "checkpoint")
    name_processor(folder, "preprocessor_config.json", "GlmgaProcessor")
    with pytest.raises(ModelError, match="the processor 'GlmgaProcessor', which may write"):
        load_folder(folder, name="tiny")
