"""What verification found, in words."""

from __future__ import annotations

from sensitivity.export.verification import FileCheck, Verification


def facts(verification: Verification) -> dict[str, str]:
    """File -> what holds for it, for reports and the command line."""
    found = {f"model.{check.variant}.onnx": _file(check, verification.samples) for check in verification.files}
    if verification.unreached:
        found["never reached"] = f"quantizers that no input passes, in no file: {', '.join(verification.unreached)}"
    return found


def _file(check: FileCheck, samples: int) -> str:
    share = (
        f" ({check.rms / check.quantization_rms:.1%} of what quantization changes)" if check.quantization_rms else ""
    )
    parts = [f"{check.quantizers} quantizers where the plan wants them and no other"]
    worst = max((layer.difference for layer in check.layers if layer.difference is not None), default=None)
    if worst is not None:
        parts.append(f"{len(check.layers)} layers alone agree to {worst:.1e}")
    parts.append(f"outputs on {samples} samples differ by {check.rms:.2%} relative RMS{share}")
    if check.metric is not None:
        parts.append(
            f"metric in ONNX Runtime {check.metric.file:.4f}, simulated {check.metric.simulated:.4f}, on {check.metric.n} samples"
        )
    return "; ".join(parts)
