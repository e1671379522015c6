"""A task from an ONNX file and a path to data, without any code.

task = onnx_task("model.qdq.onnx", "coco/val")
"""

from sensitivity.onnx_task.task import onnx_task

__all__ = ["onnx_task"]
