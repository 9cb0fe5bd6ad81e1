"""Where a chunk stands in its sequence."""

import numpy as np
from run_op import run_op

from tqc.dialect import last_token, positions


def test_positions_and_last_token():
    length, ids = np.array([3, 0], "int32"), np.zeros((2, 4), "int64")
    assert run_op(positions, length=length, ids=ids).tolist() == [[3, 4, 5, 6], [0, 1, 2, 3]]
    hidden = np.arange(2 * 4 * 3, dtype="float32").reshape(2, 4, 3)
    got = run_op(last_token, hidden=hidden, new_len=np.array([2, 0], "int32"))
    np.testing.assert_array_equal(got, [hidden[0, 1:2], hidden[1, 0:1]])
