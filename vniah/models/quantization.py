"""Quantizes the weight matrices of decoder layers to 8 or 4 bits, with bitsandbytes.

8bit    LLM.int8() (Dettmers et al. 2022, arXiv 2208.07339): weights and rows are rounded to 8 bits,
        row by row; columns in which a row of the call exceeds 6 are computed in full precision.
        Which columns these are depends on the rows in the call, so chunks of another size change
        logits by as much as that rounding.
4bit    NF4 (Dettmers et al. 2023, arXiv 2305.14314): weights only, in blocks of 64. They are
        multiplied in the model's dtype.

Embeddings, norms, the head, the vision tower and the projector stay as they are.
"""

import logging
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from vniah.errors import MissingDependencyError, ModelError, first_line
from vniah.options import LoadIn

_FOUR_BIT_KIND = "nf4"
_LARGEST_ROUNDED = 6.0  # as in the paper, and the library's default

# What bitsandbytes raises if it has no kernel for a device or a shape.
_UNFIT = (RuntimeError, ValueError, TypeError, AttributeError, AssertionError)


def quantize_layers(
    layers: Iterable[nn.Module], load_in: LoadIn, *, dtype: torch.dtype, device: torch.device
) -> None:
    """Quantizes the matrices of decoder layers and moves the layers to a device, one by one.

    Args:
        layers: a decoder's, with their weights in host memory.
        load_in: ``"8bit"`` or ``"4bit"``.
        dtype: of the rest of the decoder.
        device: to which the layers are moved.

    Raises:
        MissingDependencyError: bitsandbytes is not installed.
        ModelError: bitsandbytes has no kernel for this device.
    """
    library = require_bitsandbytes(load_in)
    make = {"8bit": _in_8_bits, "4bit": _in_4_bits}[load_in]
    for layer in layers:
        for parent in list(layer.modules()):
            for name, module in list(parent.named_children()):
                if type(module) is nn.Linear:
                    setattr(parent, name, make(library, module, dtype))
        try:
            layer.to(device)
        except _UNFIT as error:
            raise ModelError(
                f"bitsandbytes cannot hold the decoder's layers in {load_in} on {device}: "
                f"{first_line(error)}"
            ) from error


def rounds_rows(layers: nn.Module) -> bool:
    """True if layers round not only their weights but also the rows they are multiplied with."""
    return any(parameter.dtype == torch.int8 for parameter in layers.parameters())


def require_bitsandbytes(load_in: LoadIn) -> ModuleType:
    """The library bitsandbytes.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        import bitsandbytes
    except ImportError as error:
        raise MissingDependencyError(
            "bitsandbytes", extra="quantized", purpose=f"--load-in {load_in}"
        ) from error
    # At every product it warns that rows are cast to float16 for the rounding.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    library: ModuleType = bitsandbytes
    return library


def _in_8_bits(library: Any, linear: nn.Linear, dtype: torch.dtype) -> nn.Module:
    return _replaced(
        linear,
        lambda **sizes: library.nn.Linear8bitLt(
            **sizes, has_fp16_weights=False, threshold=_LARGEST_ROUNDED
        ),
        lambda weight: library.nn.Int8Params(weight, has_fp16_weights=False, requires_grad=False),
    )


def _in_4_bits(library: Any, linear: nn.Linear, dtype: torch.dtype) -> nn.Module:
    kind = {"quant_type": _FOUR_BIT_KIND, "compress_statistics": False}
    made: Any = _replaced(
        linear,
        lambda **sizes: library.nn.Linear4bit(**sizes, compute_dtype=dtype, **kind),
        lambda weight: library.nn.Params4bit(weight, requires_grad=False, **kind),
    )
    # On CPUs with AVX512-BF16 the library would pack the weights anew, compute in bfloat16 whatever
    # the model's dtype is, and fail where a row is not a whole number of blocks.
    made.support_avx512bf16_for_cpu = False
    module: nn.Module = made
    return module


def _replaced(
    linear: nn.Linear, make: Callable[..., nn.Module], hold: Callable[[Tensor], nn.Parameter]
) -> nn.Module:
    """A module with a linear layer's weights; it rounds them when it is moved to a device."""
    with torch.device("meta"):
        made = make(
            input_features=linear.in_features,
            output_features=linear.out_features,
            bias=linear.bias is not None,
        )
    made.weight = hold(linear.weight.data)
    if linear.bias is not None:
        made.bias = linear.bias
    return made.requires_grad_(False).eval()
