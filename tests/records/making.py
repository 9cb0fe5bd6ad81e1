"""Records with little in them."""

from __future__ import annotations

from tqc.records.record import Cell, Kernel, Record

KERNEL = Kernel(
    schedule="decode",
    arch="sm_90",
    query_heads=32,
    kv_heads=8,
    head_dim=128,
    k="tq4",
    v="tq4",
    page=64,
    ring=0,
    order="fragments",
    exact_dtype="float16",
)
DEFAULT, OTHER = {"warps": 4}, {"warps": 8}


def cell(context: int = 2048, device: str = "NVIDIA H100") -> Cell:
    return Cell(device=device, batch=1, context=context)


def record(config=DEFAULT, relative: float | None = 1.0, context: int = 2048, device="NVIDIA H100", **fields) -> Record:
    """A configuration that takes `relative` ms where the default takes 1; None: a fault."""
    rounds = () if relative is None else ((relative * 1e-3,),)
    made = {
        "kernel": KERNEL,
        "cell": cell(context, device),
        "config": config,
        "seconds": None if relative is None else relative * 1e-3,
        "relative": relative,
        "rounds": rounds,
        "fault": "spills" if relative is None else "",
        "versions": {"tqc": "0.1.0", "nvcc": "13.0"},
        "date": "2026-11-30T00:00:00Z",
    }
    return Record(**made | fields)
