"""Machine code as it is kept and loaded: plain bytes, where addresses are to be filled in, and functions by name.

Whoever loads it needs no compiler and no array library: `ctypes` maps it and calls it.

1. A function takes integers and arrays. An array is whatever has a writable, contiguous buffer (`memoryview`, `array`,
   a NumPy array); its address and shape are handed over, not its items.
2. The arguments are those that Numba gives a function: where to put the result, where to put an exception, and for each
   array two words that are for its owner and 0 here, items, bytes of an item, address, shape and strides.
"""

from __future__ import annotations

import ctypes
import json
import mmap
from zlib import crc32

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

INTEGER, ARRAY = "i", "a"  # kinds of parameters; that of an array is followed by bytes of an item, "x", and dimensions
_MAGIC = b"wslab machine code 1"
_PROT_READ, _PROT_EXEC = 1, 4


class MachineCode:
    """The machine code of one loop.

    Args:
        functions: by name where each begins, and its parameters.
        relocations: by name of a function of the C library, or "" for this code itself, where its address is to be
            added, and to what.
        blob: the code and its constants.
        linked: False when the blob is an ELF object that only LLVM knows to load, for machines other than x86-64.
    """

    def __init__(
        self,
        *,
        functions: dict[str, tuple[int, str]],
        relocations: dict[str, list[tuple[int, int]]],
        blob: bytes,
        linked: bool = True,
    ) -> None:
        self.functions, self.relocations, self.blob, self.linked = functions, relocations, blob, linked

    def pack(self, key: str) -> bytes:
        """Return it as it is kept; `key` names what it was made from and for."""
        head = {"key": key, "functions": self.functions, "relocations": self.relocations, "linked": self.linked}
        rest = json.dumps(head).encode() + b"\n" + self.blob
        return b"%s %08x\n" % (_MAGIC, crc32(rest)) + rest

    @classmethod
    def unpack(cls, data: bytes, key: str) -> MachineCode:
        """Return what was packed under this key.

        Raises:
            ValueError: the data is damaged, cut short, or of another key.
        """
        first, _, rest = data.partition(b"\n")
        if first != b"%s %08x" % (_MAGIC, crc32(rest)):
            raise ValueError("damaged")
        head, _, blob = rest.partition(b"\n")
        fields = json.loads(head)
        if fields.pop("key") != key:
            raise ValueError("of another key")
        return cls(blob=blob, **fields)

    def missing(self) -> list[str]:
        """Return the functions that this process does not have."""
        return sorted(name for name in self.relocations if name and _address_of(name) is None)

    def load(self) -> dict[str, Function]:
        """Map the code into this process, and return its functions by name.

        Raises:
            OSError: the kernel allows no more code here.
            ImportError: the code is not linked and llvmlite is not installed.
        """
        if not self.linked:
            return self._load_by_llvm()
        size = len(self.blob) + -len(self.blob) % mmap.PAGESIZE
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        memory[: len(self.blob)] = self.blob
        base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        for name, places in self.relocations.items():
            address = _address_of(name) if name else base
            if address is None:
                raise OSError(f"the C library has no {name}")
            for at, addend in places:
                memory[at : at + 8] = (address + addend).to_bytes(8, "little")
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mprotect(ctypes.c_void_p(base), ctypes.c_size_t(size), _PROT_READ | _PROT_EXEC):
            raise OSError(ctypes.get_errno(), "memory for machine code")
        return {name: Function(base + at, kinds.split(), memory) for name, (at, kinds) in self.functions.items()}

    def _load_by_llvm(self) -> dict[str, Function]:
        from llvmlite import binding as llvm

        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        empty = llvm.parse_assembly("")
        engine = llvm.create_mcjit_compiler(empty, llvm.Target.from_default_triple().create_target_machine())
        engine.add_object_file(llvm.ObjectFileRef.from_data(self.blob))
        engine.finalize_object()
        addresses = {name: engine.get_function_address(name) for name in self.functions}
        return {name: Function(addresses[name], kinds.split(), engine) for name, (_, kinds) in self.functions.items()}


class Function:
    """A compiled function; call it with all its arguments, or `bind` its last ones, which costs less each time.

    Args:
        address: of its code.
        kinds: of its parameters.
        owner: what keeps the code in memory.
    """

    def __init__(self, address: int, kinds: list[str], owner: object) -> None:
        self._kinds, self._owner = kinds, owner
        types: list[Any] = [ctypes.c_void_p, ctypes.c_void_p]
        for kind in kinds:
            types += [ctypes.c_int64] * (5 + 2 * int(kind[-1]) if kind[0] == ARRAY else 1)
        self._call = ctypes.CFUNCTYPE(ctypes.c_int, *types)(address)

    def __call__(self, *arguments: Any) -> int:
        """Call it once; see `bind`."""
        return self.bind(*arguments)()

    def bind(self, *last: Any) -> Bound:
        """Return a function of the leading arguments, integers, that gives the last ones the values stated here."""
        kinds = self._kinds[len(self._kinds) - len(last) :]
        flat: list[int] = []
        for kind, value in zip(kinds, last, strict=True):
            flat += [value] if kind[0] == INTEGER else _flat(kind, value)
        return Bound(self._call, flat, (self._owner, last))


class Bound:
    """A function with its last arguments fixed; see `Function.bind`."""

    __slots__ = ("_call", "_keep", "_last", "_places", "_result")

    def __init__(self, call: Any, last: list[int], keep: object) -> None:
        self._call, self._keep = call, keep
        self._result, exception = ctypes.c_int64(), ctypes.c_void_p()
        self._places = (ctypes.addressof(self._result), ctypes.addressof(exception))
        self._last, self._keep = tuple(last), (keep, exception)

    def __call__(self, *first: int) -> int:
        """Call it with the leading arguments and return its result; 0 when it has none."""
        if self._call(*self._places, *first, *self._last):
            raise RuntimeError("compiled code has failed")
        return self._result.value


def _flat(kind: str, value: Any) -> list[int]:
    """Return the words that stand for an array."""
    item, dimensions = map(int, kind[1:].split("x"))
    view = memoryview(value)
    if view.nbytes and (view.readonly or not view.c_contiguous):
        raise ValueError("an array for compiled code has to be writable and in one piece")
    shape = list(view.shape or ()) if dimensions > 1 else [view.nbytes // item]
    if len(shape) != dimensions:
        raise ValueError(f"an array of {dimensions} dimensions is needed, not of {len(shape)}")
    strides = [item]
    for length in reversed(shape[1:]):
        strides.insert(0, strides[0] * length)
    address = ctypes.addressof(ctypes.c_char.from_buffer(value)) if view.nbytes else 0
    return [0, 0, view.nbytes // item, item, address, *shape, *strides]


def _address_of(name: str) -> int | None:
    """Return the address of a function of the C library."""
    try:
        return ctypes.cast(getattr(ctypes.CDLL(None), name), ctypes.c_void_p).value
    except AttributeError:
        return None
