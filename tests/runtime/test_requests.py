from __future__ import annotations

import numpy as np
import pytest

from tqc.errors import SessionError
from tqc.runtime.requests import prompt_rows, step_ids


def rows(ids, mask=None, batch=1):
    return [row.tolist() for row in prompt_rows(ids, mask, batch, 100)]


@pytest.mark.parametrize(
    "ids", [[1, 2], (1, 2), np.array([1, 2]), np.array([1, 2], np.uint8), [np.int32(1), 2], [[1, 2]]]
)
def test_one_sequence(ids):
    assert rows(ids) == [[1, 2]]


def test_several_sequences():
    assert rows([[1], [2, 3]], batch=2) == [[1], [2, 3]]
    assert rows(np.array([[1, 2], [3, 4]]), batch=2) == [[1, 2], [3, 4]]


def test_padding_is_stripped_on_either_side():
    ids = np.array([[0, 0, 1], [2, 0, 0], [3, 4, 5]])
    assert rows(ids, [[0, 0, 1], [1, 0, 0], [1, 1, 1]], 3) == [[1], [2], [3, 4, 5]]
    assert rows([1, 2, 0], [1, 1, 0]) == [[1, 2]]


@pytest.mark.parametrize(
    ("ids", "mask", "batch", "message"),
    [
        ([1, 2], None, 2, "batch is not that"),
        ([[1], [2]], None, 1, "batch is not that"),
        ([], None, 1, "empty"),
        ([[1], []], None, 2, "sequence 1"),
        ([1, 100], None, 1, "not in the vocabulary(.|\n)*found: 100"),
        ([-1], None, 1, "not in the vocabulary"),
        ([1.5], None, 1, "whole numbers"),
        ([[1.0]], None, 1, "whole numbers"),
        (np.array([True]), None, 1, "whole numbers"),
        (np.zeros((1, 1, 1), int), None, 1, "one or two dimensions"),
        ([[[1]]], None, 1, "flat list"),
        ([[1, [2, 3]]], None, 1, "flat list"),
        (["one", "two"], None, 2, "flat list"),
        ([[1 << 70]], None, 1, "whole numbers"),
        (np.array(3), None, 1, "one or two dimensions"),
        ([1, 2, 3], [1, 0, 1], 1, "hole"),
        ([1, 2, 3], [1, 1], 1, "another shape"),
        ([1, 2], [0, 0], 1, "empty"),
    ],
)
def test_refused(ids, mask, batch, message):
    with pytest.raises(SessionError, match=message):
        prompt_rows(ids, mask, batch, 100)


@pytest.mark.parametrize(
    ("ids", "batch"), [(5, 1), ([5], 1), ([[5]], 1), (np.int64(5), 1), ([5, 6], 2), ([[5], [6]], 2)]
)
def test_a_step_has_one_id_a_sequence(ids, batch):
    assert [row.tolist() for row in step_ids(ids, batch, 100)] == [[5], [6]][:batch]


@pytest.mark.parametrize(
    ("ids", "batch"), [([5, 6], 1), (5, 2), ([[5, 6]], 2), ([], 1), ([100], 1), ([[1], [2, 3]], 2)]
)
def test_a_step_of_another_shape_is_refused(ids, batch):
    with pytest.raises(SessionError):
        step_ids(ids, batch, 100)
