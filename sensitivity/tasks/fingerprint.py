"""The fingerprint of a task that is made in a program, and so has no file whose text could be read.

The model and the data are fingerprinted when the journal begins. This module fingerprints the
functions that turn outputs into a metric: their code, their defaults, and the values that they
close over or read from their module.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial, singledispatchmethod
from itertools import chain
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from sensitivity.tasks.base import EvaluateTask, Task
from sensitivity.tasks.batches import batch_digest

SIMPLE = (type(None), bool, int, float, complex, str, bytes)
JUDGES = {Task: ("score", "aggregate"), EvaluateTask: ("evaluate", "confirm", "holdout")}
"""Attributes of a task that are functions and decide what is measured."""


def judges_digest(task: Task | EvaluateTask) -> str:
    """Return the hex sha256 of the functions that judge outputs. Functions with the same text have
    the same digest in every process.

    Only the class counts for an object that is neither a function nor made of plain values, numbers
    and arrays.
    """
    digest = hashlib.sha256()
    reader = _Reader(digest.update)
    for name in JUDGES[type(task)]:
        reader.text(name)
        reader.read(getattr(task, name))
    return digest.hexdigest()


def function_digest(function: Any) -> str:
    """Return the hex sha256 of one function, read as `judges_digest` reads them."""
    digest = hashlib.sha256()
    _Reader(digest.update).read(function)
    return digest.hexdigest()


class _Reader:
    """Feeds values to a digest, each object once, so that functions which call each other come to
    an end."""

    def __init__(self, update: Callable[[bytes], None]) -> None:
        self._update = update
        # Objects by their address. They are kept, so that no other object gets the same address.
        self._seen: dict[int, Any] = {}

    def text(self, words: str) -> None:
        self._update(f"{len(words)}:{words};".encode())

    def read(self, value: Any) -> None:
        if isinstance(value, SIMPLE):
            self.text(f"{type(value).__name__} {value!r}")
            return
        if id(value) in self._seen:
            return
        self._seen[id(value)] = value
        self.text(type(value).__qualname__)
        self._compound(value)

    @singledispatchmethod
    def _compound(self, value: Any) -> None:
        """Read the parts of a value, by its type."""
        if hasattr(value, "shape") and hasattr(value, "dtype"):
            self.text(batch_digest(value, None))
        elif callable(value) and not hasattr(value, "named_modules"):
            # An object that is called like a function. A model has a fingerprint of its own.
            self._all((type(value).__call__, getattr(value, "__dict__", None)))

    @_compound.register
    def _method(self, value: MethodType) -> None:
        self._all((value.__func__, value.__self__))

    @_compound.register(partial)
    def _partial(self, value: partial[Any]) -> None:
        self._all((value.func, value.args, value.keywords))

    @_compound.register
    def _module(self, value: ModuleType) -> None:
        self.text(value.__name__)

    @_compound.register(BuiltinFunctionType)
    @_compound.register(type)
    def _named(self, value: Any) -> None:
        self.text(f"{value.__module__}.{value.__qualname__}")

    @_compound.register(Mapping)
    def _mapping(self, value: Mapping[Any, Any]) -> None:
        self._all(chain.from_iterable(value.items()))

    @_compound.register(tuple)
    @_compound.register(list)
    def _sequence(self, value: Iterable[Any]) -> None:
        self._all(value)

    @_compound.register(set)
    @_compound.register(frozenset)
    def _set(self, value: Iterable[Any]) -> None:
        self.text(repr(sorted(map(repr, value))))

    @_compound.register
    def _function(self, function: FunctionType) -> None:
        self._code(function.__code__, function.__globals__)
        self._all((function.__defaults__, function.__kwdefaults__))
        for cell in function.__closure__ or ():
            with suppress(ValueError):  # The name has no value yet.
                self.read(cell.cell_contents)

    def _all(self, values: Iterable[Any]) -> None:
        for value in values:
            self.read(value)

    def _code(self, code: CodeType, known: Mapping[str, Any]) -> None:
        """Read the code of a function.

        known: name -> its value in the function's module.
        """
        self._update(code.co_code)
        self._all(code.co_names)
        self._all(known[name] for name in code.co_names if name in known)
        for constant in code.co_consts:
            if isinstance(constant, CodeType):  # A function inside the function.
                self._code(constant, known)
            else:
                self.read(constant)
