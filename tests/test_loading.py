"""Models by name: factories, hub ids, embedded ones, and what is said of wrong names."""

import pytest

from vniah.errors import InputError, ModelError
from vniah.models.loading import embedded_models, load_model, takes_option

PLUG_IN = """
import torch
from vniah.models.protocol import TextSegment, TokenSequence

class Model:
    name, revision, frame_shape = "mine", "1", (1, 2)
    def encode_frames(self, frames):
        return torch.zeros(len(frames), 1, 2)
    def compose(self, frames, question, answer):
        return TokenSequence((TextSegment((0,)), *frames), (1,))
    def answer_logits(self, sequence, embeds):
        return torch.zeros(1, 2)

class Placed(Model):
    def __init__(self, device="cpu", *, rope_theta=1e4):
        self.name = f"{device} {rope_theta}"

    @classmethod
    def somewhere(cls, **options):
        return cls(**options)

class HalfModel:
    name, revision = "half", "1"

not_callable = 3
"""


@pytest.fixture
def plug_in(tmp_path, monkeypatch):
    (tmp_path / "my_plug_in.py").write_text(PLUG_IN)
    (tmp_path / "broken_plug_in.py").write_text("import a_module_that_is_not_there")
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("plug_in")
def test_factory_is_called():
    assert load_model("my_plug_in:Model").name == "mine"


@pytest.mark.usefixtures("plug_in")
@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("my_plug_in:Missing", "my_plug_in has no 'Missing'"),
        ("my_plug_in:Model.missing", "my_plug_in has no 'Model.missing'"),
        ("my_plug_in:not_callable", "not_callable is not callable"),
        ("my_plug_in:HalfModel", "lacks frame_shape, encode_frames, compose, answer_logits"),
        ("no_such_module_here:f", "'no_such_module_here' cannot be imported"),
        ("broken_plug_in:f", "No module named 'a_module_that_is_not_there'"),
    ],
)
def test_factory_that_gives_no_model_is_named(source, message):
    with pytest.raises(ModelError, match=message):
        load_model(source)


@pytest.mark.usefixtures("plug_in")
def test_method_of_a_class_is_a_factory():
    assert load_model("my_plug_in:Placed.somewhere").name == "cpu 10000.0"


@pytest.mark.usefixtures("plug_in")
@pytest.mark.parametrize("factory", ["Placed", "Placed.somewhere"])
def test_options_are_handed_to_factories_that_take_them(factory):
    options = {"device": "cuda:1", "rope_theta": 5e5}
    assert load_model(f"my_plug_in:{factory}", **options).name == "cuda:1 500000.0"
    assert load_model(f"my_plug_in:{factory}", device="cuda:1").name == "cuda:1 10000.0"


@pytest.mark.usefixtures("plug_in")
@pytest.mark.parametrize(
    ("factory", "options", "refused"),
    [
        ("Model", {"dtype": "float32"}, "dtype"),
        ("Model", {"dtype": "float32", "rope_theta": 5e5}, "dtype and no rope_theta"),
        ("Placed", {"device": "cpu", "prompt_template": "yi"}, "prompt_template"),
    ],
)
def test_option_that_a_factory_does_not_take_is_named(factory, options, refused):
    message = f"my_plug_in:{factory} takes no {refused}, so it decides that itself: leave it out"
    with pytest.raises(InputError, match=message):
        load_model(f"my_plug_in:{factory}", **options)


@pytest.mark.usefixtures("plug_in")
def test_factory_is_asked_for_what_it_takes():
    assert takes_option("my_plug_in:Placed", "device")
    assert not takes_option("my_plug_in:Placed", "dtype")
    assert not takes_option("my_plug_in:Model", "device")


@pytest.mark.parametrize("source", ["nonsense", "/no/such/folder", "a b"])
def test_unknown_model_names_the_ways_to_give_one(source):
    with pytest.raises(ModelError, match=r"give a checkpoint folder, a hub id"):
        load_model(source)


@pytest.mark.parametrize("source", ["", " "])
def test_empty_name_of_a_model_is_refused(source):
    with pytest.raises(InputError, match="a model must not be empty"):
        load_model(source)


def test_folder_without_a_config_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"has no config.json"):
        load_model(tmp_path)


def test_hub_id_that_cannot_be_had_is_one_line(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="'someone/nothing' is no folder here") as caught:
        load_model("someone/nothing")
    assert "\n" not in str(caught.value)


def test_reference_model_is_embedded():
    assert embedded_models() == (
        "reference-anyres",
        "reference-long",
        "reference-short",
        "reference-short-large-base",
        "reference-two-hops",
    )
