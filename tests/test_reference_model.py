import json

import pytest
from safetensors import safe_open
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from vniah.paths import embedded_dir

FILES = (
    "README.md",
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "vision_tower/config.json",
    "vision_tower/preprocessor_config.json",
)
MODEL_DIR = embedded_dir("models", "reference")
CARDS = [
    json.loads(line)
    for line in (embedded_dir("needles", "cards") / "metadata.jsonl").read_text().splitlines()
]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(MODEL_DIR)


def test_folder_is_complete_and_small() -> None:
    found = [path for path in MODEL_DIR.rglob("*") if path.is_file()]
    assert sorted(path.relative_to(MODEL_DIR).as_posix() for path in found) == sorted(FILES)
    assert sum(path.stat().st_size for path in found) <= 4_500_000


def test_config_describes_a_tiny_longva() -> None:
    config = json.loads((MODEL_DIR / "config.json").read_text())
    expected = {
        "model_type": "llava_qwen",
        "architectures": ["LlavaQwenForCausalLM"],
        "hidden_size": 128,
        "num_hidden_layers": 8,
        "rope_theta": 100_000.0,
        "max_position_embeddings": 32_768,
        "tie_word_embeddings": True,
        "mm_vision_tower": "vision_tower",
        "mm_vision_select_layer": -1,
        "mm_vision_select_feature": "patch",
        "mm_projector_type": "mlp2x_gelu",
        "mm_hidden_size": 128,
        "mm_patch_merge_type": "unires",
        "image_aspect_ratio": "pad",
        "torch_dtype": "float16",
    }
    assert {name: config[name] for name in expected} == expected


def test_weights_are_float16_under_the_names_of_longva() -> None:
    with safe_open(MODEL_DIR / "model.safetensors", "pt") as weights:
        names = set(weights.keys())
        kinds = {weights.get_slice(name).get_dtype() for name in names}
        vocabulary = weights.get_slice("model.embed_tokens.weight").get_shape()[0]
    assert kinds == {"F16"}
    assert vocabulary == json.loads((MODEL_DIR / "config.json").read_text())["vocab_size"]
    tower = "model.vision_tower.vision_tower.vision_model."
    for name in (
        f"{tower}embeddings.class_embedding",
        f"{tower}encoder.layers.2.mlp.fc2.weight",
        "model.mm_projector.0.weight",
        "model.mm_projector.2.bias",
        "model.layers.7.self_attn.q_proj.bias",
        "model.norm.weight",
    ):
        assert name in names
    assert not any(name.startswith("lm_head") for name in names)


def test_default_cards_have_keys_of_their_own() -> None:
    assert len(CARDS) == 10
    assert len({card["question"] for card in CARDS}) == 10
    for card in CARDS:
        assert list(card) == ["file_name", "needle_id", "question", "answer"]
        assert card["needle_id"].endswith(card["answer"])
        assert (embedded_dir("needles", "cards") / card["file_name"]).exists()


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card["needle_id"])
def test_questions_and_answers_survive_the_tokenizer(
    card: dict[str, str], tokenizer: PreTrainedTokenizerBase
) -> None:
    for text in (card["question"], card["answer"]):
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids) == text.lower()


def test_digits_are_read_one_by_one(tokenizer: PreTrainedTokenizerBase) -> None:
    assert tokenizer.tokenize("47") == ["4", "7"]


def test_the_chat_template_marks_are_single_tokens(tokenizer: PreTrainedTokenizerBase) -> None:
    text = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert len(ids) == 11
    assert tokenizer.unk_token_id not in ids
    config = json.loads((MODEL_DIR / "config.json").read_text())
    assert tokenizer.eos_token_id == config["eos_token_id"] == ids[8]
