"""Timings in words: what is faster, by how much, and what to do if INT8 is not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from sensitivity.records import NOTHING, Estimate, Timing, speed_from_ratio
from sensitivity.rules.formats import in_float_words
from sensitivity.timing.environment import saturates
from sensitivity.timing.explain import explain, not_in
from sensitivity.timing.profile import FileProfile

NAMES = {
    "float": "The float model",
    "fp16": "FP16",
    "int8": "Full INT8",
    "partial": "The partial plan",
}
COMPARED = {
    "faster": "is faster than",
    "slower": "is slower than",
    "no different": "is not measurably different from",
}
SEE_PROFILE = "The per-layer profile says which layers ran in INT8 and where reformats come from."
WHY_SLOW = {
    "onnxruntime": "ONNX Runtime fuses Q/DQ into integer kernels only where the output of a layer "
    "is quantized too: "
    "an unlowered Q/DQ file is often slower than float there, and says nothing about other "
    "runtimes.",
    "tensorrt": SEE_PROFILE,
    "tensorrt_rtx": SEE_PROFILE,
    "trtexec": SEE_PROFILE,
}
LOWER = {
    "onnxruntime": "'sensitivity export --for onnxruntime' makes a file that it can fuse.",
    "openvino": "'sensitivity export --for openvino' makes a file on the uint8 grid that "
    "OpenVINO's kernels expect.",
}
"""Runtime -> the command that may make a slow file fast, if its formats can be lowered."""


SATURATES = {
    "onnxruntime": (
        "This processor has no instructions for INT8 dot products (VNNI). ONNX Runtime lets their "
        "sums saturate at 16 bits there, so files run with session.x64quantprecision=1, which is "
        "exact and slower; set it in your application too. A file that cannot be loaded with it, "
        "since layers share a weight or a zero point, runs without it."
    ),
    "openvino": (
        "This processor has no instructions for INT8 dot products (VNNI). OpenVINO lets their sums "
        "saturate at 16 bits there, so accuracy in INT8 may be lower than simulated; a processor "
        "with them, or weights of 7 bits (overflow_fix in NNCF), avoids that."
    ),
}
"""Runtime -> what to know about its accuracy on a processor whose INT8 sums saturate."""


def saturation_sentences(
    runtime: str, environment: Mapping[str, str], profiles: Mapping[str, FileProfile] = NOTHING
) -> list[str]:
    """Return what to know about INT8 accuracy on this processor; nothing if its sums are exact, or
    if the plan's file computed nothing in INT8.

    environment: as `timing.environment.environment` returns it.
    profiles: as for `bench_sentences`.
    """
    if runtime not in SATURATES or not saturates(environment):
        return []
    profile = profiles.get("partial", profiles.get("int8"))
    if profile is not None and not _some_in_int8(profile):
        return []
    return [SATURATES[runtime]]


def bench_sentences(
    timings: Sequence[Timing],
    profiles: Mapping[str, FileProfile] = NOTHING,
    *,
    lowers: bool = True,
    in_float: Sequence[str] = (),
) -> list[str]:
    """Return the sentences about one bench of one runtime, the most important first.

    timings: must include the float file.
    profiles: profiles of some of the files, by variant. Each adds sentences on what its layers ran
        in and what its reformats cost.
    lowers: whether 'sensitivity export --for' takes the plan's file for this runtime.
    in_float: formats of the plan that the runtime computes in float, in words.
    """
    by_variant: dict[str, Timing] = {timing.variant: timing for timing in timings}
    base = by_variant["float"]
    sentences = [SAME.format(_names(timing)) for timing in timings if timing.same]
    compared = dict(by_variant)
    if "fp16" in compared and compared["fp16"].precision != "fp16":
        del compared["fp16"]  # `_against_each_other` says what it ran in
    compared_files = filter(None, map(compared.get, ("partial", "int8", "fp16")))
    sentences += map(_against_float, compared_files)
    sentences += _against_each_other(by_variant)
    if in_float:
        sentences.append(in_float_words(base.runtime, in_float))
    elif _may_be_written_wrongly(timings, profiles):
        why, lower = WHY_SLOW.get(base.runtime, ""), LOWER.get(base.runtime, "")
        sentences += filter(None, (why, lower if lowers else ""))
    for variant, profile in profiles.items():
        explained = explain(profile.runs, profile.kept, profile.fp8, lowers=lowers)
        sentences += [f"{NAMES[variant]}: {text}" for text in explained]
    threads = f"{base.threads} thread{'s' if base.threads > 1 else ''}"
    sentences.append(
        f"Float takes {base.median_ms:.3g} ms. Measured in {base.runtime} ({threads}, "
        f"batch {base.batch}, unquantized layers in {base.precision}), "
        f"{base.n} rounds with all files in turn."
    )
    return sentences


def _may_be_written_wrongly(timings: Sequence[Timing], profiles: Mapping[str, FileProfile]) -> bool:
    """Return whether a quantized file may be slow because of its form.

    That is so if it is no faster than float, no file was lowered for the runtime, and none is known
    to have run in INT8 as a whole.
    """
    quantized = [timing for timing in timings if timing.variant in ("int8", "partial")]
    speeds = {speed_from_ratio(timing.ratio) for timing in quantized}
    is_slow = bool(speeds - {"faster"})
    if any(map(_is_lowered, timings)):
        return False
    return is_slow and not any(map(_ran_in_int8, profiles.values()))


def _is_lowered(timing: Timing) -> bool:
    if timing.variant == "float":
        return False
    return Path(timing.file).stem.endswith(f".{timing.runtime}")


def _ran_in_int8(profile: FileProfile) -> bool:
    """Return whether every layer that the file quantizes ran in INT8.

    Returns False for a file without any.
    """
    if not profile.kept:
        return False
    return not not_in("int8", profile.runs, profile.kept)


def _some_in_int8(profile: FileProfile) -> bool:
    return len(not_in("int8", profile.runs, profile.kept)) < len(profile.kept)


SAME = "{} are the same file, timed once."


def _names(timing: Timing) -> str:
    """Return the variants of one file in words, such as "Full INT8 and the partial plan"."""
    first, *rest = map(NAMES.__getitem__, timing.variants)
    return " and ".join([first, *(f"{name[0].lower()}{name[1:]}" for name in rest)])


def _against_float(timing: Timing) -> str:
    ratio, name = timing.ratio, NAMES[timing.variant]
    took = f"{timing.median_ms:.3g} ms, p95 {timing.p95_ms:.3g} ms"
    if ratio.low is None:
        return (
            f"{name} runs at {ratio.value:.2f} times the speed of float ({took}); one round "
            "gives no interval."
        )
    interval = f"{ratio.low:.2f} to {ratio.high:.2f}"
    return (
        f"{name} {COMPARED[speed_from_ratio(ratio)]} float: {ratio.value:.2f} times its speed "
        f"({interval}; {took})."
    )


def _against_each_other(by_variant: Mapping[str, Timing]) -> Iterator[str]:
    """Yield how much of the gain of full INT8 the plan keeps, and how both compare with FP16."""
    partial, int8, fp16 = map(by_variant.get, ("partial", "int8", "fp16"))
    if partial and int8 and speed_from_ratio(int8.ratio) == "faster":
        gain = (1 - 1 / partial.ratio.value) / (1 - 1 / int8.ratio.value)
        yield f"The partial plan keeps {max(gain, 0):.0%} of the time that full INT8 saves."
    if fp16 and fp16.precision != "fp16":
        yield (
            f"{fp16.runtime} ran the FP16 file in {fp16.precision}, at {fp16.ratio.value:.2f} "
            "times the speed of float: that says nothing about FP16 on a GPU."
        )
        return
    for timing in filter(None, (partial, int8)):
        if timing.against_fp16 is not None:
            yield _against_fp16(timing, timing.against_fp16)


def _against_fp16(timing: Timing, ratio: Estimate) -> str:
    """Return a sentence that compares a file with FP16.

    ratio: time of the FP16 file over that of this one.
    """
    interval = "" if ratio.low is None else f" ({ratio.low:.2f} to {ratio.high:.2f})"
    result = speed_from_ratio(ratio)
    sentence = f"{NAMES[timing.variant]} {COMPARED[result]} FP16: {ratio.value:.2f} times its speed"
    if result == "faster":
        return f"{sentence}{interval}."
    return (
        f"{sentence}{interval}; as it is, FP16 is the better engine: have fewer boundaries "
        "between INT8 and float, quantize residual adds, or leave out fewer layers."
    )
