"""How many samples are forwarded until a plan is confirmed, and whether the stated probability is
kept, for 70 units, in a simulated classifier whose true losses are known.

    python benchmarks/plan_search.py                                    (ten seeds, two minutes)
    python benchmarks/plan_search.py --runs 1000 --whole-runs 100 --confirm 5000 --write

A sample is right if its margin plus the noise of all quantized units is positive. There are six
strong units and a tail of weak ones; float accuracy is about 74 %, fully quantized accuracy about
65 %. Float's probabilities are too sure or too timid by a factor, which a temperature corrects, and
bent, which it does not. Every search is made by the package itself (`choose_plan`) twice: on all of
`confirm`, and on a part of it that grows if it settles nothing. Counted are the signal on 16
samples of every unit and of float, and every sample of `confirm` and `rank` that is forwarded,
those of float too. A simulated race of the scan and `holdout` are not counted: they are the same in
both ways.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr
from scipy.stats import binomtest

from sensitivity.journal.journal import open_journal
from sensitivity.measure.measurer import Measurer
from sensitivity.measure.raced import SIGNAL_SAMPLES
from sensitivity.measure.scan import Scan
from sensitivity.measure.study import Study
from sensitivity.quantizers.base import layers
from sensitivity.records import Effect, Estimate, Quantizer, Target
from sensitivity.search.choose import SearchOptions, choose_plan
from sensitivity.search.part import first_part
from sensitivity.tasks.base import Task
from sensitivity.tasks.classification import Top1, answer_lost
from sensitivity.timing.environment import environment

UNITS, STRONG, BATCH, RANK = 70, 6, 50, 1000
MARGIN, SURENESS, BEND = 0.65, 0.3, 0.15
HELD_OUT = 1_000_000
"""First sample number of `holdout`, which is not counted."""
FIRST_SEED = 3000
"""Searches begin with this seed. The limits of the search were chosen on smaller ones."""
RESULTS = Path(__file__).parent / "results" / "plan_search.md"
Values = NDArray[np.float64]


class SimulatedModel:
    """A classifier of two classes.

    Inputs are sample numbers. The log odds that an optimal classifier would give are 2 MARGIN times
    the margin; float's own are `sureness` times that, and bent.
    """

    source = "simulated"
    warnings: tuple[str, ...] = ()

    def __init__(self, seed: int, confirm: int) -> None:
        rng = np.random.default_rng(seed)
        weak = 0.1 / (UNITS - STRONG) * np.exp(rng.normal(size=UNITS - STRONG))
        self.variance = rng.permutation(np.concatenate([np.geomspace(0.8, 0.06, STRONG), weak]))
        samples = confirm + RANK
        self.noise = rng.standard_t(5, size=(samples, UNITS)) * np.sqrt(3 / 5 * self.variance)
        self.margin = rng.normal(MARGIN, 1.0, samples)
        self.sureness = float(np.exp(rng.normal(0, SURENESS)))
        self.bend = float(np.exp(rng.normal(0, BEND)))
        self.labels = np.random.default_rng(seed + 2000).integers(0, 2, samples)
        self.quantizers = tuple(
            Quantizer(f"unit{unit}.weight", f"unit{unit}", "weight", 8, 0) for unit in range(UNITS)
        )
        self.at = {quantizer.name: unit for unit, quantizer in enumerate(self.quantizers)}
        self.splits = {
            "confirm": range(confirm),
            "rank": range(confirm, samples),
            "holdout": range(HELD_OUT, HELD_OUT + BATCH),
        }
        drawn = np.random.default_rng(seed + 1000).standard_t(5, size=(SIGNAL_SAMPLES, UNITS))
        self.signal = (self.variance * 0.6 * drawn**2).mean(axis=0)

    def logits(self, samples: NDArray[np.int_], disabled: frozenset[str]) -> Values:
        """The outputs [n, 2] with these quantizers disabled."""
        quantized = np.ones(UNITS)
        quantized[[self.at[name] for name in disabled]] = 0
        at = samples % HELD_OUT
        value = self.margin[at] + self.noise[at] @ quantized
        towards_first = np.sign(value) * (1 - 2 * self.labels[at])
        logit = self.sureness * MARGIN * towards_first * np.abs(value) ** self.bend
        return np.stack([logit, -logit], axis=1)

    def fingerprint(self) -> str:
        return repr(self.variance.tolist())


class CountingSimulator:
    """Runs variants of a SimulatedModel; `forwarded` counts samples of `confirm` and `rank`."""

    name, reason, smallest = "simulated", "for the benchmark", 1
    warnings: tuple[str, ...] = ()

    def __init__(self, model: SimulatedModel) -> None:
        self.model = model
        self.forwarded = 0

    def outputs(
        self, inputs: NDArray[np.int_], variants: Sequence[frozenset[str]]
    ) -> Iterator[tuple[int, Any]]:
        for index, disabled in enumerate(variants):
            self.forwarded += int(np.sum(inputs < HELD_OUT))
            yield index, self.model.logits(inputs, disabled)


@dataclass(frozen=True)
class Searched:
    """One search.

    skipped: units left out.
    samples: samples forwarded, with those of the signal.
    used: samples of `confirm` that the plan rests on.
    kept: whether the true drop is at most the allowed one.
    seconds: processor seconds.
    """

    skipped: int
    samples: int
    used: int
    kept: bool
    seconds: float


def task_of(model: SimulatedModel) -> Task:
    """The task of a model, with batches of BATCH sample numbers."""
    data = {
        name: [
            (at := np.arange(start, start + BATCH), model.labels[at % HELD_OUT])
            for start in split[::BATCH]
        ]
        for name, split in model.splits.items()
    }
    return Task(model, data, Top1(2), metric="top-1", soft=answer_lost)


def scan_of(model: SimulatedModel) -> Scan:
    """A raced scan that orders the units by the signal."""
    order = np.argsort(-model.signal)
    unknown = Estimate(0.0, None, None, 0)
    effects = tuple(
        Effect(place, place, f"unit{unit}", unknown, 0.65) for place, unit in enumerate(order, 1)
    )
    baselines = {"float": Estimate(0.74, None, None, 1), "quantized": Estimate(0.65, None, None, 1)}
    signal = {f"unit{unit}": float(model.signal[unit]) for unit in order}
    return Scan("disable", baselines, effects, signal)


def search(seed: int, confirm: int, allowed: float, first: int | None) -> Searched:
    """One search by the package.

    first: batches of `confirm` that it begins with; None for all.
    """
    model = SimulatedModel(seed, confirm)
    simulator = CountingSimulator(model)
    memory = Path("/dev/shm")  # noqa: S108  (a journal on a disk waits for it after each batch)
    start = time.process_time()
    with (
        tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder,
        open_journal(Path(folder) / "journal.jsonl", {}, resume=False) as journal,
    ):
        measurer = Measurer(task_of(model), lambda _: simulator, journal)
        study = Study(measurer, layers(model.quantizers), model.quantizers)
        measurer.keeps = {measurer.of(study.float_variant).key: ""}
        with measurer.only_first("confirm", first):
            plan = choose_plan(
                study, scan_of(model), Target(drop=allowed), SearchOptions(may_grow=True)
            )
    samples = (UNITS + 1) * SIGNAL_SAMPLES + simulator.forwarded
    kept = true_drop(model, plan.skip) <= allowed
    seconds = time.process_time() - start
    return Searched(len(plan.skip), samples, plan.metric.confirm.n, kept, seconds)


@cache
def standard_noise() -> NDArray[np.float32]:
    """Noise of variance 1 of all units on many samples, the same for all models."""
    drawn = np.random.default_rng(7).standard_t(5, size=(40_000, UNITS)) * np.sqrt(3 / 5)
    return np.asarray(drawn, np.float32)


def true_drop(model: SimulatedModel, skip: Sequence[str]) -> float:
    """The drop in the population: the mean over the noise, whose both signs are as likely, of the
    probability that the margin outweighs it."""
    scale = np.sqrt(model.variance).astype(np.float32)
    scale[[int(unit.removeprefix("unit")) for unit in skip]] = 0
    noise = standard_noise() @ scale
    return float(ndtr(MARGIN) - np.mean(ndtr(MARGIN + noise) + ndtr(MARGIN - noise)) / 2)


def peak_bytes(confirm: int, allowed: float, first: int | None) -> int:
    """The most memory that Python and numpy hold during one search, without the model's own."""
    tracemalloc.start()
    try:
        search(0, confirm, allowed, first)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


HEAD = (
    "| confirm | allowed loss | searched on | samples, mean | worst | units skipped | target kept "
    "| p if 80 % were not kept | rests on, mean | processor s | peak MB |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|"
)


def row(confirm: int, allowed: float, first: int | None, runs: int) -> str:
    """One row of the table."""
    found = [search(seed, confirm, allowed, first) for seed in range(FIRST_SEED, FIRST_SEED + runs)]
    kept = sum(one.kept for one in found)
    p = binomtest(kept, runs, 0.8, alternative="greater").pvalue
    cells = (
        f"{confirm:,}",
        f"{100 * allowed:g} pt",
        "all of confirm" if first is None else "a growing part",
        f"{np.mean([one.samples for one in found]):,.0f}",
        f"{max(one.samples for one in found):,}",
        f"{np.mean([one.skipped for one in found]):.2f}",
        f"{kept} of {runs}",
        f"{p:.2g}",
        f"{np.mean([one.used for one in found]):,.0f}",
        f"{np.mean([one.seconds for one in found]):.2f}",
        f"{peak_bytes(confirm, allowed, first) / 1e6:.0f}",
    )
    return "| " + " | ".join(cells) + " |"


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description="What does a plan cost, and does it hold?")
    parser.add_argument("--runs", type=int, default=10, help="simulated searches for each row")
    parser.add_argument("--whole-runs", type=int, help="the same for all of confirm, which is slow")
    parser.add_argument("--confirm", type=int, nargs="*", default=[2500, 5000], help="samples")
    parser.add_argument("--max-drop", type=float, nargs="*", default=[1, 2, 3], help="in points")
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name} too")
    given = parser.parse_args(arguments)
    lines = [HEAD]
    print(HEAD)
    for confirm in given.confirm:
        part = first_part(task_of(SimulatedModel(0, confirm))).batches
        for points in given.max_drop:
            for first, runs in ((None, given.whole_runs or given.runs), (part, given.runs)):
                lines.append(row(confirm, points / 100, first, runs))
                print(lines[-1], flush=True)
    if given.write:
        command = shlex.join(["python", "benchmarks/plan_search.py", *arguments])
        machine = f"Command: `{command}`. {environment()['cpu']}, one thread."
        title = "# Samples until a plan is confirmed, in simulated searches"
        RESULTS.write_text("\n".join([title, "", *lines, "", machine, ""]))


if __name__ == "__main__":
    main(sys.argv[1:])
