"""Language models in the layout of transformers: decoders without a vision tower, which read text.

A prompt is plain text (`vniah.models.plain_text`): what a task of text writes is what they read.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from vniah.errors import InputError
from vniah.models.configs import read_config
from vniah.models.contents import require_supported
from vniah.models.huggingface.folder import FamilyParts, read_parts
from vniah.models.plain_text import ReadsText
from vniah.models.rope import override_rope, rope_settings
from vniah.models.vocabulary import spell
from vniah.models.weights import weights_settings
from vniah.options import LOAD_DEFAULTS, LoadOptions
from vniah.protocol import TokenSequence

ADAPTER_VERSION = "1"
"""Part of the manifest: raise it when the tokens of a prompt change."""


class TextModel(ReadsText):
    """A causal language model; satisfies `vniah.protocol.LanguageModel`.

    Attributes:
        name: hub id or folder.
        revision: a hash over its files, or the hub's commit.
        decoder: the model of transformers.
        encoding: the version of this class, for the manifest.
        stop_ids: tokens that end an answer.
        generation_note: what of its generation_config.json greedy decoding does not apply.
    """

    has_causal_positions = True

    def __init__(self, parts: FamilyParts) -> None:
        self.name = parts.name
        self.revision = parts.revision
        self.decoder = parts.model
        self._tokenizer = parts.tokenizer
        self._load_in = parts.load_in
        self._adapter = parts.adapter
        self.encoding: Mapping[str, str] = {"adapter": f"{type(self).__name__} {ADAPTER_VERSION}"}
        self.stop_ids = parts.stop_ids
        self.generation_note = parts.generation_note
        self.token_ends("")  # raises if the tokenizer cannot be used

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        name: str,
        revision: str | None = None,
        options: LoadOptions = LOAD_DEFAULTS,
        adapter: Path | None = None,
        has_decoder: bool = True,
    ) -> Self:
        """The model in a checkpoint folder, as `vniah.models.loading.load_folder` finds its class.

        Args:
            folder: holds config.json, safetensors and tokenizer files.
            name: for titles and manifests.
            revision: tells versions of the weights apart; by default a hash over the files.
            options: how it is loaded; here no dtype means as stored, and no device the CPU.
            adapter: the folder of an adapter to merge into the weights.
            has_decoder: False is refused: it is for models that encode frames.

        Raises:
            ModelError: something is missing or does not fit; the message names it.
            InputError: an option is for models that read frames.
            MissingDependencyError: ``load_in`` needs another package.
        """
        if not has_decoder:
            raise InputError(f"{name} is a language model, which reads text: it encodes no frames")
        cls.require_options(options, name)
        require_supported(folder, name)
        parts = read_parts(
            folder,
            name,
            revision,
            options,
            class_name=MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[_model_type(folder)],
            find_body=lambda model: model.model,
            adapter=adapter,
            reads_frames=False,
        )
        model = cls(parts)
        if options.rope_theta is not None or options.rope_scaling is not None:
            model.override_rope(options.rope_theta, options.rope_scaling)
        return model

    @staticmethod
    def require_options(options: LoadOptions, name: str) -> None:
        """Raises `InputError` for an option that is for models that read frames."""
        given = options.given()
        if unknown := [name for name in ("prompt_template", "frame_size") if name in given]:
            raise InputError(
                f"{unknown[0]} is for models that read frames, and {name} reads text as it is: "
                f"leave {unknown[0]} out"
            )

    @property
    def settings(self) -> Mapping[str, Any]:
        """What else the logits depend on, for the manifest."""
        return {
            "trained_tokens": self.decoder.config.max_position_embeddings,
            **rope_settings(self.decoder.model),
            **weights_settings(self._load_in, self._adapter),
        }

    def override_rope(
        self, theta: float | None = None, scaling: Mapping[str, Any] | str | None = None
    ) -> None:
        """Changes the RoPE; base or scaling, if not given, is the checkpoint's again."""
        override_rope(self.decoder.model, theta=theta, scaling=scaling)

    def __repr__(self) -> str:
        place = f"{str(self.dtype).removeprefix('torch.')} on {self.device}"
        return f"<{type(self).__name__} {self.name}, {place}>"

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        dtype: torch.dtype = self.decoder.lm_head.weight.dtype
        return dtype

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        device: torch.device = self.decoder.lm_head.weight.device
        return device

    def position_ids(self, sequence: TokenSequence) -> Tensor:
        """0, 1, 2, ...: ``[num_tokens]``."""
        return torch.arange(sequence.num_tokens(0))

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of some tokens."""
        return str(self._tokenizer.decode(list(token_ids), skip_special_tokens=True)).strip()

    def spell(self, token_ids: Sequence[int]) -> str:
        """The text of some tokens as it stands in a prompt, with special tokens and white space."""
        return spell(self._tokenizer, token_ids)


def _model_type(folder: Path) -> str:
    return str(read_config(folder)["model_type"])
