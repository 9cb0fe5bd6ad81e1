"""The matrices that vectors enter the cache in, where a scheme asks for some: from second moments over a text.

Keys: only products with queries count, so what an error along a direction costs is the queries' second moment there.
Values: an error passes through the output weights, so it costs what they make of it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from tqc.codec.basis import split_basis
from tqc.codec.form import Form, form
from tqc.codec.scheme import is_bands
from tqc.errors import PassError
from tqc.passes.bases import Bases

from .moments import Moments
from .transform import band_transform


def bases_of(
    schemes: Mapping[int, tuple[str, str]],
    head_dims: Mapping[int, int],
    moments: Mapping[int, Moments],
    centred: Collection[int],
    outputs: Mapping[int, np.ndarray],
    seed: int = 0,
) -> dict[int, Bases]:
    """The bases of the layers whose schemes need them; `centred` are those whose keys are.

    `outputs` holds, for layers where it is known, the second moment [Hk, D, D] of the output weights' rows that a KV
    head's values meet. Raises PassError if a layer's moments are missing.
    """
    made = {}
    for layer, (k, v) in schemes.items():
        keys, values = (form(name, head_dims[layer]) for name in (k, v))
        if keys.basis != "matrix" and values.basis != "matrix":
            continue
        if layer not in moments:
            raise PassError(
                "this scheme needs a model that was measured over a text",
                where=f"layer {layer}: {k if keys.basis == 'matrix' else v}",
                expected="tokenizer.json beside the model",
                hint="put the tokenizer there, or choose a scheme without outliers and bands, such as tq4",
            )
        measured = moments[layer]
        found = measured.centred_keys if layer in centred else measured.keys
        made[layer] = Bases.of(
            _matrix(keys, found, measured.queries, seed) if keys.basis == "matrix" else None,
            _matrix(values, measured.values, outputs.get(layer), seed) if values.basis == "matrix" else None,
        )
    return made


def _matrix(stored: Form, moment: np.ndarray, weight: np.ndarray | None, seed: int) -> np.ndarray:
    """The left factor [Hk, D, D] of vectors with second moment `moment`, whose errors cost what `weight` says."""
    if is_bands(stored.scheme):
        return np.stack(
            [
                band_transform(stored, moment[head], None if weight is None else weight[head], seed)
                for head in range(len(moment))
            ]
        )
    outliers = next(b for b in stored.bands if b.bits)
    count = outliers.source[1] if outliers.sketch else outliers.rows
    largest = np.argsort(-np.diagonal(moment, axis1=1, axis2=2), axis=1, kind="stable")[:, :count]
    return np.stack([split_basis(stored, channels.tolist(), seed) for channels in np.sort(largest, axis=1)])


def output_moments(weight: np.ndarray, kv_heads: int, head_dim: int) -> np.ndarray:
    """W_o [H·D, N] → Σ over the query heads of each KV head of W_h·W_hᵀ, float64 [Hk, D, D]."""
    rows = weight.reshape(-1, head_dim, weight.shape[-1]).astype(np.float64)
    return (rows @ rows.swapaxes(1, 2)).reshape(kv_heads, -1, head_dim, head_dim).sum(axis=1)
