"""What is free, on the CPU and, by what torch says of them, on devices that are not here."""

from types import SimpleNamespace

import psutil
import pytest
import torch

from vniah.forward.devices import free_bytes, give_back_unused, shares_host_memory
from vniah.forward.memory import fit_kv_location

CPU, MPS, CUDA = map(torch.device, ("cpu", "mps", "cuda"))


def test_free_on_the_cpu_is_what_the_machine_says():
    available = psutil.virtual_memory().available
    assert free_bytes(CPU) == pytest.approx(available, rel=0.2)


@pytest.mark.parametrize(
    ("metal", "taken", "machine", "expected"),
    [(20, 5, 40, 15), (20, 5, 10, 10), (20, 25, 40, 0)],
)
def test_free_on_mps_is_metals_part_of_the_machines_memory(
    metal, taken, machine, expected, monkeypatch
):
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: metal)
    monkeypatch.setattr(torch.mps, "current_allocated_memory", lambda: taken)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=machine))
    assert free_bytes(MPS) == expected


def test_devices_that_share_the_hosts_memory():
    assert [shares_host_memory(device) for device in (CPU, MPS, CUDA)] == [True, True, False]
    assert fit_kv_location(10, MPS, left=9) == fit_kv_location(10, CPU, left=9) == "disk"
    assert fit_kv_location(10, CUDA, left=9) == "host"


def test_unused_memory_is_given_back_where_torch_keeps_some(monkeypatch):
    called = []
    monkeypatch.setattr(torch.mps, "empty_cache", lambda: called.append("mps"))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: called.append("cuda"))
    for device in (CPU, MPS, CUDA):
        give_back_unused(device)
    assert called == ["mps", "cuda"]
