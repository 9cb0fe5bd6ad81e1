from __future__ import annotations

import pytest

from tqc.artifact import Library
from tqc.errors import ArtifactError
from tqc.runtime.cuda import choose_cuda, fits


@pytest.mark.parametrize(
    ("arch", "capability", "expected"),
    [
        ("sm_80", (8, 0), True),
        ("sm_80", (8, 9), True),
        ("sm_86", (8, 0), False),
        ("sm_80", (9, 0), False),
        ("sm_90a", (9, 0), True),
        ("sm_120", (12, 1), True),
        ("sm_120a", (12, 1), False),
        ("sm_100", (12, 0), False),
    ],
)
def test_device_code_runs_within_its_major_version(arch, capability, expected):
    assert fits(arch, capability) is expected


def test_the_closest_library_is_chosen(fake):
    libraries = [Library(file=f"model-cuda-{arch}.so", kind="cuda", arch=arch) for arch in ("sm_80", "sm_86", "sm_90")]
    manifest = fake.make_manifest(libraries=(*libraries, Library(file="cpu.so", kind="cpu", arch="x")))
    assert choose_cuda(manifest, (8, 9)).arch == "sm_86"
    assert choose_cuda(manifest, (9, 0)).arch == "sm_90"
    with pytest.raises(ArtifactError, match=r"runs on this GPU(.|\n)*found: cuda sm_80"):
        choose_cuda(manifest, (12, 0))
