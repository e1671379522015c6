"""From a torch model in memory to a table of its layers and an ONNX file, without a task file.

Each part that begins with `# %%` is a cell of a notebook. It takes half a minute.
"""

# %% A float model and its data. Yours come from wherever they come from.
import sys
from pathlib import Path

import modelopt.torch.quantization as mtq
import torch

import sensitivity as sv
from sensitivity.workflows.demo import INT8_PER_TENSOR, SEED, digits
from sensitivity.workflows.repvgg import RepVGG, repeatable, train

out = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/digits")
# handwritten digits, drawn at random into train, calib, rank, confirm and holdout
splits = digits()
x, y = torch.from_numpy(splits["train"].x), torch.from_numpy(splits["train"].y)
with repeatable(SEED):
    branched = RepVGG(16, (2, 2), classes=10)
    train(branched, x, y, epochs=12, rate=0.3, decay=1e-2, seed=SEED)
model = branched.plain().eval()


# %% Calibrate it, as you would anyway.
def calibrate(model: torch.nn.Module) -> None:
    for inputs, _ in splits["calib"]:
        model(inputs)


model = mtq.quantize(model, INT8_PER_TENSOR, calibrate).eval()


# %% How outputs become one score for each sample, and which layers must stay out of INT8.
def top1(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return (outputs.argmax(1) == torch.as_tensor(targets)).double()


task = sv.Task(
    model, {name: splits[name] for name in ("rank", "confirm", "holdout")}, top1, metric="top-1"
)
run = sv.run(task, out=out, max_drop="1pt", no_recalibrate=True, rounds=20, resume=True)

# %% In a notebook `run` alone shows the verdict and the layers.
print(run.verdict.accuracy_sentence)
print("Left out:", ", ".join(run.skip))
table = run.to_frame()
print(table[["rank", "unit", "left_out", "effect", "low", "high"]].to_string(index=False))

# %% The file to deploy, and the latencies measured on this machine.
print("File:", run.files["partial"])
if run.bench is not None:
    print(run.bench.to_frame().to_string(index=False))

# %% Ranges were left as they are. By default others are tried before a layer is left out.
recalibrated = sv.plan(run, max_drop="1pt")
print(f"{len(recalibrated.skip)} layers left out with other ranges, instead of {len(run.skip)}.")

# %% Your own model, with these layers left out: for a while, or for good.
inputs, _ = next(iter(splits["holdout"]))
with torch.no_grad():
    with run.apply(model):
        inside = model(inputs)
    run.apply_permanently(model)
    print("The same outputs:", bool((model(inputs) == inside).all()))
