"""Every TensorRT name, keyword and trtexec flag in the source, against the lists of each
version."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from contract.api import API, FLAGS, VERSIONS, members, overloads

from sensitivity.errors import RuntimeUnavailable
from sensitivity.runtimes import tensorrt, tensorrt_build, trtexec_flags
from sensitivity.runtimes.file_types import FileTypes
from sensitivity.runtimes.tensorrt_build import TensorRtSettings
from sensitivity.runtimes.trtexec_flags import (
    build_flags,
    profile_flags,
    run_flags,
    time_flags,
    version_from_banner,
)

SOURCES = [Path(module.__file__) for module in (tensorrt, tensorrt_build)]
HOLDS = {
    "builder": "Builder",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "error": "ParserError",
    "config": "IBuilderConfig",
    "profile": "IOptimizationProfile",
    "cache": "ITimingCache",
    "tensor": "ITensor",
    "runtime": "Runtime",
    "engine": "ICudaEngine",
    "context": "IExecutionContext",
    "inspector": "EngineInspector",
}
"""Variables of these names, with or without a leading `self._`, hold objects of these classes."""

Use = tuple[str, str | None, tuple[str, ...], bool]
"""A name used: class or "", member, keywords, and whether it stands after getattr or hasattr."""


def chain(node: ast.expr) -> list[str]:
    """`self._trt.BuilderFlag.INT8` as ["trt", "BuilderFlag", "INT8"]; [] where it does not start at
    a known name."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return []
    parts.append(node.id)
    parts.reverse()
    if parts[0] == "self" and len(parts) > 1:
        parts = parts[1:]
    parts[0] = parts[0].lstrip("_")
    return parts if parts[0] == "trt" or parts[0] in HOLDS else []


def uses(tree: ast.AST) -> Iterator[Use]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            keywords = tuple(keyword.arg for keyword in node.keywords if keyword.arg)
            if isinstance(node.func, ast.Name) and node.func.id in ("getattr", "hasattr"):
                target, name = node.args[0], node.args[1]
                if (owner := chain(target)) and isinstance(name, ast.Constant):
                    yield from named([*owner, str(name.value)], (), gated=True)
            elif keywords and (parts := chain(node.func)):
                yield from named(parts, keywords, gated=False)
        elif isinstance(node, ast.Attribute) and (parts := chain(node)):
            yield from named(parts, (), gated=False)


def named(parts: list[str], keywords: tuple[str, ...], *, gated: bool) -> Iterator[Use]:
    if parts[0] == "trt" and len(parts) > 1:
        if parts[1] not in ("__name__", "__version__"):
            yield parts[1], parts[2] if len(parts) > 2 else None, keywords, gated
    elif parts[0] in HOLDS and len(parts) > 1:
        yield HOLDS[parts[0]], parts[1], keywords, gated


def problems(source: str) -> list[str]:
    found = []
    for name, member, keywords, gated in uses(ast.parse(source)):
        has = [version for version in VERSIONS if exists(version, name, member)]
        if not has if gated else len(has) < len(VERSIONS):
            found.append(f"{name}.{member} is only in {has or 'no version'}")
        found += [
            f"{name}.{member}({keyword}=) is not in {version}"
            for version in VERSIONS
            for keyword in keywords
            if not any(keyword in args for args in overloads(version, name, member or "__init__"))
        ]
    return found


def exists(version: str, name: str, member: str | None) -> bool:
    if member is None:
        return name in API[version]["module"]
    return member in members(version, name)


def test_every_tensorrt_name_in_the_source_is_in_every_version_or_behind_a_gate() -> None:
    for file in SOURCES:
        assert problems(file.read_text()) == []


def test_the_source_is_really_read() -> None:
    seen = {
        (name, member) for file in SOURCES for name, member, *_ in uses(ast.parse(file.read_text()))
    }
    expected = {
        ("Builder", None),
        ("Builder", "build_serialized_network"),
        ("IBuilderConfig", "set_timing_cache"),
        ("IBuilderConfig", "profiling_verbosity"),
        ("BuilderFlag", "INT8"),
        ("IExecutionContext", "execute_async_v3"),
        ("EngineInspector", "get_engine_information"),
        ("LayerInformationFormat", "JSON"),
        ("ILogger", "INTERNAL_ERROR"),
        ("IProfiler", None),
    }
    assert expected <= seen
    assert len(seen) > 45


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("trt.BuilderFlag.INT8", "BuilderFlag.INT8 is only in ['8.6', '10.0', '10.16']"),
        ("getattr(trt.BuilderFlag, 'INT9', None)", "BuilderFlag.INT9 is only in no version"),
        (
            "self._context.execute_async_v2()",
            "IExecutionContext.execute_async_v2 is only in ['8.6']",
        ),
        ("config.max_workspace_size", "IBuilderConfig.max_workspace_size is only in ['8.6']"),
        ("builder.create_network(flag=1)", "Builder.create_network(flag=) is not in 8.6"),
        ("trt.Bilder(logger)", "Bilder.None is only in no version"),
    ],
    ids=["ungated", "gated-typo", "gone-method", "gone-property", "keyword", "class"],
)
def test_a_wrong_name_is_found(source: str, problem: str) -> None:
    assert any(problem in found for found in problems(source))


SETTINGS = {
    "default": TensorRtSettings(),
    "weak-fp16": TensorRtSettings(strongly_typed=False),
    "weak-fp32": TensorRtSettings(strongly_typed=False, float_type="fp32"),
    "strong": TensorRtSettings(strongly_typed=True),
    "everything": TensorRtSettings(
        workspace_mib=512,
        timing_cache=Path("cache"),
        cuda_graph=False,
        shapes={"x": ((1, 3, 8, 8), (4, 3, 8, 8), (8, 3, 8, 8))},
    ),
}


def all_flags(version: tuple[int, int], settings: TensorRtSettings) -> list[str]:
    paths = [Path(name) for name in "abcd"]
    return [
        *build_flags(version, paths[0], paths[1], FileTypes(quantized=True, half=True), settings),
        *time_flags(version, paths[1], paths[2], 100, settings),
        *profile_flags(paths[1], paths[2], paths[3], 10),
        *run_flags(version, paths[1], paths[2]),
        *trtexec_flags.input_flags({"x": paths[0]}, {"x": (1, 3, 8, 8)}, settings),
    ]


POSSIBLE = [
    pytest.param(version, settings, id=f"{version}-{name}")
    for version in FLAGS
    for name, settings in SETTINGS.items()
    if not (settings.strongly_typed is True and version == "8.6")
    and not (settings.strongly_typed is False and version.startswith("11"))
]


@pytest.mark.parametrize(("version", "settings"), POSSIBLE)
def test_every_trtexec_flag_is_known_to_its_version(
    version: str, settings: TensorRtSettings
) -> None:
    major, minor = map(int, version.split("."))
    unknown = {flag.partition("=")[0] for flag in all_flags((major, minor), settings)} - set(
        FLAGS[version]
    )
    assert unknown == set()


def test_a_typing_that_a_version_does_not_have_is_refused() -> None:
    with pytest.raises(
        RuntimeUnavailable,
        match=r"Expected TensorRT 10 or later for a strongly typed network, got 8\.6",
    ):
        all_flags((8, 6), SETTINGS["strong"])
    with pytest.raises(
        RuntimeUnavailable,
        match=r"Expected TensorRT 10 or earlier for a weakly typed network, got 11\.1",
    ):
        all_flags((11, 1), SETTINGS["weak-fp16"])


def test_precision_flags_are_known_to_the_versions_that_get_them() -> None:
    for version in ("8.6", "10.0", "10.12", "10.16"):
        assert {"--int8", "--fp16"} <= set(FLAGS[version])
    flags = all_flags((8, 6), SETTINGS["default"])
    assert {"--int8", "--fp16"} <= set(flags)


def test_every_flag_written_in_the_source_is_in_some_version() -> None:
    written = set(
        re.findall(
            r"\"(--[a-zA-Z0-9]+)", Path(trtexec_flags.__file__).read_text().split('"""', 2)[2]
        )
    )
    assert len(written) > 20
    assert written <= {flag for flags in FLAGS.values() for flag in flags}


def test_tensorrt_11_is_never_given_the_precision_flags_that_it_fails_on() -> None:
    flags = set(all_flags((11, 1), SETTINGS["default"]))
    assert not flags & {"--int8", "--fp16", "--best", "--stronglyTyped", "--useCudaGraph"}


@pytest.mark.parametrize("version", [(8, 6), (10, 16)])
def test_older_versions_are_asked_for_what_is_the_default_in_11(version: tuple[int, int]) -> None:
    flags = set(time_flags(version, Path("e"), Path("t"), 10, TensorRtSettings()))
    assert {"--useCudaGraph", "--useSpinWait", "--noDataTransfers"} <= flags


@pytest.mark.parametrize(
    ("banner", "version"),
    [
        ("&&&& RUNNING TensorRT.trtexec [TensorRT v8601] # trtexec --help", (8, 6)),
        ("&&&& RUNNING TensorRT.trtexec [TensorRT v100001] [b6] # trtexec", (10, 0)),
        ("&&&& RUNNING TensorRT.trtexec [TensorRT v101600] [b72]", (10, 16)),
        ("&&&& RUNNING TensorRT.trtexec [TensorRT v110100] [b1]", (11, 1)),
        ("&&&& RUNNING TensorRT.trtexec [TensorRT v11.1.0.106] [b48]", (11, 1)),
    ],
)
def test_the_version_is_read_from_the_banner(banner: str, version: tuple[int, int]) -> None:
    assert version_from_banner(banner) == version


def test_a_tool_that_prints_no_version_is_refused() -> None:
    with pytest.raises(
        RuntimeUnavailable, match="Expected trtexec to print its TensorRT version, got 'hello'"
    ):
        version_from_banner("hello")
