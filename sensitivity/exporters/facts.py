"""Describes the result of a verification in words."""

from __future__ import annotations

from sensitivity.exporters.verification import FileCheck, LoweringCheck, Verification


def facts(verification: Verification) -> dict[str, str]:
    """Return file -> what was found about it, for reports and the command line."""
    facts_by_file = {
        f"model.{check.variant}.onnx": _file(check, verification.samples)
        for check in verification.files
    }
    facts_by_file |= {name: _lowered(check) for name, check in verification.lowered.items()}
    facts_by_file |= verification.left_out | verification.finished
    facts_by_file |= {
        f"{name} in TensorRT-RTX": built.sentence for name, built in verification.engines.items()
    }
    facts_by_file |= {
        f"{name} in TensorRT-RTX": f"not built: {why}"
        for name, why in verification.not_built.items()
    }
    if verification.unreached:
        facts_by_file["never reached"] = (
            f"quantizers that no input reaches, in no file: {', '.join(verification.unreached)}"
        )
    return facts_by_file


def _lowered(check: LoweringCheck) -> str:
    made, against = (
        ("FP16 baseline", "float")
        if check.target == "fp16"
        else (f"lowered for {check.target}", "canonical")
    )
    text = f"{made}; outputs differ from the {against} file by {check.rms:.2%} relative RMS"
    if check.quantization_rms:
        text += f" ({check.rms / check.quantization_rms:.1%} of what quantization changes)"
    if check.metric is not None:
        text += (
            f"; metric {check.metric.file:.4f}, canonical {check.metric.simulated:.4f}, on "
            f"{check.metric.n} samples"
        )
    return text


def _file(check: FileCheck, samples: int) -> str:
    share = (
        f" ({check.rms / check.quantization_rms:.1%} of what quantization changes)"
        if check.quantization_rms
        else ""
    )
    parts = [f"{check.quantizers} quantizers exactly where the plan has them"]
    worst = max(
        (layer.difference for layer in check.layers if layer.difference is not None), default=None
    )
    if worst is not None:
        parts.append(f"{len(check.layers)} layers alone agree to {worst:.1e}")
    parts.append(f"outputs on {samples} samples differ by {check.rms:.2%} relative RMS{share}")
    if check.metric is not None:
        parts.append(
            f"metric in ONNX Runtime {check.metric.file:.4f}, simulated "
            f"{check.metric.simulated:.4f}, on {check.metric.n} samples"
        )
    return "; ".join(parts)
