"""A strict stand-in for the `tensorrt` module of one version, made from the name lists.

An unknown name raises AttributeError, an unknown argument TypeError, a call in the wrong order
AssertionError. It "builds" and "runs" by remembering what was asked; it never yields a time, and
its outputs are zeros.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
from contract.api import API, FULL_NAME, members


class Strict:
    """An object of one TensorRT class. `_world` holds what all objects of a module share."""

    def __init__(self, world: World, name: str, /, **state: Any) -> None:
        self.__dict__.update(_world=world, _name=name, _values=dict(state))

    def __getattr__(self, member: str) -> Any:
        world, name = self._world, self._name
        known = members(world.version, name)
        if member not in known:
            raise AttributeError(f"TensorRT {world.version} has no {name}.{member}")
        if isinstance(known[member], list):
            return lambda *args, **keywords: world.call(self, member, args, keywords)
        if member in self._values:
            return self._values[member]
        raise AssertionError(f"{name}.{member} is read before it was set")

    def __setattr__(self, member: str, value: Any) -> None:
        known = members(self._world.version, self._name)
        if known.get(member) not in ("rw", "wo"):
            raise AttributeError(f"TensorRT {self._world.version} cannot set {self._name}.{member}")
        self._values[member] = value
        self._world.calls.append((f"{self._name}.{member}=", (value,)))


class Enum:
    def __init__(self, version: str, name: str) -> None:
        self._version, self._name = version, name

    def __getattr__(self, member: str) -> Any:
        known = members(self._version, self._name)
        if known.get(member) not in ("value", "other"):
            raise AttributeError(f"TensorRT {self._version} has no {self._name}.{member}")
        return EnumValue(f"{self._name}.{member}", list(known).index(member))


class EnumValue:
    def __init__(self, name: str, number: int) -> None:
        self.name, self.number = name, number

    def __int__(self) -> int:
        return self.number

    def __eq__(self, other: object) -> bool:
        return isinstance(other, EnumValue) and other.name == self.name

    def __hash__(self) -> int:
        return hash(self.name)


class World:
    """Behaviour behind the names: which object a call returns, and what must have happened before
    it."""

    def __init__(
        self, version: str, *, dynamic: bool = False, free_height: bool = False, refuse: str = ""
    ) -> None:
        self.version, self.dynamic, self.refuse = version, dynamic, refuse
        self.input_shape = (-1 if dynamic else 1, 3, -1 if free_height else 16, 16)
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.loaded: list[bytes] = []
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.logger: Any = None

    def names(self) -> list[str]:
        return [name for name, _ in self.calls]

    def call(
        self, target: Strict, member: str, args: tuple[Any, ...], keywords: dict[str, Any]
    ) -> Any:
        name = f"{target._name}.{member}"
        allowed = [
            [arg.rstrip("=") for arg in overload]
            for overload in members(self.version, target._name)[member]
        ]
        if not any(
            len(args) <= len(names) and set(keywords) <= set(names[len(args) :])
            for names in allowed
        ):
            raise TypeError(
                f"TensorRT {self.version}: {name} takes {allowed}, got {len(args)} and "
                f"{sorted(keywords)}"
            )
        self.calls.append((name, args))
        behaviour = getattr(self, f"{target._name}_{member}", None)
        if behaviour is None:
            raise AssertionError(
                f"the stand-in has no behaviour for {name}: add it if the call is right"
            )
        return behaviour(target, *args, **keywords)

    def after(self, *names: str) -> None:
        for name in names:
            assert name in self.names(), f"{name} must come before {self.calls[-1][0]}"

    def Builder_create_network(self, builder: Strict, flags: int = 0) -> Strict:
        explicit = members(self.version, "NetworkDefinitionCreationFlag")
        if self.version == "8.6":
            assert flags & 1 << list(explicit).index("EXPLICIT_BATCH"), (
                "8.6 needs an explicit batch"
            )
        return Strict(self, "INetworkDefinition", num_inputs=0)

    def Builder_create_builder_config(self, builder: Strict) -> Strict:
        return Strict(self, "IBuilderConfig")

    def Builder_create_optimization_profile(self, builder: Strict) -> Strict:
        return Strict(self, "IOptimizationProfile")

    def Builder_build_serialized_network(
        self, builder: Strict, network: Strict, config: Strict
    ) -> Any:
        self.after("OnnxParser.parse_from_file", "IBuilderConfig.profiling_verbosity=")
        if self.dynamic:
            self.after("IOptimizationProfile.set_shape", "IBuilderConfig.add_optimization_profile")
        if self.refuse == "build":
            self.logger.log(Enum(self.version, "ILogger").ERROR, "no kernel for node conv")
            return None
        return b"plan"

    def OnnxParser_parse_from_file(self, parser: Strict, model: str) -> bool:
        network = parser._values["network"]
        network._values["num_inputs"] = 1
        parser._values["num_errors"] = int(self.refuse == "parse")
        return self.refuse != "parse"

    def OnnxParser_get_error(self, parser: Strict, index: int) -> Strict:
        return Strict(self, "ParserError")

    def ParserError_node_name(self, error: Strict) -> str:
        return "foo/Foo"

    def ParserError_node_operator(self, error: Strict) -> str:
        return "Foo"

    def ParserError_desc(self, error: Strict) -> str:
        return "unsupported operator Foo"

    def INetworkDefinition_get_input(self, network: Strict, index: int) -> Strict:
        self.after("OnnxParser.parse_from_file")
        return Strict(self, "ITensor", name="x", shape=self.input_shape)

    def ICudaEngine_get_tensor_shape(self, engine: Strict, name: str) -> tuple[int, ...]:
        return self.input_shape if name == "x" else (self.input_shape[0], 16, 1, 1)

    def IOptimizationProfile_set_shape(
        self, profile: Strict, name: str, *shapes: tuple[int, ...]
    ) -> None:
        assert len(shapes) == 3

    def IBuilderConfig_set_flag(self, config: Strict, flag: EnumValue) -> None:
        assert isinstance(flag, EnumValue)

    def IBuilderConfig_set_memory_pool_limit(
        self, config: Strict, pool: EnumValue, pool_size: int
    ) -> None:
        assert "Builder.build_serialized_network" not in self.names()

    def IBuilderConfig_add_optimization_profile(self, config: Strict, profile: Strict) -> int:
        self.after("IOptimizationProfile.set_shape")
        return 0

    def IBuilderConfig_create_timing_cache(self, config: Strict, serialized: bytes) -> Strict:
        return Strict(self, "ITimingCache")

    def IBuilderConfig_set_timing_cache(
        self, config: Strict, cache: Strict, ignore_mismatch: bool
    ) -> bool:
        assert "Builder.build_serialized_network" not in self.names()
        return True

    def IBuilderConfig_get_timing_cache(self, config: Strict) -> Strict:
        self.after("IBuilderConfig.set_timing_cache", "Builder.build_serialized_network")
        return Strict(self, "ITimingCache")

    def ITimingCache_serialize(self, cache: Strict) -> bytes:
        return b"cache"

    def Runtime_deserialize_cuda_engine(
        self, runtime: Strict, serialized_engine: bytes
    ) -> Strict | None:
        self.loaded.append(serialized_engine)
        if serialized_engine != b"plan" or self.refuse == "load":
            return None
        return Strict(self, "ICudaEngine", num_io_tensors=2)

    def ICudaEngine_create_execution_context(self, engine: Strict) -> Strict:
        return Strict(self, "IExecutionContext")

    def ICudaEngine_create_engine_inspector(self, engine: Strict) -> Strict:
        return Strict(self, "EngineInspector")

    def ICudaEngine_get_tensor_name(self, engine: Strict, index: int) -> str:
        return ("x", "y")[index]

    def ICudaEngine_get_tensor_mode(self, engine: Strict, name: str) -> EnumValue:
        return getattr(Enum(self.version, "TensorIOMode"), {"x": "INPUT", "y": "OUTPUT"}[name])

    def ICudaEngine_get_tensor_dtype(self, engine: Strict, name: str) -> str:
        return "bfloat16" if self.refuse == "dtype" else "float32"

    def IExecutionContext_set_input_shape(
        self, context: Strict, name: str, shape: tuple[int, ...]
    ) -> bool:
        self.shapes[name] = tuple(shape)
        return self.refuse != "shape"

    def IExecutionContext_get_tensor_shape(self, context: Strict, name: str) -> tuple[int, ...]:
        assert "x" in self.shapes, "output shapes are known only after the input shapes"
        return (-1, 4) if self.refuse == "output" else (self.shapes["x"][0], 16, 1, 1)

    def IExecutionContext_set_tensor_address(self, context: Strict, name: str, memory: int) -> bool:
        self.addresses[name] = memory
        return True

    def IExecutionContext_execute_async_v3(self, context: Strict, stream_handle: int) -> bool:
        assert set(self.addresses) == {"x", "y"}, "every tensor needs an address before the launch"
        profiler = context._values.get("profiler")
        if profiler is not None:
            assert context._values.get("enqueue_emits_profile") is False
        return self.refuse != "run"

    def IExecutionContext_report_to_profiler(self, context: Strict) -> bool:
        assert self.names()[-2] == "IExecutionContext.execute_async_v3"
        return True  # no layer is reported: a stand-in has no times

    def EngineInspector_get_engine_information(self, inspector: Strict, form: EnumValue) -> str:
        assert "execution_context" in inspector._values
        layers = [
            {
                "Name": "layer0/Conv + layer0/Relu",
                "LayerType": "CaskConvolution",
                "Weights": {"Type": "Int8"},
            }
        ]
        return json.dumps({"Layers": layers, "Bindings": ["x", "y"]})


class Module:
    """`import tensorrt` of one version."""

    __name__ = "tensorrt"

    def __init__(self, version: str, **world: Any) -> None:
        self.world = World(version, **world)
        self.__version__ = FULL_NAME[version]

    def __getattr__(self, name: str) -> Any:
        version = self.world.version
        if name not in API[version]["module"]:
            raise AttributeError(f"TensorRT {version} has no tensorrt.{name}")
        if name == "nptype":
            return _nptype
        if name in API[version]["subclassed"]:
            return _base_class(version, name)
        if name in ("Builder", "Runtime", "OnnxParser"):
            return self._constructor(name)
        return Enum(version, name)

    def _constructor(self, name: str) -> Callable[..., Strict]:
        def construct(*args: Any) -> Strict:
            names = members(self.world.version, name)["__init__"][0]
            assert len(args) == len(names), f"{name} takes {names}"
            state = dict(zip(names, args, strict=True))
            self.world.logger = state["logger"]
            self.world.calls.append((name, args))
            return Strict(self.world, name, **state)

        return construct


def _base_class(version: str, name: str) -> type:
    """A class to inherit from, which insists on being initialized; enum values hang on it as in
    TensorRT."""
    values = {
        member: getattr(Enum(version, name), member)
        for member, kind in members(version, name).items()
        if kind == "value"
    }
    return type(name, (), {"__init__": lambda self: None, **values})


def _nptype(kind: str) -> Any:
    if kind == "bfloat16":
        raise TypeError("Could not resolve TensorRT datatype to an equivalent numpy datatype")
    return np.dtype(kind)


class FakeCuda:
    """Device memory in a dict. It has no clock: `elapsed_ms` runs the work and then refuses to say
    how long it took."""

    name, device, handle = "fake", "no GPU", 7

    def __init__(self) -> None:
        self.memory: dict[int, Any] = {}
        self.calls: list[str] = []

    def allocate(self, nbytes: int) -> Any:
        from sensitivity.runtimes.cuda import Buffer

        buffer = Buffer(1000 + len(self.memory), nbytes)
        self.memory[buffer.address] = np.zeros(nbytes, np.uint8)
        return buffer

    def copy_in(self, buffer: Any, array: Any) -> None:
        self.memory[buffer.address][: array.nbytes] = array.reshape(-1).view(np.uint8)

    def copy_out(self, buffer: Any, array: Any) -> None:
        array.reshape(-1).view(np.uint8)[:] = self.memory[buffer.address][: array.nbytes]

    def synchronize(self) -> None:
        self.calls.append("synchronize")

    def elapsed_ms(self, work: Callable[[], None]) -> float:
        self.calls.append("timed launch")
        work()
        raise NoTimeHereError

    def captured(self, work: Callable[[], None]) -> Callable[[], None]:
        self.calls.append("capture")
        work()
        return lambda: self.calls.append("graph launch")

    def close(self) -> None:
        self.calls.append("close")


class NoTimeHereError(Exception):
    """A stand-in measured nothing."""
