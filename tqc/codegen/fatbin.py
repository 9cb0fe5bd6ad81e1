"""Reading fat binaries: which architectures a library holds device code for."""

from __future__ import annotations

import struct

MAGIC = b"\x50\xed\x55\xba"
_KINDS = {1: "compute", 2: "sm"}


def architectures(blob: bytes) -> tuple[str, ...]:
    """The entries of every fat binary inside `blob`, in order and each once: `sm_90` machine code, `compute_90` PTX.

    The letter of `sm_90a` is not in the header. `blob` is a fat binary or a file that contains some, such as a
    shared library.
    """
    found: dict[str, None] = {}
    start = blob.find(MAGIC)
    while start >= 0:
        found.update(dict.fromkeys(_entries(blob, start)))
        start = blob.find(MAGIC, start + len(MAGIC))
    return tuple(found)


def _entries(blob: bytes, start: int) -> list[str]:
    if start + 16 > len(blob):
        return []
    _, version, header, size = struct.unpack_from("<IHHQ", blob, start)
    if version != 1 or header != 16 or start + header + size > len(blob):
        return []  # the four bytes occur by chance
    at, end, names = start + header, start + header + size, []
    while at + 64 <= end:
        kind, _, entry_header, entry_size = struct.unpack_from("<HHIQ", blob, at)
        (arch,) = struct.unpack_from("<I", blob, at + 28)
        names.append(f"{_KINDS.get(kind, kind)}_{arch}")
        at += entry_header + entry_size
    return names
