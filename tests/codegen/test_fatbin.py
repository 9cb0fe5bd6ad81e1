from __future__ import annotations

import struct

from tqc.codegen.fatbin import MAGIC, architectures


def entry(kind: int, arch: int, payload: bytes = b"x" * 8) -> bytes:
    header = struct.pack("<HHIQ", kind, 0x101, 64, len(payload)).ljust(28, b"\0") + struct.pack("<I", arch)
    return header.ljust(64, b"\0") + payload


def fat(*entries: bytes) -> bytes:
    body = b"".join(entries)
    return MAGIC + struct.pack("<HHQ", 1, 16, len(body)) + body


def test_entries_are_named_by_kind_and_architecture():
    assert architectures(fat(entry(2, 80), entry(1, 90))) == ("sm_80", "compute_90")


def test_every_fat_binary_in_a_file_counts_once():
    blob = b"\x7fELF" + fat(entry(2, 90)) + b"between" + fat(entry(2, 90), entry(2, 80)) + b"end"
    assert architectures(blob) == ("sm_90", "sm_80")


def test_the_magic_by_chance_is_no_fat_binary():
    assert architectures(b"..." + MAGIC + b"\xff" * 40) == ()
    assert architectures(b"no device code") == ()
    assert architectures(MAGIC) == ()
