from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from tqc.frontend.slabs import slabs
from tqc.frontend.weights import ArrayTensor, Cast, FileTensor, Transpose, Weight
from tqc.passes.layout_weights import PackColumns

ARRAY = np.arange(70 * 40, dtype=np.float32).reshape(70, 40)
PLAIN = Weight("w", ARRAY.shape, "float32", ArrayTensor(ARRAY), "w")


@dataclass(frozen=True)
class Reversed:
    """A transform that needs all of its argument."""

    def apply(self, array: np.ndarray) -> np.ndarray:
        return array[::-1]


def _then(weight: Weight, *transforms) -> Weight:
    for transform in transforms:
        dtype = getattr(transform, "dtype", None)
        weight = weight.then(transform, shape=transform.shape(weight.shape), dtype=dtype)
    return weight


CHAINS = {
    "plain": (),
    "transposed": (Transpose((1, 0)),),
    "narrowed": (Cast("float16"),),
    "packed": (PackColumns(16),),
    "packed from rows": (PackColumns(16, transposed=True),),
    "all": (Cast("float16"), Transpose((1, 0)), PackColumns(32), Transpose((0, 2, 1))),
}


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("most", [1, 5000, 1 << 20])
def test_slabs_are_the_weight(chain, most):
    weight = _then(PLAIN, *CHAINS[chain])
    parts = list(slabs(weight, most))
    np.testing.assert_array_equal(np.concatenate(parts), weight.numpy())
    row = weight.nbytes // weight.shape[0]
    assert all(part.nbytes <= max(most, row) and part.flags.c_contiguous for part in parts)
    assert len(parts) == 1 if most >= weight.nbytes else len(parts) > 1


def test_only_the_rows_of_a_slab_are_read(tmp_path):
    path = tmp_path / "w"
    path.write_bytes(ARRAY.tobytes())

    @dataclass(frozen=True)
    class Watched(Cast):
        def apply(self, array):
            seen.append(array.shape)
            return super().apply(array)

    seen = []
    weight = _then(Weight("w", ARRAY.shape, "float32", FileTensor(path, 0, ARRAY.shape, "float32"), "w"))
    weight = _then(weight, Watched("float16"), PackColumns(16, transposed=True))
    list(slabs(weight, weight.nbytes // weight.shape[0]))
    assert seen == [(16, 40)] * 4 + [(6, 40)]


def test_a_transform_that_needs_everything_gets_it():
    weight = PLAIN.then(Reversed()).then(Cast("float16"), dtype="float16")
    (whole,) = slabs(weight, 1)
    np.testing.assert_array_equal(whole, ARRAY[::-1].astype(np.float16))


def test_packed_rows_cannot_be_cut():
    weight = _then(PLAIN, PackColumns(16), Transpose((1, 0, 2)))
    with pytest.raises(ValueError, match="a part of 70 rows"):
        list(slabs(weight, 1))


@pytest.mark.parametrize("wrong", [{"shape": (40, 71)}, {"dtype": "float64"}])
def test_a_transform_that_breaks_its_promise(wrong):
    weight = PLAIN.then(Transpose((1, 0)), **{"shape": (40, 70), **wrong})
    with pytest.raises(ValueError, match="announced"):
        list(slabs(weight, 1000))
