from __future__ import annotations

from xml.etree import ElementTree

from report_data import NEEDLES, POINTS

from tqc.eval.drawing import cost_text, draw_panels, needle_svg, pareto_svg
from tqc.eval.needles import Needles
from tqc.eval.points import Points

SVG = "{http://www.w3.org/2000/svg}"


def parse(kind, given):
    import json

    return kind.model_validate_json(json.dumps(given))


def texts(svg: str) -> list[str]:
    return [element.text for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def test_needles_have_a_cell_for_each_place_of_any_panel():
    needles = parse(Needles, NEEDLES)
    full, small = draw_panels(needles.panels)
    assert [cell["text"] for cell in full.cells] == ["100", "100", "100", "–"]
    assert [cell["text"] for cell in small.cells] == ["100", "38", "38", "–"]
    assert small.cells[1]["title"] == "106,496 tokens, depth 0 %: 37.5 % found"
    assert small.note == "58.3 %"
    assert cost_text(needles.panels[0]) == "43.5 MB at 104k, 123 tokens/s"


def test_the_needle_drawing_is_xml_with_names_and_costs():
    svg = needle_svg(parse(Needles, NEEDLES))
    found = texts(svg)
    for text in ("fp16", "tq2.5", "4k", "104k", "100 %", "43.5 MB at 104k, 123 tokens/s"):
        assert text in found
    assert any("made-up needle" in text for text in found)
    assert svg == needle_svg(parse(Needles, NEEDLES))
    assert "http" not in svg.replace("http://www.w3.org/2000/svg", "")


def test_the_pareto_drawing_places_points_by_bits_and_kl():
    svg = pareto_svg(parse(Points, POINTS))
    root = ElementTree.fromstring(svg)
    at = {
        c.find(f"{SVG}title").text: (float(c.get("cx")), float(c.get("cy")))
        for c in root.iter(f"{SVG}circle")
        if len(c)
    }
    assert set(at) == {"tq2", "k3v2", "tq4"}
    assert at["tq2"][0] < at["k3v2"][0] < at["tq4"][0]
    assert at["tq2"][1] < at["k3v2"][1] < at["tq4"][1]
    (peer,) = [rect for rect in root.iter(f"{SVG}rect") if len(rect)]
    assert peer.find(f"{SVG}title").text == "q4_0"
    for text in ("tq2", "k3v2", "tq4", "q4_0", "TurboQuant, K and V apart", "□ codec only in"):
        assert text in texts(svg)


def test_names_are_escaped_and_never_over_each_other():
    crowd = [
        {"name": f"<tq4> {n}", "kind": "peer", "family": "crowd", "bits_per_value": 4.25, "kl": 0.001 * (1 + n / 1000)}
        for n in range(9)
    ]
    svg = pareto_svg(parse(Points, POINTS | {"points": POINTS["points"] + crowd}))
    root = ElementTree.fromstring(svg)
    names = [e for e in root.iter(f"{SVG}text") if e.text.startswith("<tq4> ")]
    assert 0 < len(names) < 9
    assert len({(name.get("x"), name.get("y")) for name in names}) == len(names)
