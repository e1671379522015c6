"""What the picture of a model shows: boxes with formats and sensitivities, and the lines between
them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import chain, groupby
from operator import attrgetter
from typing import Any, Literal

from sensitivity.records import Effect, GraphNode, ModelGraph, Quantizer
from sensitivity.reporting.charts import Tone
from sensitivity.reporting.data import ReportData
from sensitivity.reporting.formats import MetricFormat, count, includes_zero
from sensitivity.reporting.graph.folding import Block, folded
from sensitivity.reporting.graph.layout import (
    Layout,
    Point,
    is_possible,
    left_to_right,
    narrow,
)
from sensitivity.reporting.graph.neighbours import Neighbours
from sensitivity.reporting.number_formats import FLOAT, USUAL, format_of, planned_quantizers

BOX, DOT, PORT = (124.0, 46.0), (16.0, 16.0), (124.0, 24.0)
"""Sizes of layers and blocks, of joins, and of what stands outside, in pixels."""

WIDTHS = {"wide": 1180.0, "middle": 720.0}
"""Pixels that drawings from left to right may take, for windows of two widths; a third runs from
top to bottom."""

LABEL = 16
"""Characters of a label at most."""

BoxKind = Literal["block", "layer", "join", "port"]
BoxTone = Literal["usual", "other", "float", "mixed", ""]
Border = Literal["", "format", "range"]


@dataclass(frozen=True)
class Box:
    """label, note: the two lines in it. title: the same in words. layers: names of those it stands
    for. tone: of the formats of its layers; "" where it has none.

    share: effect of its most sensitive layer, 0 to 1 of the largest of the model; None where none
    is known. effect_tone: as in the charts of effects. view: the one that it opens, a position in
    `Picture.views`; None where it opens none.
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
        """The label as far as a sign has room for it."""
        return shortened(self.label or "a join", 12)

    @property
    def size(self) -> Point:
        return {"join": DOT, "port": PORT}.get(self.kind, BOX)


@dataclass(frozen=True)
class Line:
    """From one box to another, positions in `View.boxes`. border: "format" where the values change
    their format, "range" where they are read with different ranges."""

    before: int
    after: int
    border: Border = ""


@dataclass(frozen=True)
class View:
    """One drawing, the whole model or the inside of a block. widths: keys of `WIDTHS`, for which it
    is laid out. layouts: by the window's width."""

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
    """What the page says of a layer beside its row in the table. unit: that it is of. before,
    after: layers that it reads from, and that read it. view: where it is drawn."""

    unit: str
    format: str
    operation: str
    before: tuple[str, ...]
    after: tuple[str, ...]
    view: int


@dataclass(frozen=True)
class Picture:
    """views: the whole model first, then the inside of each block. layers: by name."""

    views: tuple[View, ...]
    layers: Mapping[str, LayerFacts]

    @property
    def boxes(self) -> list[Box]:
        """Those of all views."""
        return list(chain.from_iterable(view.boxes for view in self.views))

    @property
    def borders(self) -> set[Border]:
        """Kinds of borders that are drawn somewhere."""
        lines = chain.from_iterable(view.lines for view in self.views)
        return {line.border for line in lines}


def picture_of(data: ReportData) -> Picture | None:
    """None where the graph of the model is not known, or cannot be laid out."""
    if data.graph is None or not is_possible():
        return None
    graph = without_inner_outputs(data.graph)
    blocks = folded(graph)
    drawing = _Drawing(data, graph, blocks)
    insides = [block for block in blocks if len(drawing.layers_in(block)) > 1]
    view_of = {block.name: number for number, block in enumerate(insides, 1)}
    views = (drawing.whole(view_of), *(drawing.inside(block, view_of) for block in insides))
    return Picture(views, drawing.facts(view_of))


def without_inner_outputs(graph: ModelGraph) -> ModelGraph:
    """The graph without outputs whose values the model goes on with, as long as others are left."""
    near = Neighbours(graph.edges)

    def is_inner(at: int) -> bool:
        readers = [graph.nodes[other] for one in near.before[at] for other in near.after[one]]
        return any(node.kind != "output" for node in readers)

    outputs = set(graph.of_kind("output"))
    inner = set(filter(is_inner, outputs))
    return graph if inner == outputs else graph.without(inner)


class _Drawing:
    """A graph with what is known of its layers.

    formats: of each node, in words; "" where it has none. borders: by edge.
    """

    def __init__(self, data: ReportData, graph: ModelGraph, blocks: Sequence[Block]) -> None:
        self.graph, self.blocks = graph, blocks
        self.metric = MetricFormat(data.metric, data.full_scale)
        self.usual = data.format
        self.units: dict[str, list[str]] = {}
        for unit in data.units:
            for layer in unit.layers or (unit.name,):
                self.units.setdefault(layer, []).append(unit.name)
        self.effects = {effect.unit: effect for effect in data.effects if effect.is_measured}
        values = [effect.effect.value for effect in self.effects.values()]
        self.largest = max(values, default=0.0)
        self.skip = frozenset(data.plan.skip if data.plan else ())
        self.formats = _node_formats(data, graph)
        self.borders = _borders(data, graph, self.formats)

    def layers_in(self, block: Block) -> tuple[str, ...]:
        nodes = [self.graph.nodes[at] for at in block.nodes]
        return tuple(node.name for node in nodes if self._is_layer(node))

    def whole(self, view_of: Mapping[str, int]) -> View:
        """The model in blocks."""
        at = {node: number for number, block in enumerate(self.blocks) for node in block.nodes}
        boxes = tuple(self._block(block, view_of.get(block.name)) for block in self.blocks)
        lines = self._lines(self.graph.edges, at)
        return View("The whole model", boxes, lines, tuple(WIDTHS))

    def inside(self, block: Block, view_of: Mapping[str, int]) -> View:
        """The layers of one block, between the blocks that it reads from and that read it."""
        own = set(block.nodes)
        touching = [edge for edge in self.graph.edges if not own.isdisjoint(edge)]
        around = {at for edge in touching for at in edge} - own
        ports = [other for other in self.blocks if not around.isdisjoint(other.nodes)]
        at = {node: number for number, node in enumerate(block.nodes)}
        for number, port in enumerate(ports, len(block.nodes)):
            at |= dict.fromkeys(port.nodes, number)
        boxes = [self._named_within(block, node) for node in block.nodes]
        boxes += [self._port(port, view_of) for port in ports]
        return View(block.name, tuple(boxes), self._lines(touching, at))

    def _named_within(self, block: Block, at: int) -> Box:
        """A node of a block without the beginning of its name, which all there have."""
        node = self.graph.nodes[at]
        box = self._box(node, at)
        within = re.sub(rf"^{re.escape(block.name)}[./]", "", node.name)
        return replace(box, label=shortened(within)) if box.kind == "layer" else box

    def facts(self, view_of: Mapping[str, int]) -> dict[str, LayerFacts]:
        near = Neighbours(self.graph.edges)
        view = {node: view_of.get(block.name, 0) for block in self.blocks for node in block.nodes}
        return {
            node.name: LayerFacts(
                unit=self.units.get(node.name, [node.name])[0],
                format=self.formats[at],
                operation=node.operation,
                before=self._near(at, near.before),
                after=self._near(at, near.after),
                view=view[at],
            )
            for at, node in enumerate(self.graph.nodes)
            if self._is_layer(node)
        }

    def _is_layer(self, node: GraphNode) -> bool:
        """Whether it has quantizers: outputs of Q/DQ files have some too."""
        return node.kind == "layer" or (node.kind == "output" and node.name in self.units)

    def _near(self, at: int, around: Mapping[int, list[int]]) -> tuple[str, ...]:
        """The layers on one side of a node, also those on the other side of one join. around: node
        -> its neighbours on that side."""
        found: dict[str, None] = {}
        for one in around[at]:
            is_join = self.graph.nodes[one].kind == "join"
            nodes = [self.graph.nodes[each] for each in (around[one] if is_join else [one])]
            found.update(dict.fromkeys(node.name for node in nodes if self._is_layer(node)))
        return tuple(found)

    def _lines(self, edges: Iterable[tuple[int, int]], at: Mapping[int, int]) -> tuple[Line, ...]:
        """Of these edges, one between any two boxes. at: of each node its box."""
        found: dict[tuple[int, int], Border] = {}
        for before, after in edges:
            ends = (at[before], at[after])
            if ends[0] != ends[1]:
                found[ends] = self.borders.get((before, after), "") or found.get(ends, "")
        return tuple(Line(*ends, border) for ends, border in found.items())

    def _block(self, block: Block, view: int | None) -> Box:
        if view is None:
            nodes = [at for at in block.nodes if self._is_layer(self.graph.nodes[at])]
            at = (nodes or list(block.nodes))[0]
            return self._box(self.graph.nodes[at], at)
        layers = self.layers_in(block)
        formats = [self.formats[at] for at in block.nodes if self._is_layer(self.graph.nodes[at])]
        in_float = formats.count(FLOAT)
        what, note = count(len(layers), "layer"), count(len(layers), "layer")
        if in_float:
            what, note = f"{what}, {in_float} of them in float", f"{in_float}/{len(layers)} float"
        return self._with_effect(
            Box("block", shortened(block.name), note, f"Block {block.name}: {what}"),
            layers,
            self._tone(formats),
            view,
        )

    def _box(self, node: GraphNode, at: int) -> Box:
        """One node as it is."""
        if node.kind == "join":
            return Box("join", "", "", f"{node.operation}, where values of several layers meet")
        if not self._is_layer(node):
            return Box("port", shortened(node.name), "", f"{node.kind} {node.name}")
        said = self.formats[at]
        what = {"": "", self.usual: USUAL}.get(said, said)
        title = f"{node.name}: {', '.join(word for word in (node.operation, what) if word)}"
        box = Box("layer", shortened(node.name), FLOAT if said == FLOAT else "", title)
        return self._with_effect(box, (node.name,), self._tone([said]), None)

    def _port(self, block: Block, view_of: Mapping[str, int]) -> Box:
        layers = self.layers_in(block)
        return Box(
            "port",
            shortened(block.name),
            "",
            f"Go to {block.name}" if layers else block.name,
            layers=layers[:1],
            view=view_of.get(block.name, 0 if layers else None),
        )

    def _with_effect(
        self, box: Box, layers: tuple[str, ...], tone: BoxTone, view: int | None
    ) -> Box:
        box = replace(box, layers=layers, tone=tone, view=view)
        worst = self._worst(layers)
        if worst is None:
            return box
        change = self.metric.change(worst.effect.value)
        silent = includes_zero(worst.effect)
        most = f"at most {change}" if box.kind == "block" else change
        doubt = ", which may be nothing" if silent else ""
        return replace(
            box,
            note=", ".join(word for word in (box.note, change) if word),
            title=f"{box.title}; effect {most}{doubt}",
            share=max(worst.effect.value, 0.0) / self.largest if self.largest > 0 else 0.0,
            effect_tone="muted" if silent else "chosen" if worst.unit in self.skip else "plain",
        )

    def _worst(self, layers: Iterable[str]) -> Effect | None:
        units = [unit for layer in layers for unit in self.units.get(layer, ())]
        effects = [self.effects[unit] for unit in units if unit in self.effects]
        return max(effects, key=lambda effect: effect.effect.value, default=None)

    def _tone(self, formats: Iterable[str]) -> BoxTone:
        kinds = set(formats) - {""}
        if len(kinds) > 1:
            return "mixed"
        only = kinds.pop() if kinds else ""
        return {"": "", FLOAT: "float", self.usual: "usual"}.get(only, "other")  # type: ignore[return-value]


def _node_formats(data: ReportData, graph: ModelGraph) -> list[str]:
    """Of each node under the plan. A join has that of all that read it, else that of all that it
    reads."""
    of_layers = _layer_formats(data)
    formats = [of_layers.get(node.name, "") for node in graph.nodes]
    joins = graph.of_kind("join")
    near = Neighbours(graph.edges)
    for at in joins[::-1]:
        formats[at] = _common(formats[other] for other in near.after[at])
    for at in joins:
        formats[at] = formats[at] or _common(formats[other] for other in near.before[at])
    return formats


def _layer_formats(data: ReportData) -> dict[str, str]:
    formats = dict.fromkeys((quantizer.layer for quantizer in data.quantizers), FLOAT)
    enabled = sorted(_enabled(data), key=attrgetter("layer"))
    for layer, own in groupby(enabled, key=attrgetter("layer")):
        formats[layer] = format_of(own)
    return formats


def _enabled(data: ReportData) -> list[Quantizer]:
    """The quantizers that the plan leaves enabled."""
    left_out = data.plan.quantizers if data.plan else ()
    planned = planned_quantizers(data.quantizers, data.plan)
    return [quantizer for quantizer in planned if quantizer.name not in left_out]


def _common(formats: Iterable[str]) -> str:
    """The one format that there is; "" where there are several, or none."""
    known = set(formats) - {""}
    return known.pop() if len(known) == 1 else ""


def _borders(
    data: ReportData, graph: ModelGraph, formats: Sequence[str]
) -> dict[tuple[int, int], Border]:
    """Of edges where an engine has to convert values."""
    uneven = _unevenly_read(data, graph)
    found: dict[tuple[int, int], Border] = {}
    for before, after in graph.edges:
        is_inner = graph.nodes[before].kind != "input" and graph.nodes[after].kind != "output"
        both = {formats[before], formats[after]}
        if is_inner and len(both) > 1 and "" not in both:
            found[before, after] = "format"
        elif is_inner and graph.nodes[after].name in uneven and FLOAT not in both:
            found[before, after] = "range"
    return found


def _unevenly_read(data: ReportData, graph: ModelGraph) -> set[str]:
    """Layers that share what they read with others which the plan leaves another range."""
    layer_of = {quantizer.name: quantizer.layer for quantizer in _enabled(data)}
    found: set[str] = set()
    for names in graph.meetings:
        layers = {layer_of.get(name, "") for name in names} - {""}
        found |= layers if len(layers) > 1 else set()
    return found


def shortened(name: str, most: int = LABEL) -> str:
    """The end of a long name, which tells it from its neighbours. most: characters.

    >>> shortened("encoder.layers.encoder_layer_11"), shortened("model.22.cv3")
    ('…ncoder_layer_11', 'model.22.cv3')
    """
    return name if len(name) <= most else f"…{name[1 - most :]}"


def facts_for_script(picture: Picture | None) -> list[dict[str, Any]]:
    """The layers as the page's script reads them, in the order in which `Box.layers` counts them;
    none without a picture."""
    if picture is None:
        return []
    return [{"name": name, **asdict(facts)} for name, facts in picture.layers.items()]
