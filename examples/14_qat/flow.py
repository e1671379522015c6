"""Compare four calibrators on ResNet-20, plan for the worst of them, fine-tune the best one.

This is the flow of pytorch-quantization's classification example, on CIFAR-10 and with ModelOpt.

    python examples/14_qat/flow.py runs/qat

Needs the folder SENSITIVITY_ASSETS as examples/02_resnet20 does. It takes some minutes.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import modelopt.torch.quantization as mtq
import torch
from modelopt.torch.quantization.calib import HistogramCalibrator
from modelopt.torch.quantization.nn import TensorQuantizer
from torch import nn

import sensitivity as sv
from sensitivity.tasks.classification import classification_task, images_by_class, random_parts

sys.path.insert(0, str(Path(__file__).parents[1] / "02_resnet20"))
import resnet20
from task import SIZES, assets, batches

METHODS: Mapping[str, dict[str, Any]] = {
    "percentile": {"percentile": 99.99},
    "mse": {},
    "entropy": {"stride": 8},  # every eighth range is tried: the toolkit walks them in Python
}
EPOCHS, RATE = 3, 1e-3


class Block(resnet20.Block):
    """A block with a quantizer on its skip connection, so that TensorRT can add in INT8."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__(inputs, outputs, stride)
        self.residual_quantizer: nn.Module = nn.Identity()

    def shortcut(self, x: torch.Tensor) -> torch.Tensor:
        return self.residual_quantizer(super().shortcut(x))


def main(out: Path) -> None:
    torch.manual_seed(0)
    train = [as_tensors(*batch) for batch in batches(images_by_class(assets() / "cifar10/train"))]
    test = images_by_class(assets() / "cifar10/test")
    parts = random_parts(len(test.files), SIZES, seed=0)
    data = {name: batches(test.take(at)) for name, at in parts.items()}
    model = quantized(train)
    with float_only(model):
        print(f"{'float':12}{top1(model, data['rank']):8.1%} on rank", flush=True)
    ranges = compared(model, train)
    found = {}
    for method, amaxes in ranges.items():
        found[method] = top1(with_ranges(model, amaxes), data["rank"])
        print(f"{method:12}{found[method]:8.1%} on rank", flush=True)
    worst, best = min(found, key=found.__getitem__), max(found, key=found.__getitem__)

    print(f"\nA plan for {worst}, the worst of them:")
    broken = with_ranges(model, ranges[worst])
    report(sv.run(task_of(broken, data), out=out / "plan", max_drop="1pt", rounds=20))

    print(f"\nFine-tuned with the ranges of {best}, the best of them:")
    tuned = with_ranges(model, ranges[best])
    before = top1(tuned, data["holdout"])
    fine_tune(tuned, train)
    print(f"{before:.1%} before, {top1(tuned, data['holdout']):.1%} after, on holdout", flush=True)
    report(sv.run(task_of(tuned, data), out=out / "tuned", max_drop="1pt", rounds=20))


def as_tensors(x: Any, y: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.as_tensor(x), torch.as_tensor(y)


def quantized(train: list[Any]) -> nn.Module:
    """Return ResNet-20 in INT8 with max ranges: weights per channel, activations and skip
    connections per tensor."""
    resnet20.Block = Block
    model = resnet20.ResNet20()
    file = assets() / "weights/resnet20-12fca82f.th"
    state = torch.load(file, weights_only=True, map_location="cpu")["state_dict"]
    model.load_state_dict({name.removeprefix("module."): value for name, value in state.items()})
    model = mtq.quantize(model.eval(), mtq.INT8_DEFAULT_CFG, None)
    for block in model.modules():
        if isinstance(block, Block):
            block.residual_quantizer = copy.deepcopy(block.conv1.input_quantizer)
    mtq.calibrate(model, "max", lambda model: forward(model, train))
    return model.eval()


def forward(model: nn.Module, train: list[Any]) -> None:
    with torch.no_grad():
        for inputs, _ in train:
            model(inputs)


def activations(model: nn.Module) -> dict[str, TensorQuantizer]:
    """Return the enabled quantizers of activations by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, TensorQuantizer)
        and module.is_enabled
        and not name.endswith("weight_quantizer")
    }


def compared(model: nn.Module, train: list[Any]) -> dict[str, dict[str, torch.Tensor]]:
    """Return the ranges of every calibrator: its name -> activation quantizer -> amax.

    One pass over the data collects the histograms that all but max are computed from.
    """
    quantizers = activations(model)
    found = {"max": {name: quantizer.amax.clone() for name, quantizer in quantizers.items()}}
    calibrators = {name: HistogramCalibrator(8, None, False) for name in quantizers}
    for name, quantizer in quantizers.items():
        quantizer._calibrator = calibrators[name]
        quantizer.disable_quant()
        quantizer.enable_calib()
    forward(model, train)
    for quantizer in quantizers.values():
        quantizer.disable_calib()
        quantizer.enable_quant()
    for method, options in METHODS.items():
        found[method] = {
            name: calibrators[name].compute_amax(method, **options) for name in quantizers
        }
    return found


def with_ranges(model: nn.Module, amaxes: Mapping[str, torch.Tensor]) -> nn.Module:
    """Return a copy of the model with these ranges. amaxes: activation quantizer -> amax."""
    made = copy.deepcopy(model)
    for name, quantizer in activations(made).items():
        quantizer.amax = amaxes[name]
    return made


def fine_tune(model: nn.Module, train: list[Any]) -> None:
    """Train some epochs through the fake quantization; BatchNorm keeps its statistics."""
    optimizer = torch.optim.SGD(model.parameters(), RATE, momentum=0.9, weight_decay=1e-4)
    images, labels = (torch.cat(parts) for parts in zip(*train, strict=True))
    for _ in range(EPOCHS):
        for at in torch.randperm(len(images)).split(50):
            flipped = images[at] if torch.rand(()) < 0.5 else images[at].flip(3)
            loss = nn.functional.cross_entropy(model(flipped), labels[at])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model.eval()


@contextmanager
def float_only(model: nn.Module) -> Iterator[None]:
    """Disable all quantizers inside the `with`."""
    modules = [module for module in model.modules() if isinstance(module, TensorQuantizer)]
    quantizers = [module for module in modules if module.is_enabled]
    for quantizer in quantizers:
        quantizer.disable()
    try:
        yield
    finally:
        for quantizer in quantizers:
            quantizer.enable()


def top1(model: nn.Module, data: Any) -> float:
    right = total = 0
    with torch.no_grad():
        for inputs, labels in data:
            right += int(
                (model(torch.as_tensor(inputs)).argmax(1) == torch.as_tensor(labels)).sum()
            )
            total += len(labels)
    return right / total


def task_of(model: nn.Module, data: Mapping[str, Any]) -> sv.Task:
    return classification_task(model, data)


def report(run: Any) -> None:
    print(run.verdict.accuracy_sentence)
    print("Left out:", ", ".join(run.skip) or "nothing")
    print("File:", run.files["partial"], flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
