"""Rows behind a table of embeddings."""

import pytest
import torch
from torch import nn

from vniah.models.vocabulary import append_rows


def test_rows_follow_the_vocabulary():
    table = nn.Embedding(5, 3, padding_idx=1)
    before = table.weight.clone()
    rows = torch.randn(2, 3)
    longer = append_rows(table, rows)
    assert (longer.num_embeddings, longer.padding_idx) == (7, 1)
    assert torch.equal(longer(torch.tensor([0, 4])), before[[0, 4]])
    assert torch.equal(longer(torch.tensor([5, 6])), rows)
    assert torch.equal(table.weight, before) and table.num_embeddings == 5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rows_take_the_dtype_of_the_table(dtype):
    table = nn.Embedding(5, 3, dtype=dtype)
    longer = append_rows(table, torch.ones(1, 3))
    assert longer.weight.dtype == dtype and not longer.weight.requires_grad
