"""The artifact: a directory with a manifest, compiled libraries, weights and tokenizer files."""

from .command import command_line
from .manifest import (
    FORMAT_VERSION,
    Cache,
    Centring,
    Digests,
    FileEntry,
    Forward,
    ForwardTensor,
    InPlace,
    Kernel,
    Layer,
    Library,
    Manifest,
    Source,
    StateTensor,
)
from .params import Param
from .verify import Problem, problems, read_manifest, verify
from .write import check_output, write_artifact

__all__ = [
    "FORMAT_VERSION",
    "Cache",
    "Centring",
    "Digests",
    "FileEntry",
    "Forward",
    "ForwardTensor",
    "InPlace",
    "Kernel",
    "Layer",
    "Library",
    "Manifest",
    "Param",
    "Problem",
    "Source",
    "StateTensor",
    "check_output",
    "command_line",
    "problems",
    "read_manifest",
    "verify",
    "write_artifact",
]
