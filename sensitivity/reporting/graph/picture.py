"""The picture of a model: boxes with formats and sensitivities, and the lines between them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import chain, groupby
from operator import attrgetter
from typing import Any, Literal

from sensitivity.records import Effect, ModelGraph, Quantizer, Unit
from sensitivity.reporting.charts import Tone, effect_tone
from sensitivity.reporting.data import ReportData
from sensitivity.reporting.formats import MetricFormat, count, includes_zero, joined
from sensitivity.reporting.graph.folding import Block, folded
from sensitivity.reporting.graph.layout import (
    Edge,
    Layout,
    Point,
    is_possible,
    left_to_right,
    narrow,
)
from sensitivity.reporting.graph.neighbours import Neighbours
from sensitivity.reporting.number_formats import FLOAT, USUAL, format_of, planned_quantizers

BOX, DOT, PORT = (124.0, 46.0), (16.0, 16.0), (124.0, 24.0)
"""Sizes in pixels: of layers and blocks, of joins, and of inputs, outputs and neighbouring
blocks."""

WIDTHS = {"wide": 1180.0, "middle": 720.0}
"""Largest widths in pixels of drawings from left to right, for windows of two widths. A third
drawing runs from top to bottom."""

LABEL = 16
"""Largest number of characters in a label."""

BoxKind = Literal["block", "layer", "join", "port"]
BoxTone = Literal["usual", "other", "float", "mixed", ""]
Border = Literal["", "format", "range"]


@dataclass(frozen=True)
class Box:
    """A box of a drawing.

    label, note: the two lines in it.
    title: the same in words.
    layers: names of the layers that it represents.
    tone: by the formats of its layers; "" if it has none.
    share: effect of its most sensitive layer, 0 to 1 of the largest in the model; None if unknown.
    effect_tone: as in the charts of effects.
    view: index in `Picture.views` of the view that it opens; None if it opens none.
    """

    kind: BoxKind
    label: str
    note: str
    title: str
    layers: tuple[str, ...] = ()
    tone: BoxTone = ""
    share: float | None = None
    effect_tone: Tone = "plain"
    view: int | None = None

    @property
    def sign(self) -> str:
        """The label, shortened to the size of a sign."""
        return shortened(self.label or "a join", 12)

    @property
    def size(self) -> Point:
        """Width and height in pixels."""
        return {"join": DOT, "port": PORT}.get(self.kind, BOX)


@dataclass(frozen=True)
class Line:
    """A line from one box to another, by their positions in `View.boxes`.

    border: "format" if the values change their format, "range" if they are read with different
        ranges, "" otherwise.
    """

    before: int
    after: int
    border: Border = ""


@dataclass(frozen=True)
class View:
    """One drawing, of the whole model or of the inside of a block.

    widths: keys of `WIDTHS` for which it is laid out.
    layouts: by the window's width.
    """

    name: str
    boxes: tuple[Box, ...]
    lines: tuple[Line, ...]
    widths: tuple[str, ...] = ("middle",)

    @cached_property
    def layouts(self) -> dict[str, Layout]:
        sizes = [box.size for box in self.boxes]
        edges = [(line.before, line.after) for line in self.lines]
        rows = {name: left_to_right(sizes, edges, WIDTHS[name]) for name in self.widths}
        return rows | {"narrow": narrow(sizes, edges)}


@dataclass(frozen=True)
class LayerFacts:
    """What the page says about a layer in addition to its row in the table.

    unit: the unit that it belongs to.
    before, after: layers that it reads from, and layers that read it.
    view: index of the view in which it is drawn.
    """

    unit: str
    format: str
    operation: str
    before: tuple[str, ...]
    after: tuple[str, ...]
    view: int


@dataclass(frozen=True)
class Picture:
    """All drawings of a model.

    views: the whole model first, then the inside of each block.
    layers: by name.
    """

    views: tuple[View, ...]
    layers: Mapping[str, LayerFacts]

    @property
    def boxes(self) -> list[Box]:
        """The boxes of all views."""
        return [box for view in self.views for box in view.boxes]

    @property
    def borders(self) -> set[Border]:
        """Kinds of borders that are drawn somewhere."""
        return {line.border for view in self.views for line in view.lines}


def picture_of(data: ReportData) -> Picture | None:
    """Return the picture of a run's model.

    Returns None if its graph is unknown or cannot be laid out.
    """
    if data.graph is None or not is_possible():
        return None
    drawing = _Drawing(data, without_inner_outputs(data.graph))
    views = (drawing.whole(), *map(drawing.inside, drawing.insides))
    return Picture(views, drawing.facts())


def without_inner_outputs(graph: ModelGraph) -> ModelGraph:
    """Return the graph without outputs whose values the model still uses.

    It is unchanged if all outputs are such.
    """
    near = Neighbours(graph.edges)
    outputs = set(graph.of_kind("output"))
    inner = set[int]()
    for output in outputs:
        readers = set[int]()
        for source in near.before[output]:
            readers.update(near.after[source])
        if readers - outputs:
            inner.add(output)
    return graph if inner == outputs else graph.without(inner)


class _Drawing:
    """A graph in blocks, with what is known about its layers.

    layers: names of all nodes with quantizers, by position. Outputs of Q/DQ files may have some
        too.
    units: units that each layer is part of.
    effects: of each measured unit.
    insides: blocks that hold several layers, which are also drawn on their own.
    view_of: index of each of them in `Picture.views`, by name.
    formats: of each node, in words; "" if it has none.
    borders: by edge.
    """

    def __init__(self, data: ReportData, graph: ModelGraph) -> None:
        self.graph, self.blocks = graph, folded(graph)
        self.metric = MetricFormat(data.metric, data.full_scale)
        self.usual = data.format
        self.skip = frozenset(data.skip)
        self.units = _units_of_layers(data.units)
        self.effects = {effect.unit: effect for effect in data.effects if effect.is_measured}
        values = [effect.effect.value for effect in self.effects.values()]
        self.largest = max(values, default=0.0)
        self.layers = _layers_of(graph, self.units)
        self.insides = [block for block in self.blocks if len(self.layers_in(block)) > 1]
        self.view_of = {block.name: number for number, block in enumerate(self.insides, 1)}
        self.formats = _node_formats(data, graph)
        self.borders = _borders(data, graph, self.formats)

    def places_in(self, block: Block) -> list[int]:
        """Return the positions of a block's layers."""
        return sorted(self.layers.keys() & block.nodes)

    def layers_in(self, block: Block) -> tuple[str, ...]:
        """Return the names of a block's layers."""
        return tuple(self.layers[position] for position in self.places_in(block))

    def whole(self) -> View:
        """Return the model in blocks."""
        boxes = tuple(map(self._block, self.blocks))
        box_of = _box_of(block.nodes for block in self.blocks)
        lines = self._lines(self.graph.edges, box_of)
        return View("The whole model", boxes, lines, tuple(WIDTHS))

    def inside(self, block: Block) -> View:
        """Return the layers of one block, between the blocks that it reads from and that read
        it."""
        own = set(block.nodes)
        touching = [edge for edge in self.graph.edges if not own.isdisjoint(edge)]
        around = set(chain.from_iterable(touching)) - own
        ports = [other for other in self.blocks if not around.isdisjoint(other.nodes)]
        shown = [(node,) for node in block.nodes] + [port.nodes for port in ports]
        boxes = [self._named_within(block, node) for node in block.nodes]
        boxes += map(self._port, ports)
        return View(block.name, tuple(boxes), self._lines(touching, _box_of(shown)))

    def _named_within(self, block: Block, position: int) -> Box:
        """Return a node of a block without the beginning of its name, which all of them share."""
        box = self._box(position)
        if box.kind != "layer":
            return box
        within = re.sub(rf"^{re.escape(block.name)}[./]", "", self.layers[position])
        return replace(box, label=shortened(within))

    def facts(self) -> dict[str, LayerFacts]:
        """Return what the page says about each layer, in the graph's order."""
        near = Neighbours(self.graph.edges)
        view = dict[int, int]()
        for block in self.blocks:
            view |= dict.fromkeys(block.nodes, self.view_of.get(block.name, 0))
        facts = dict[str, LayerFacts]()
        for position in sorted(self.layers):
            name = self.layers[position]
            facts[name] = LayerFacts(
                unit=self.units.get(name, [name])[0],
                format=self.formats[position],
                operation=self.graph.nodes[position].operation,
                before=self._near(position, near.before),
                after=self._near(position, near.after),
                view=view[position],
            )
        return facts

    def _near(self, position: int, around: Mapping[int, list[int]]) -> tuple[str, ...]:
        """Return the layers on one side of a node, including those on the other side of one join.

        around: node -> its neighbours on that side.
        """
        reached = list[int]()
        for neighbour in around[position]:
            is_join = self.graph.nodes[neighbour].kind == "join"
            reached += around[neighbour] if is_join else [neighbour]
        names = filter(None, map(self.layers.get, reached))
        return tuple(dict.fromkeys(names))

    def _lines(self, edges: Iterable[Edge], box_of: Mapping[int, int]) -> tuple[Line, ...]:
        """Return the lines of these edges, one between any two boxes.

        box_of: node -> its box.
        """
        borders: dict[Edge, Border] = {}
        for edge in edges:
            before, after = box_of[edge[0]], box_of[edge[1]]
            if before != after:
                earlier = borders.get((before, after), "")
                borders[before, after] = self.borders.get(edge, earlier)
        return tuple(Line(*ends, border) for ends, border in borders.items())

    def _block(self, block: Block) -> Box:
        """Return a block as one box. A block of one layer is drawn as that layer, or as its first
        node."""
        places = self.places_in(block)
        if block.name not in self.view_of:
            return self._box((places or block.nodes)[0])
        formats = [self.formats[position] for position in places]
        in_float = formats.count(FLOAT)
        what = note = count(len(places), "layer")
        if in_float:
            what, note = f"{what}, {in_float} of them in float", f"{in_float}/{len(places)} float"
        box = Box(
            "block",
            shortened(block.name),
            note,
            f"Block {block.name}: {what}",
            layers=self.layers_in(block),
            tone=self._tone(formats),
            view=self.view_of[block.name],
        )
        return self._with_effect(box)

    def _box(self, position: int) -> Box:
        """Return one node as a box."""
        node = self.graph.nodes[position]
        if node.kind == "join":
            return Box("join", "", "", f"{node.operation}, where values of several layers meet")
        if position not in self.layers:
            return Box("port", shortened(node.name), "", f"{node.kind} {node.name}")
        layer_format = self.formats[position]
        what = {"": "", self.usual: USUAL}.get(layer_format, layer_format)
        box = Box(
            "layer",
            shortened(node.name),
            note=FLOAT if layer_format == FLOAT else "",
            title=f"{node.name}: {joined(node.operation, what)}",
            layers=(node.name,),
            tone=self._tone([layer_format]),
        )
        return self._with_effect(box)

    def _port(self, block: Block) -> Box:
        """Return a box for a neighbour of the drawn block; a click goes to its layers, if it has
        some."""
        layers = self.layers_in(block)
        label = shortened(block.name)
        if not layers:
            return Box("port", label, "", block.name)
        view = self.view_of.get(block.name, 0)
        return Box("port", label, "", f"Go to {block.name}", layers=layers[:1], view=view)

    def _with_effect(self, box: Box) -> Box:
        """Return the box with the largest effect of its layers, if one was measured."""
        worst = self._worst(box.layers)
        if worst is None:
            return box
        change = self.metric.change(worst.effect.value)
        most = f"at most {change}" if box.kind == "block" else change
        doubt = ", which may be nothing" if includes_zero(worst.effect) else ""
        share = max(worst.effect.value, 0.0) / self.largest if self.largest > 0 else 0.0
        return replace(
            box,
            note=joined(box.note, change),
            title=f"{box.title}; effect {most}{doubt}",
            share=share,
            effect_tone=effect_tone(worst, self.skip),
        )

    def _worst(self, layers: Iterable[str]) -> Effect | None:
        """Return the largest effect of the units that these layers are part of.

        Returns None if none was measured.
        """
        units = list[str]()
        for layer in layers:
            units += self.units.get(layer, ())
        effects = filter(None, map(self.effects.get, units))
        return max(effects, key=lambda effect: effect.effect.value, default=None)

    def _tone(self, formats: Iterable[str]) -> BoxTone:
        kinds = {"", *formats}
        if len(kinds) > 2:
            return "mixed"
        tones: dict[str, BoxTone] = {"": "", FLOAT: "float", self.usual: "usual"}
        return tones.get(max(kinds), "other")


def _units_of_layers(units: Iterable[Unit]) -> dict[str, list[str]]:
    """Return layer -> the names of the units that it is part of."""
    units_of = defaultdict[str, list[str]](list)
    for unit in units:
        for layer in unit.layers or (unit.name,):
            units_of[layer].append(unit.name)
    return dict(units_of)


def _layers_of(graph: ModelGraph, units: Collection[str]) -> dict[int, str]:
    """Return position -> name of each node that has quantizers.

    units: names of layers that are part of a unit.
    """
    names = {position: graph.nodes[position].name for position in graph.of_kind("layer")}
    for position in graph.of_kind("output"):
        name = graph.nodes[position].name
        if name in units:
            names[position] = name
    return names


def _box_of(boxes: Iterable[Iterable[int]]) -> dict[int, int]:
    """Return node -> the position of its box.

    boxes: the nodes of each box.
    """
    box_of = dict[int, int]()
    for number, nodes in enumerate(boxes):
        box_of |= dict.fromkeys(nodes, number)
    return box_of


def _node_formats(data: ReportData, graph: ModelGraph) -> list[str]:
    """Return the format of each node under the plan; "" if it has none.

    A join has the common format of its readers, otherwise that of the nodes that it reads.
    """
    of_layers = _layer_formats(data)
    formats = [of_layers.get(node.name, "") for node in graph.nodes]
    joins = graph.of_kind("join")
    near = Neighbours(graph.edges)
    for position in reversed(joins):
        formats[position] = _common(formats, near.after[position])
    for position in joins:
        formats[position] = formats[position] or _common(formats, near.before[position])
    return formats


def _layer_formats(data: ReportData) -> dict[str, str]:
    """Return layer -> the format that its enabled quantizers make it run in."""
    formats = dict.fromkeys(map(attrgetter("layer"), data.quantizers), FLOAT)
    enabled = sorted(_enabled(data), key=attrgetter("layer"))
    for layer, own in groupby(enabled, key=attrgetter("layer")):
        formats[layer] = format_of(own)
    return formats


def _enabled(data: ReportData) -> list[Quantizer]:
    """Return the quantizers that the plan leaves enabled."""
    if data.plan is None:
        return list(data.quantizers)
    left_out = set(data.plan.quantizers)
    planned = planned_quantizers(data.quantizers, data.plan)
    return [quantizer for quantizer in planned if quantizer.name not in left_out]


def _common(formats: Sequence[str], nodes: Iterable[int]) -> str:
    """Return the format that these nodes have in common; "" if they have several or none."""
    known = {"", *map(formats.__getitem__, nodes)}
    return max(known) if len(known) == 2 else ""


def _borders(data: ReportData, graph: ModelGraph, formats: Sequence[str]) -> dict[Edge, Border]:
    """Return edge -> its border, for the edges on which an engine has to convert values.

    Nothing is converted at the inputs and outputs of the model.
    """
    uneven = _unevenly_read(data, graph)
    inputs, outputs = graph.of_kind("input"), graph.of_kind("output")
    borders: dict[Edge, Border] = {}
    for before, after in graph.edges:
        both = {formats[before], formats[after]}
        if before in inputs or after in outputs:
            continue
        if len(both - {""}) == 2:
            borders[before, after] = "format"
        elif graph.nodes[after].name in uneven and FLOAT not in both:
            borders[before, after] = "range"
    return borders


def _unevenly_read(data: ReportData, graph: ModelGraph) -> set[str]:
    """Return the layers that read a tensor with another range than other readers of it."""
    layer_of = {quantizer.name: quantizer.layer for quantizer in _enabled(data)}
    uneven = set[str]()
    for names in graph.meetings:
        layers = {layer_of[name] for name in layer_of.keys() & names}
        if len(layers) > 1:
            uneven |= layers
    return uneven


def shortened(name: str, most: int = LABEL) -> str:
    """Return the end of a long name, which tells it from its neighbours.

    most: largest number of characters.

    >>> shortened("encoder.layers.encoder_layer_11"), shortened("model.22.cv3")
    ('…ncoder_layer_11', 'model.22.cv3')
    """
    if len(name) <= most:
        return name
    return f"…{name[1 - most :]}"


def facts_for_script(picture: Picture | None) -> list[dict[str, Any]]:
    """Return the layers in the order of `Picture.layers`, for the page's script.

    Returns an empty list without a picture.
    """
    if picture is None:
        return []
    return [{"name": name, **asdict(facts)} for name, facts in picture.layers.items()]
