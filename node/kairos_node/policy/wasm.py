"""OPA's WebAssembly ABI 1.2 over wasmtime: one instance of one module with its data."""

from __future__ import annotations

import ctypes
import json
from functools import lru_cache, partial
from typing import Any

import wasmtime

from kairos.errors import BadMessage

FUEL_PER_MS = 1_000_000  # about that of one core: a decision that needs more than its budget is cut off, which is deny
LOAD_FUEL = 5000 * FUEL_PER_MS  # the data is parsed once a bundle
EXPLAIN_FUEL = 5000 * FUEL_PER_MS  # a person waits for it, no packet does
MEMORY_MAX = 512 * 1024 * 1024
_PAGE = 65_536


class PolicyError(Exception):
    """The module trapped: it ran out of fuel, or aborted. Its memory is not to be used again."""


class Module:
    """Compiled once a bundle. Raises BadMessage when it is no policy, or needs builtins that this host has not."""

    def __init__(self, wasm: bytes) -> None:
        config = wasmtime.Config()
        config.consume_fuel = True
        self.engine = wasmtime.Engine(config)
        try:
            self.module = wasmtime.Module(self.engine, wasm)
        except wasmtime.WasmtimeError as error:
            raise BadMessage(f"policy.wasm: {str(error).splitlines()[0]}") from None
        kinds = [each.type for each in self.module.imports if each.name == "memory"]
        minimum = [kind.limits.min for kind in kinds if isinstance(kind, wasmtime.MemoryType)]
        if len(minimum) != 1:
            raise BadMessage("policy.wasm imports no memory: it was not built by OPA")
        self.memory_pages: int = minimum[0]


@lru_cache(maxsize=2)
def compiled(wasm: bytes) -> Module:
    """Compiling takes a quarter of a second, and a push mostly changes the grants alone. Raises BadMessage."""
    return Module(wasm)


class Instance:
    """The module with `data` in its memory. Not for two threads at once."""

    def __init__(self, module: Module, data: bytes) -> None:
        self._store = wasmtime.Store(module.engine)
        self._store.set_fuel(LOAD_FUEL)
        self._store.set_limits(memory_size=MEMORY_MAX)
        self._memory = wasmtime.Memory(self._store, wasmtime.MemoryType(wasmtime.Limits(module.memory_pages, None)))
        try:
            self._exports = self._link(module)
            needed = json.loads(self._text(self._dump(self._call("builtins"))))
            if needed:
                raise BadMessage(f"the policy needs builtins that are not offered: {', '.join(sorted(needed))}")
            self._entrypoints: dict[str, int] = json.loads(self._text(self._dump(self._call("entrypoints"))))
            self._data = self._parse(data)
            self._heap = self._call("opa_heap_ptr_get")
        except (wasmtime.WasmtimeError, wasmtime.Trap, KeyError, ValueError, PolicyError) as error:
            raise BadMessage(f"policy.wasm does not start: {str(error).splitlines()[0]}") from None

    @property
    def memory_bytes(self) -> int:
        return self._memory.data_len(self._store)

    @property
    def entrypoints(self) -> set[str]:
        return set(self._entrypoints)

    def evaluate(self, entrypoint: str, document: bytes, fuel: int) -> Any:
        """The value of an entrypoint for an input (JSON text); None when it is undefined, or the policy has no such rule.
        Raises PolicyError."""
        if entrypoint not in self._entrypoints:
            return None
        try:
            self._store.set_fuel(fuel)
            self._reserve(self._heap + len(document))
            self._memory.write(self._store, document, self._heap)
            address = self._call(
                "opa_eval", 0, self._entrypoints[entrypoint], self._data, self._heap, len(document),
                self._heap + len(document), 0,
            )  # fmt: skip
            results = json.loads(self._text(address))
        except (wasmtime.WasmtimeError, wasmtime.Trap, KeyError, ValueError) as error:
            raise PolicyError(str(error).splitlines()[0]) from None
        return results[0]["result"] if results else None

    def _link(self, module: Module) -> Any:
        linker = wasmtime.Linker(module.engine)
        linker.define(self._store, "env", "memory", self._memory)
        word = wasmtime.ValType.i32()
        for name, count in {"opa_abort": 1, "opa_println": 1}.items():
            kind = wasmtime.FuncType([word] * count, [])
            linker.define_func("env", name, kind, self._abort if name == "opa_abort" else lambda _address: None)
        for count in range(5):
            kind = wasmtime.FuncType([word] * (count + 2), [word])
            linker.define_func("env", f"opa_builtin{count}", kind, lambda *_: 0)  # none is offered: undefined
        return partial(linker.instantiate(self._store, module.module).exports(self._store).__getitem__)

    def _call(self, name: str, *arguments: int) -> int:
        result: int = self._exports(name)(self._store, *arguments)
        return result

    def _abort(self, address: int) -> None:
        raise PolicyError(f"the policy aborted: {self._text(address)}")

    def _dump(self, value: int) -> int:
        return self._call("opa_json_dump", value)

    def _parse(self, text: bytes) -> int:
        address = self._call("opa_malloc", len(text))
        self._memory.write(self._store, text, address)
        return self._call("opa_json_parse", address, len(text))

    def _reserve(self, size: int) -> None:
        missing = size - self._memory.data_len(self._store)
        if missing > 0:
            self._memory.grow(self._store, -(-missing // _PAGE))

    def _text(self, address: int) -> str:
        base = ctypes.addressof(self._memory.data_ptr(self._store).contents)
        return ctypes.string_at(base + address).decode()
