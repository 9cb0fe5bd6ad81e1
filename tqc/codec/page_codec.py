"""One page of the cache, as kernels write and read it: elements and scales in the order of `layout`."""

from __future__ import annotations

from typing import Literal

import ml_dtypes
import numpy as np

from tqc.codec import pages, short_scale
from tqc.codec.banded import Banded
from tqc.codec.form import Form
from tqc.codec.orders import ORDERS
from tqc.codec.polar import Polar
from tqc.errors import CodecError

Side = Literal["k", "v"]


def encode_page(
    form: Form, side: Side, z: np.ndarray, seed: int = 0, scalar: str | None = None, order: str = "lanes"
) -> tuple[np.ndarray, np.ndarray]:
    """(elements `form.dtype` [..., units], scale `form.scale_dtype` [..., scales·page]) of a page of vectors z
    [..., page, head_dim] in the cache's basis. `seed`: that of the cache, whose sketches it chooses. In the order
    `fragments` codes are uint32 [..., units / 2].

    What cannot be kept is NaN as in the codec of the scheme, or infinite in an exact one. Raises CodecError if the
    vectors are not those of the form, or the page is no multiple of 16 tokens (`fragments`: not of 64).
    """
    z = np.asarray(z)
    if z.ndim < 2 or z.shape[-1] != form.head_dim or z.shape[-2] % pages.UNIT_BITS or side not in ("k", "v"):
        raise CodecError(
            "this is no page",
            where=form.scheme,
            expected=f"floats of shape (..., a multiple of {pages.UNIT_BITS} tokens, {form.head_dim}), side k or v",
            found=f"{z.shape}, side {side}",
        )
    laid = ORDERS[order]
    if form.exact:
        with np.errstate(over="ignore"):
            values = z.astype(_dtype(form))
        return laid.pack_exact(values, side), np.zeros((*z.shape[:-2], 0), np.float16)
    if form.kind == "polar":
        polar = Polar(form.scheme, form.head_dim, seed)
        codes, scales = polar.quantize(z)
        parts = [_pack_angles(codes[..., rows], bits) for rows, bits in polar.streams]
    else:
        codes, scales = Banded(form.scheme, form.head_dim, seed, scalar).quantize(z)
        parts = [laid.pack(codes[..., band.start : band.stop], band.bits, side) for band in form.coded_bands]
    elements = np.concatenate(parts, axis=-1)
    scale = _flat(scales[..., laid.tokens(z.shape[-2]), :].swapaxes(-1, -2))
    return elements.view(laid.word), short_scale.encode(scale) if form.scale_dtype == "uint8" else scale


def decode_page(
    form: Form, side: Side, elements: np.ndarray, scale: np.ndarray, page: int, order: str = "lanes"
) -> np.ndarray:
    """The coded vectors of a page of `page` tokens, float32 [..., page, rows]: the inverse of `encode_page`."""
    laid = ORDERS[order]
    if not form.exact:
        elements = np.ascontiguousarray(elements).view(np.uint16)
    if elements.shape[-1] != form.units(page) or scale.shape[-1] != form.scales * page:
        raise CodecError(
            "this is no page",
            where=form.scheme,
            expected=f"{form.units(page)} elements, {form.scales * page} scales",
            found=f"{elements.shape[-1]} and {scale.shape[-1]}",
        )
    if form.exact:
        return laid.unpack_exact(elements, form.head_dim, side).astype(np.float32)
    lead = elements.shape[:-1]
    scale = short_scale.decode(scale) if form.scale_dtype == "uint8" else scale
    scales = scale.reshape(*lead, form.scales, page)[..., np.argsort(laid.tokens(page))].swapaxes(-1, -2)
    if form.kind == "polar":
        polar, codes, start = Polar(form.scheme, form.head_dim), [], 0
        for rows, bits in polar.streams:
            count = rows.stop - rows.start
            end = start + count * page * bits // pages.UNIT_BITS
            codes.append(_unpack_angles(elements[..., start:end], bits, count))
            start = end
        return polar.dequantize(np.concatenate(codes, axis=-1), scales)
    codes = np.zeros((*lead, page, form.rows), np.uint8)
    for band in form.coded_bands:
        start = form.offset(band, page)
        units = elements[..., start : start + page * band.rows * band.bits // pages.UNIT_BITS]
        codes[..., band.start : band.stop] = laid.unpack(units, band.bits, band.rows, side)
    return Banded(form.scheme, form.head_dim).dequantize(codes, scales)


def _dtype(form: Form) -> np.dtype:
    return np.dtype(ml_dtypes.bfloat16 if form.dtype == "bfloat16" else form.dtype)


def _flat(x: np.ndarray) -> np.ndarray:
    """x [..., a, b] as [..., a·b]."""
    return np.ascontiguousarray(x).reshape(*x.shape[:-2], x.shape[-2] * x.shape[-1])


def _pack_angles(codes: np.ndarray, bits: int) -> np.ndarray:
    """Codes [..., page, angles] → uint16 [..., angles·page·bits/16], of one angle after the other."""
    return _flat(pages.pack_v(codes.swapaxes(-1, -2)[..., None], bits))


def _unpack_angles(units: np.ndarray, bits: int, count: int) -> np.ndarray:
    """The inverse of `_pack_angles` for `count` angles."""
    rows = units.reshape(*units.shape[:-1], count, units.shape[-1] // count)
    return pages.unpack_v(rows, bits, 1)[..., 0].swapaxes(-1, -2)
