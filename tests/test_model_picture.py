"""The picture of a model in the report: blocks, formats, borders, and the position of each."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from support.reporting_samples import complete, with_graph

from sensitivity.records import GraphNode, ModelGraph, Quantizer
from sensitivity.reporting.data import ReportData
from sensitivity.reporting.graph import layout, picture
from sensitivity.reporting.graph.folding import BLOCKS, folded
from sensitivity.reporting.graph.picture import Box, Picture, picture_of
from sensitivity.reporting.page import render

needs_graphlay = pytest.mark.skipif(
    not layout.is_possible(), reason="graphlay is not installed: no picture is laid out"
)


def graph_of(layers: list[str], *edges: tuple[str, str]) -> ModelGraph:
    """Layers in a row, and further edges between them."""
    nodes = tuple(GraphNode("layer", name, "Conv") for name in layers)
    further = tuple((layers.index(before), layers.index(after)) for before, after in edges)
    return ModelGraph(nodes, (*itertools.pairwise(range(len(nodes))), *further))


def blocks(graph: ModelGraph) -> dict[str, int]:
    return {block.name: len(block.nodes) for block in folded(graph)}


def test_a_small_model_is_not_folded() -> None:
    assert set(blocks(graph_of([f"stage.{at}" for at in range(32)])).values()) == {1}


def test_layers_are_folded_by_the_beginning_of_their_names_until_none_is_large() -> None:
    parts = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    names = ["embed", *(f"net.blocks.{at}.{part}" for at in range(12) for part in parts), "head"]
    expected = {"embed": 1, **{f"net.blocks.{at}": 4 for at in range(12)}, "head": 1}
    assert blocks(graph_of(names)) == expected


def test_layers_whose_names_say_nothing_are_folded_along_the_graph_without_a_cycle() -> None:
    names = [f"Conv_{at}" for at in range(90)]
    skips = [(f"Conv_{at}", f"Conv_{at + 7}") for at in range(0, 80, 9)]
    graph = graph_of(names, *skips)
    found = folded(graph)
    assert len(found) == BLOCKS
    of_node = {node: number for number, block in enumerate(found) for node in block.nodes}
    between = {(of_node[a], of_node[b]) for a, b in graph.edges if of_node[a] != of_node[b]}
    assert not between & {(b, a) for a, b in between}


def test_a_residual_sum_goes_with_the_block_that_it_closes() -> None:
    nodes, edges = [GraphNode("input", "x")], []
    for block in range(12):
        start = len(nodes) - 1
        nodes += [GraphNode("layer", f"blocks.{block}.fc{part}", "MatMul") for part in (1, 2, 3)]
        nodes.append(GraphNode("join", f"sum{block}", "Add"))
        edges += [(start, start + 4), *((at, at + 1) for at in range(start, start + 4))]
    found = folded(ModelGraph(tuple(nodes), tuple(edges)))
    assert [block.name for block in found] == ["x", *(f"blocks.{at}" for at in range(12))]
    assert {block.nodes[-1] - block.nodes[0] for block in found[1:]} == {3}


def drawn(data: ReportData) -> Picture:
    found = picture_of(data)
    assert found is not None
    return found


def boxes(data: ReportData) -> dict[str, Box]:
    return {box.label or box.title.split(",")[0]: box for box in drawn(data).views[0].boxes}


@needs_graphlay
def test_boxes_show_format_and_effect_of_their_layers() -> None:
    data = with_graph(complete(12))
    found = boxes(data)
    left_out, kept = data.plan.skip[0], data.units[-1].name
    assert found[left_out].tone == "float"
    assert found[left_out].note == "float, +17.0 pt"
    assert found[left_out].share == 1.0
    assert (found[kept].tone, found[kept].effect_tone) == ("usual", "muted")
    assert found[kept].title.endswith("which may be nothing")
    assert found["Add"].kind == "join"
    other = [replace(one, format="INT16") for one in data.quantizers]
    assert boxes(replace(data, quantizers=tuple(other)))[kept].tone == "other"


@needs_graphlay
def test_lines_say_where_values_are_converted_and_where_ranges_differ() -> None:
    data = with_graph(complete(12))
    view = drawn(data).views[0]
    names = [box.label or "sum" for box in view.boxes]
    borders = {
        (names[line.before], names[line.after]): line.border for line in view.lines if line.border
    }
    last_float, first_int8 = data.units[4].name, data.units[5].name
    assert borders[last_float, first_int8] == "format"
    nothing_left_out = replace(data, plan=None)
    kinds = {line.border for line in drawn(nothing_left_out).views[0].lines}
    assert kinds == {"", "range"}


@needs_graphlay
def test_a_block_opens_its_layers_between_its_neighbours() -> None:
    data = with_graph(complete(48))
    found = drawn(data)
    whole, *insides = found.views
    assert [box.label for box in whole.boxes if box.kind == "block"] == [
        f"stage{at}" for at in range(1, 9)
    ]
    assert whole.boxes[1].note == "5/6 float, +17.0 pt"
    assert whole.boxes[1].tone == "mixed"
    assert whole.boxes[2].view == 2
    labels = [box.label for box in insides[1].boxes]
    assert labels == ["0", "1", "2", "3", "4", "5", "stage1", "stage3"]
    facts = found.layers["stage1.4"]
    assert facts.before == ("stage1.0", "stage1.3")
    assert facts.view == 1


def test_a_drawing_fits_its_width_and_no_line_leads_through_a_box() -> None:
    pytest.importorskip("graphlay")
    sizes = [(100.0, 40.0)] * 30
    chain = list(itertools.pairwise(range(30)))
    skips = [(4, 14), (6, 11), (9, 21), (12, 18), (15, 25), (18, 25)]
    for width in (1180.0, 720.0, layout.NARROW):
        found = layout.left_to_right(sizes, chain + skips, width)
        assert found.width <= width
        assert layout.narrow(sizes, chain + skips).width <= layout.NARROW
        corners = set(found.places)
        assert len(corners) == 30
        apart = [
            abs(a[0] - b[0]) >= 100 or abs(a[1] - b[1]) >= 40
            for a, b in itertools.combinations(found.places, 2)
        ]
        assert all(apart)
        parts = [
            pair for lines in found.lines for line in lines for pair in itertools.pairwise(line)
        ]
        assert not any(
            layout._crosses(part, place, (100, 40)) for part in parts for place in corners
        )
        assert {sign.box for sign in found.signs} <= set(range(30))


def test_an_earlier_run_says_how_its_picture_is_made() -> None:
    data = replace(complete(12), resume_command="sensitivity scan task.py --out runs/a --resume")
    page = render(data)
    assert "There is no picture" in page
    assert "sensitivity scan task.py --out runs/a --resume" in page


def test_without_the_layout_package_the_report_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(picture, "is_possible", lambda: False)
    assert "pip install graphlay" in render(with_graph(complete(12)))


def test_a_quantizer_of_another_format_does_not_make_a_layer_float() -> None:
    pytest.importorskip("graphlay")
    data = with_graph(complete(12))
    layer = data.units[-1].name
    of_plan = replace(data.plan, quantizers=(f"{layer}.weight_quantizer",))
    assert drawn(replace(data, plan=of_plan)).layers[layer].format == "INT8"
    assert isinstance(data.quantizers[0], Quantizer)
