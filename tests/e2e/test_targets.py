"""One model for several machines: CPU levels, and CUDA architectures without a GPU."""

from __future__ import annotations

import numpy as np
import pytest
from references import random_ids

import tqc
from tqc.artifact import read_manifest, verify
from tqc.codegen import fatbin
from tqc.codegen.cuda_toolchain import find_nvcc
from tqc.cpu_levels import REQUIRED_FLAGS, machine_flags, missing_flags
from tqc.errors import ArtifactError, TargetError

LEVELS = ("x86-64-v2", "x86-64-v3", "x86-64-v4")
ARCHS = ("sm_80", "sm_90")


@pytest.fixture(scope="module")
def cuda_artifact(tiny_llama_onnx, compiled):
    try:
        find_nvcc()
    except TargetError as error:
        pytest.skip(str(error))
    return compiled(tiny_llama_onnx, kv="tq4", target="cuda", arch=",".join(ARCHS), max_context=512)


def test_every_cpu_level_gives_the_same_logits(tiny_llama_onnx, compiled):
    levels = [level for level in LEVELS if not missing_flags(level, machine_flags())]
    assert levels
    ids, seen = random_ids(300), []
    for level in levels:
        session = tqc.load(compiled(tiny_llama_onnx, kv="tq4", arch=level, max_context=512))
        prompt = session.prefill(ids)
        seen.append(np.stack([prompt, session.decode([ids[0]])]))
    for logits in seen[1:]:
        np.testing.assert_allclose(logits, seen[0], atol=2e-3)


def test_one_artifact_holds_a_library_for_each_level(tiny_llama_onnx, compiled):
    path = compiled(tiny_llama_onnx, kv="tq4", arch=",".join(LEVELS), max_context=512)
    libraries = read_manifest(path).libraries
    assert [library.cpu_level for library in libraries] == list(LEVELS)
    assert set(LEVELS) <= set(REQUIRED_FLAGS)
    alone = tqc.load(compiled(tiny_llama_onnx, kv="tq4", arch=LEVELS[0], max_context=512)).prefill(random_ids(40))
    np.testing.assert_allclose(tqc.load(path).prefill(random_ids(40)), alone, atol=2e-3)


def test_a_whole_model_becomes_device_code_of_each_architecture(cuda_artifact):
    manifest = verify(cuda_artifact)
    assert [library.arch for library in manifest.libraries] == list(ARCHS)
    for library in manifest.libraries:
        code = (cuda_artifact / library.file).read_bytes()
        assert fatbin.architectures(code) == (library.arch,)
        assert b"__global__" not in code
    schedules = {(kernel.name.split("/")[0], kernel.schedule) for kernel in manifest.kernels}
    assert schedules >= {(f"cuda:{arch}", name) for arch in ARCHS for name in ("append", "decode", "prefill")}


def test_a_cuda_artifact_does_not_run_on_the_cpu(cuda_artifact):
    with pytest.raises(ArtifactError, match="no library for this device"):
        tqc.load(cuda_artifact)


@pytest.mark.gpu
def test_a_gpu_writes_the_tokens_of_the_cpu(tiny_llama_onnx, compiled):
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU")
    major, minor = torch.cuda.get_device_capability()
    on_gpu = compiled(tiny_llama_onnx, kv="tq4", target="cuda", arch=f"sm_{major}{minor}", max_context=1024)
    on_cpu = compiled(tiny_llama_onnx, kv="tq4", max_context=1024)
    ids = random_ids(400)
    gpu = list(tqc.load(on_gpu, device="cuda").generate(ids, 128))
    assert gpu == list(tqc.load(on_cpu).generate(ids, 128))
