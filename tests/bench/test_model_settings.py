from __future__ import annotations

import pytest

from tqc.bench.model_settings import Settings
from tqc.errors import TqcError


def test_contexts_are_an_eighth_to_all_of_what_engines_take():
    assert Settings().contexts_for(8192) == [1024, 2048, 4096, 8192]
    assert Settings().contexts_for(512) == [128, 256, 512]  # 64 is shorter than the 85 steps
    assert Settings(contexts=(300, 200, 300)).contexts_for(None) == [200, 300]


@pytest.mark.parametrize(("contexts", "limit"), [((85,), 512), ((86, 513), 512), ((), 64)])
def test_contexts_that_steps_do_not_fit_into(contexts, limit):
    with pytest.raises(TqcError, match="cannot be measured"):
        Settings(contexts=contexts).contexts_for(limit)


def test_without_a_limit_contexts_have_to_be_named():
    with pytest.raises(TqcError, match="how long"):
        Settings().contexts_for(None)


@pytest.mark.parametrize("options", [{"batches": ()}, {"repeats": 0}, {"new_tokens": 0}, {"prompt": 0}])
def test_settings_that_make_no_sense(options):
    with pytest.raises(TqcError, match="out of range"):
        Settings(**options)
