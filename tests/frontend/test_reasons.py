"""A refused operation says what it is and why."""

from __future__ import annotations

import numpy as np
import pytest

from tqc.errors import FrontendError
from tqc.frontend.expand.refused import EXPANDERS


@pytest.mark.parametrize("kind", EXPANDERS)
def test_refused_with_a_reason(bench, kind):
    with pytest.raises(FrontendError, match=rf"{kind.split('::')[1]} is not supported\. \w+") as error:
        bench({"x": np.ones(3, np.float32)}, {}, kind).expand()
    assert "composite" in str(error.value)
