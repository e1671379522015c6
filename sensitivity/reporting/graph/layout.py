"""Positions of the boxes of a picture and of its lines. Only this module uses graphlay."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import chain, pairwise, product, starmap
from operator import itemgetter
from typing import Any

from sensitivity import optional

SPACING = {
    "layer_gap": 28,
    "node_gap": 14,
    "dummy_gap": 10,
    "stub": 8,
    "port_gap": 8,
    "port_stroke_clear": 4,
}
WRAPPING = {"wrap": {"max_rows": 40, "max_cut_edges": 12, "min_gain": 1.0}}
ASPECTS = (8.0, 5.0, 4.0, 3.0, 2.5, 2.0, 1.4, 1.0, 0.7, 0.4)
"""Aspect ratios that a picture is wrapped to, the widest first."""

SIGN = (84.0, 20.0)
"""Size of a sign, in pixels."""

ROW_GAP = 26.0

NARROW = 356.0
"""Largest width of a drawing on a phone, in pixels."""

Point = tuple[float, float]
Edge = tuple[int, int]
Path = tuple[Point, ...]


@dataclass(frozen=True)
class Sign:
    """A place where a line continues in another row: the box there, and the sign's middle."""

    box: int
    place: Point


@dataclass(frozen=True)
class Layout:
    """Positions in pixels.

    places: the middle of each box.
    lines: for each edge the corners of its line, from border to border. There are two lines if it
        ends at a sign and continues after another.
    """

    width: float
    height: float
    places: tuple[Point, ...]
    lines: tuple[tuple[Path, ...], ...]
    signs: tuple[Sign, ...] = ()


def is_possible() -> bool:
    """Return whether graphlay is installed, which every plain install includes."""
    return find_spec("graphlay") is not None


def left_to_right(sizes: Sequence[Point], edges: Sequence[Edge], width: float) -> Layout:
    """Return the layout in rows, like text, of no more than `width` pixels, unless a column is
    wider.

    Lines lead from row to row if graphlay can lead them around all boxes, otherwise they end at
    signs.

    sizes: width and height of each box.
    edges: pairs of positions in `sizes`.
    """
    whole = _layout(sizes, edges, {})
    if whole.width <= width:
        return whole
    for aspect in ASPECTS:
        wrapped = _layout(sizes, edges, {"wrap": {"viewport_aspect": aspect}, "tuning": WRAPPING})
        if wrapped.width > width:
            continue
        if _is_clear(wrapped, sizes):
            return wrapped
        break
    return _in_rows(sizes, edges, width)


def narrow(sizes: Sequence[Point], edges: Sequence[Edge]) -> Layout:
    """Return the layout for a phone: from top to bottom if that fits, otherwise in rows with
    signs."""
    column = _layout(sizes, edges, {"direction": "topbottom"})
    if column.width <= NARROW:
        return column
    return _in_rows(sizes, edges, NARROW)


def path(points: Path) -> str:
    """Return the corners of a line in the syntax of SVG.

    >>> path(((0.0, 4.0), (12.5, 4.0)))
    'M0 4L12.5 4'
    """
    return "M" + "L".join(starmap("{:g} {:g}".format, points))


def middle(points: Path) -> Point:
    """Return the middle of the last part of a line, where a mark is clear of other lines.

    >>> middle(((0.0, 0.0), (0.0, 30.0), (20.0, 30.0)))
    (10.0, 30.0)
    """
    (x, y), (end_x, end_y) = points[-2:]
    return (x + end_x) / 2, (y + end_y) / 2


def _layout(sizes: Sequence[Point], edges: Sequence[Edge], options: dict[str, Any]) -> Layout:
    graph = optional.graphlay.Graph()
    for width, height in sizes:
        graph.node(width=width, height=height)
    for before, after in edges:
        graph.edge(before, after)
    result = optional.graphlay.layout(graph, options={"spacing": SPACING, **options})
    corner, end = result.bounds["min"], result.bounds["max"]

    def point(place: dict[str, float]) -> Point:
        return round(place["x"] - corner["x"], 1), round(place["y"] - corner["y"], 1)

    return Layout(
        end["x"] - corner["x"],
        end["y"] - corner["y"],
        tuple(point(node["center"]) for node in result.nodes),
        tuple((tuple(map(point, edge["points"])),) for edge in result.edges),
    )


def _is_clear(layout: Layout, sizes: Sequence[Point]) -> bool:
    """Return whether every line runs along the axes and around all boxes."""
    lines = chain.from_iterable(layout.lines)
    parts = list(chain.from_iterable(map(pairwise, lines)))
    if any(map(_is_slanted, parts)):
        return False
    boxes = zip(layout.places, sizes, strict=True)
    return not any(_crosses(part, *box) for part, box in product(parts, boxes))


def _is_slanted(part: tuple[Point, Point]) -> bool:
    (x, y), (end_x, end_y) = part
    return abs(x - end_x) > 1 and abs(y - end_y) > 1


def _crosses(part: tuple[Point, Point], place: Point, size: Point) -> bool:
    """Return whether a part of a line goes through the inside of a box."""
    inside = []
    for axis in (0, 1):
        middle, half = place[axis], size[axis] / 2 - 1
        ends = (part[0][axis], part[1][axis])
        inside.append(min(ends) < middle + half and max(ends) > middle - half)
    return all(inside)


def _in_rows(sizes: Sequence[Point], edges: Sequence[Edge], width: float) -> Layout:
    """Return the columns of a layout from left to right, as many in each row as fit.

    Lines that lead from row to row end at signs.
    """
    places = _layout(sizes, edges, {}).places
    columns = defaultdict[float, list[int]](list)
    for box, (across, _) in enumerate(places):
        columns[across].append(box)
    left = [columns[across] for across in sorted(columns)]
    rows = list[_Row]()
    while left:
        fitting = _Row(left.pop(0), sizes, edges)
        while left:
            longer = _Row([*fitting.boxes, *left[0]], sizes, edges)
            if longer.layout.width > width:
                break
            fitting = longer
            del left[0]
        rows.append(fitting)
    return _stacked(rows, edges, len(sizes))


class _Row:
    """Boxes in one row, with signs for boxes of other rows.

    Signs at the end are for boxes that read them, signs at the beginning for boxes that they read.
    """

    def __init__(self, boxes: Sequence[int], sizes: Sequence[Point], edges: Sequence[Edge]) -> None:
        own = set(boxes)
        touching = [edge for edge in edges if not own.isdisjoint(edge)]
        readers = _others(map(itemgetter(1), touching), own)
        givers = _others(map(itemgetter(0), touching), own)
        self.boxes = list(boxes)
        self.signs = [*readers, *givers]
        positions = _numbered(boxes, 0)
        self._last_at = positions | _numbered(readers, len(boxes))
        self._first_at = positions | _numbered(givers, len(boxes) + len(readers))
        self.edges = {edge: self._ends(edge) for edge in touching}
        row_sizes = [sizes[box] for box in boxes] + [SIGN] * len(self.signs)
        self.layout = _layout(row_sizes, list(self.edges.values()), {})

    def _ends(self, edge: Edge) -> Edge:
        before, after = edge
        return self._first_at[before], self._last_at[after]

    def lines(self, down: float) -> dict[Edge, Path]:
        """Return the lines of all edges that touch the row, moved down by this many pixels."""
        drawn = [_moved(line, down) for (line,) in self.layout.lines]
        return dict(zip(self.edges, drawn, strict=True))


def _numbered(boxes: Sequence[int], start: int) -> dict[int, int]:
    """Return box -> its position, counted from `start`."""
    return {box: number for number, box in enumerate(boxes, start)}


def _others(boxes: Iterable[int], own: Collection[int]) -> list[int]:
    """Return the boxes that are not among `own`, each once, in their order."""
    return [box for box in dict.fromkeys(boxes) if box not in own]


def _stacked(rows: Sequence[_Row], edges: Sequence[Edge], boxes: int) -> Layout:
    places: dict[int, Point] = {}
    lines: dict[Edge, list[Path]] = {edge: [] for edge in edges}
    signs: list[Sign] = []
    down = 0.0
    for row in rows:
        moved = _moved(row.layout.places, down)
        places |= dict(zip(row.boxes, moved, strict=False))
        signs += map(Sign, row.signs, moved[len(row.boxes) :])
        for edge, line in row.lines(down).items():
            lines[edge].append(line)
        down += row.layout.height + ROW_GAP
    return Layout(
        max(row.layout.width for row in rows),
        down - ROW_GAP,
        tuple(places[box] for box in range(boxes)),
        tuple(tuple(lines[edge]) for edge in edges),
        tuple(signs),
    )


def _moved(points: Path, down: float) -> Path:
    return tuple((x, round(y + down, 1)) for x, y in points)
