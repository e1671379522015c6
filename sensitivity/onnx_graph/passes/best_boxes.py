"""Chooses the best boxes at the end of a detector's graph, for heads whose boxes need no
suppression."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from sensitivity.errors import ExportError

NAME = "detections"

CHOICE = """
<ir_version: 8, opset_import: ["": {opset}]>
choice (float[n, {rows}, {anchors}] candidates) => (float[n, {best}, {columns}] {name})
{{
    most = Constant <value_ints = [{best}]> ()
    sizes = Constant <value_ints = [{sizes}]> ()
    flat = Constant <value_ints = [0, -1]> ()
    last = Constant <value_ints = [2]> ()
    count = Constant <value_int = {classes}> ()
    of_confidences = Constant <value_ints = [1, 1, {classes}]> ()
    of_boxes = Constant <value_ints = [1, 1, 4]> ()

    by_anchor = Transpose <perm = [0, 2, 1]> (candidates)
    boxes, confidences{others} = Split <axis = 2> (by_anchor, sizes)

    highest = {highest}
    best, anchors = TopK <axis = 1> (highest, most)
    anchors_column = Unsqueeze (anchors, last)
    anchors_wide = Expand (anchors_column, of_confidences)
    some = GatherElements <axis = 1> (confidences, anchors_wide)

    pairs = Reshape (some, flat)
    values, numbers = TopK <axis = 1> (pairs, most)
    ranks = Div (numbers, count)
    which = GatherElements <axis = 1> (anchors, ranks)
    which_column = Unsqueeze (which, last)
    which_boxes = Expand (which_column, of_boxes)

    chosen_boxes = GatherElements <axis = 1> (boxes, which_boxes)
{gather_others}
    labels = Mod (numbers, count)
    classes = Cast <to = {kind}> (labels)
    values_column = Unsqueeze (values, last)
    classes_column = Unsqueeze (classes, last)
    {name} = Concat <axis = 2> (chosen_boxes, values_column, classes_column{chosen_others})
}}
"""
"""The graph that chooses: first the best anchors by their best class, then the best pairs of anchor
and class among those, as ultralytics does.

Any other anchor has a lower confidence than as many pairs. Sorting all pairs at once would take
`classes` times the work.
"""

GATHER_OTHERS = """
    of_others = Constant <value_ints = [1, 1, {more}]> ()
    which_others = Expand (which_column, of_others)
    chosen_others = GatherElements <axis = 1> (others, which_others)
"""
"""Lines for the rows after the confidences: coefficients of masks, key points."""


class BestBoxes(ir.passes.InPlacePass):
    """Turns the first output, candidates [n, 4 + classes + more, anchors], into `detections` [n,
    most, 6 + more].

    A row holds x1 y1 x2 y2, confidence, class, and the other values of that anchor; the most
    confident come first. Other outputs stay as they are.

    classes: number of classes.
    most: largest number of boxes.
    Raises ExportError if the sizes of the candidates are not known.
    """

    def __init__(self, classes: int, most: int = 300) -> None:
        self.classes, self.most = classes, most

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graph, candidates = model.graph, model.graph.outputs[0]
        shape = tuple(candidates.shape or ())
        rows, anchors = shape[1:] if len(shape) == 3 else (None, None)
        if not isinstance(rows, int) or not isinstance(anchors, int) or rows < 4 + self.classes:
            raise ExportError(
                f"Expected candidates [n, {4 + self.classes} or more, anchors] to choose the best "
                f"boxes from, got {candidates.name} of shape {candidates.shape}; export the model "
                "without --end2end."
            )
        text = self._text(rows, anchors, model.opset_imports[""], candidates.dtype)
        choice = ir.from_proto(onnx.parser.parse_model(text)).graph
        ir.convenience.replace_all_uses_with(choice.inputs[0], candidates)
        detections, nodes = choice.outputs[0], list(choice)
        choice.outputs.clear()  # a value belongs to one graph
        choice.remove(nodes)
        for node in nodes:
            node.name = f"{NAME}/{node.outputs[0].name}"
            for value in node.outputs:
                value.name = value.name if value is detections else f"{NAME}/{value.name}"
        graph.extend(nodes)
        graph.outputs[0] = detections
        return ir.passes.PassResult(model, modified=True)

    def _text(self, rows: int, anchors: int, opset: int, dtype: ir.DataType | None) -> str:
        """Return the graph that chooses in ONNX's text syntax."""
        classes, more = self.classes, rows - 4 - self.classes
        # From opset 18 on, ReduceMax takes its axes as an input.
        by_input = "ReduceMax <keepdims = 0> (confidences, last)"
        by_attribute = "ReduceMax <axes = [2], keepdims = 0> (confidences)"
        return CHOICE.format(
            rows=rows,
            anchors=anchors,
            opset=opset,
            classes=classes,
            best=min(self.most, anchors),
            columns=6 + more,
            name=NAME,
            sizes=f"4, {classes}, {more}" if more else f"4, {classes}",
            others=", others" if more else "",
            gather_others=GATHER_OTHERS.format(more=more) if more else "",
            chosen_others=", chosen_others" if more else "",
            highest=by_input if opset >= 18 else by_attribute,
            kind=int(dtype or ir.DataType.FLOAT),
        )
