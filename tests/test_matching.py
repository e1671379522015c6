"""Graph rewritings state what they need, and what happens where a place does not match."""

from __future__ import annotations

from collections.abc import Iterable

import onnx
import onnx_ir as ir
import pytest

from sensitivity.onnx_graph.matching import (
    NoMatch,
    RewriteInTurn,
    RewriteMatches,
    match_or_none,
    matches,
    needed,
    require,
)
from sensitivity.onnx_graph.walk import all_outputs, of_kind, size_of


def model(body: str) -> ir.Model:
    ports = "(float[batch, 3] x) => (float[batch, 3] y)"
    text = f'<ir_version: 8, opset_import: ["": 17]> m {ports} {{ {body} }}'
    return ir.from_proto(onnx.parser.parse_model(text))


def half(number: int) -> int:
    require(number % 2 == 0)
    return number // 2


def test_what_is_needed_is_handed_on_and_none_ends_the_match() -> None:
    assert needed(0) == 0
    with pytest.raises(NoMatch):
        needed(None)


def test_places_that_do_not_match_are_left_out() -> None:
    assert list(matches(half, [4, 5, 0])) == [2, 0]
    assert match_or_none(half, 5) is None


class OneOfTwoRelus:
    """Matches a Relu that another Relu reads, and lets that one bypass it."""

    def places(self, graph: ir.Graph) -> Iterable[ir.Node]:
        return of_kind(graph, "Relu")

    def match(self, place: ir.Node) -> ir.Node:
        require(len(of_kind(place.outputs[0].consumers(), "Relu")) == 1)
        return place

    def rewrite(self, graph: ir.Graph, found: ir.Node) -> None:
        for user in found.outputs[0].consumers():
            user.replace_input_with(0, graph.inputs[0])


class AtOnce(OneOfTwoRelus, RewriteMatches[ir.Node, ir.Node]):
    pass


class InTurn(OneOfTwoRelus, RewriteInTurn[ir.Node, ir.Node]):
    pass


CHAIN = "a = Relu (x) b = Relu (a) c = Add (a, x) y = Relu (b)"


@pytest.mark.parametrize("rewriting", [AtOnce, InTurn])
def test_a_pass_says_whether_it_rewrote_anything(rewriting: type) -> None:
    chain, single = model(CHAIN), model("y = Relu (x)")
    assert rewriting()(chain).modified
    assert not rewriting()(single).modified


class SecondAtOnce(AtOnce):
    """Matches Relus that read another operation, and bypasses them."""

    def match(self, place: ir.Node) -> ir.Node:
        require(place.inputs[0].producer() is not None)
        return super().match(place)


class SecondInTurn(InTurn):
    """As above."""

    def match(self, place: ir.Node) -> ir.Node:
        require(place.inputs[0].producer() is not None)
        return super().match(place)


def test_matches_are_found_before_all_rewriting_or_in_between() -> None:
    """The third of four Relus reads the model's input once the second was rewritten."""
    chain = "a = Relu (x) b = Relu (a) c = Relu (b) y = Relu (c)"
    at_once, in_turn = model(chain), model(chain)
    SecondAtOnce()(at_once)
    SecondInTurn()(in_turn)
    assert [node.inputs[0].name for node in at_once.graph] == ["x", "a", "x", "x"]
    assert [node.inputs[0].name for node in in_turn.graph] == ["x", "a", "x", "c"]


def test_operations_their_outputs_and_known_sizes() -> None:
    graph = model(CHAIN).graph
    assert [node.outputs[0].name for node in of_kind(graph, "Add", "Mul")] == ["c"]
    assert [value.name for value in all_outputs(graph)] == ["a", "b", "c", "y"]
    x = graph.inputs[0]
    assert (size_of(x, 0), size_of(x, 1)) == (None, 3)
    assert size_of(graph[0].outputs[0], 1) is None
