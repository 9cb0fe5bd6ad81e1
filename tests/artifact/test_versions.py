from __future__ import annotations

import pytest

from tqc.artifact.versions import check_versions, installed
from tqc.errors import ArtifactError


def test_the_installed_versions_pass_and_post_releases_are_equal(make):
    here = installed()
    check_versions(make.manifest(**here))
    base = here["tvm_version"].split(".post")[0]
    check_versions(make.manifest(**{**here, "tvm_version": f"{base}.post7"}))


@pytest.mark.parametrize("field", ["tvm_version", "tvm_ffi_version"])
def test_another_release_is_refused(make, field):
    with pytest.raises(ArtifactError, match=r"another version(.|\n)*expected: 0\.1\.2"):
        check_versions(make.manifest(**{**installed(), field: "0.1.2"}))
