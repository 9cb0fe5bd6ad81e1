from __future__ import annotations

import json

import pytest

from tqc.errors import TqcError
from tqc.eval.colours import colour
from tqc.eval.points import Point, curves, front, point_colour, read_points


def write(tmp_path, points, **fields):
    file = tmp_path / "points.json"
    file.write_text(json.dumps({"points": points, **fields}))
    return file


def test_bits_and_bytes_are_converted(tmp_path):
    given = [{"name": "a", "bytes_per_token": 400, "kl": 0.1}, {"name": "b", "bits_per_value": 2, "kl": 0.2}]
    a, b = read_points(write(tmp_path, given, values_per_token=800)).points
    assert (a.bits_per_value, b.bytes_per_token) == (4.0, 200.0)
    assert a.kind == "ours"


def test_bytes_alone_do_not_say_how_many_bits_they_are(tmp_path):
    given = [{"name": "lonely", "bytes_per_token": 400, "kl": 0.1}]
    with pytest.raises(TqcError, match="lonely: bits_per_value"):
        read_points(write(tmp_path, given))


@pytest.mark.parametrize(
    "change", [{"kl": -1}, {"kind": "theirs"}, {"agreement": 1.5}, {"bits_per_value": 0}, {"kl": "0.1"}]
)
def test_impossible_points_are_refused(tmp_path, change):
    point = {"name": "a", "bits_per_value": 4.0, "kl": 0.1}
    assert read_points(write(tmp_path, [point])).points[0].name == "a"
    with pytest.raises(TqcError, match="not understood"):
        read_points(write(tmp_path, [point | change]))


def test_the_front_has_no_point_that_another_beats():
    sizes = {"a": (2, 0.5), "worse": (3, 0.6), "b": (3, 0.1), "same KL": (4, 0.1), "c": (5, 0.01), "dear": (5, 0.02)}
    points = [Point(name=name, bits_per_value=bits, kl=kl) for name, (bits, kl) in sizes.items()]
    assert [point.name for point in front(points)] == ["a", "b", "c"]
    assert front([]) == []


def test_curves_are_families_ours_first():
    names = {"kivi4-64": "peer", "tq4": "ours", "kivi4": "peer", "kivi2-64": "peer", "tq2": "ours", "polar": "ours"}
    names |= {"q4_0": "peer", "q8_0": "peer", "k4v3": "ours"}
    points = [Point(name=name, kind=kind, bits_per_value=len(name), kl=0.1) for name, kind in names.items()]
    found = {key: [point.name for point in members] for key, members in curves(points).items()}
    assert found == {
        ("ours", "tq"): ["tq2", "tq4"],
        ("ours", "polar"): ["polar"],
        ("ours", "tq pair"): ["k4v3"],
        ("peer", "kivi"): ["kivi4"],
        ("peer", "kivi-64"): ["kivi2-64", "kivi4-64"],
        ("peer", "q_0"): ["q4_0", "q8_0"],
    }
    assert next(iter(found))[0] == "ours"
    assert list(curves([Point(name="x", kind="peer", family="q", bits_per_value=4.5, kl=0.1)])) == [("peer", "q")]


def test_plans_are_mixed_layers_and_schemes_have_their_colour():
    plan, tq4, peer = (
        Point(name=name, kind=kind, bits_per_value=4.25, kl=0.1)
        for name, kind in (("plan-4", "ours"), ("tq4", "ours"), ("q4_0", "peer"))
    )
    assert list(curves([plan])) == [("ours", "plan")]
    assert point_colour(tq4) == colour("tq4")
    assert len({point_colour(point) for point in (plan, tq4, peer)}) == 3
