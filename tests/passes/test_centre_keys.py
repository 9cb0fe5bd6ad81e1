"""A key mean is subtracted in front of the attention."""

import numpy as np
from outline import outline
from toy import DIM, KV_HEADS, toy_module

from tqc.passes.centre_keys import CentreKeys

MEANS = {0: np.ones((KV_HEADS, DIM), "float32")}


def test_keys_are_centred_before_the_attention():
    main = CentreKeys(MEANS)(toy_module())["main"]
    assert outline(main, only="mean") == ["%14 = subtract(%10, layer0.key_mean)"]
    assert outline(main, only="tqc.attention") == [
        "%15 = tqc.attention(%6, %14, %13, past_key_0, past_value_0) {layer=0}"
    ]
    assert [int(dim) for dim in main.params[-1].ty.shape] == [KV_HEADS, 1, DIM]


def test_a_layer_with_a_softcap_is_left_alone():
    module = toy_module(softcap=30.0)
    assert outline(CentreKeys(MEANS)(module)["main"]) == outline(module["main"])
    assert len(CentreKeys(MEANS)(module)["main"].params) == len(module["main"].params)


def test_a_layer_with_sink_logits_is_left_alone():
    """The shift of the scores would raise or lower the sink beside them."""
    module = toy_module(sinks=True)
    assert outline(CentreKeys(MEANS)(module)["main"]) == outline(module["main"])
    assert len(CentreKeys(MEANS)(module)["main"].params) == len(module["main"].params)
