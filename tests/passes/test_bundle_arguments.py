"""Hundreds of arguments become six."""

from outline import outline
from toy import toy_module

from tqc.passes.attach_cache import AttachCache
from tqc.passes.bundle_arguments import BundleArguments, weight_order


def test_state_and_weights_become_tuples():
    attached = AttachCache(sinks=0)(toy_module())
    order = weight_order(attached)
    decode = BundleArguments()(attached)["decode"]
    assert [var.name for var in decode.params] == ["input_ids", "length", "new_len", "page_table", "state", "params"]
    assert order["decode"] == order["prefill"] == ["embedding", "wq", "wk", "wv", "wo", "lm_head"]
    assert outline(decode)[:5] == [
        "%0 = state[0]",
        "%1 = state[1]",
        "%2 = state[2]",
        "%3 = state[3]",
        "%4 = params[0]",
    ]
