"""The compiler: turns the source of a loop into machine code that any process can map, by Numba and LLVM.

1. `njit` compiles as Numba's own does, without what only code that makes Python objects or arrays needs: compiled code
   here makes none, all its memory is given to it.
2. All functions of a loop's module that state their types become one LLVM module; what Numba adds for calls from
   Python is left out. LLVM's large code model refers to everything by 64-bit addresses, so that linking is adding.
3. The code may call functions of the C library and nothing else.

Only this module, the loops and what is compiled into them import numba, and only the process
that compiles imports these.
"""

from __future__ import annotations

import importlib
import struct
from functools import partial
from types import ModuleType

import numba
import numpy as np
from llvmlite import binding as llvm
from numba import types
from numba.core.dispatcher import Dispatcher

from wslab.load.engine.machine_code import ARRAY, INTEGER, MachineCode
from wslab.load.engine.state import offsets

# Division by zero gives what the machine makes of it, as in C.
njit = partial(numba.njit, _nrt=False, error_model="numpy")

# ELF, see elf(5), in the form of 64-bit little-endian machines.
_HEADER, _SECTION, _SYMBOL, _RELOCATION = "<16xHHIQQQIHHHHHH", "<IIQQQQIIQQ", "<IBBHQQ", "<QQq"
_SYMTAB, _RELA, _PROGBITS = 2, 4, 1
_ALLOCATED = 0x2
_R_X86_64_64 = 1
_CODE_ALIGNMENT = 64


class CannotLink(Exception):
    """The machine code needs more to be loaded than filling in 64-bit addresses; the text says what."""


def records(fields: dict[str, str]) -> types.Array:
    """Return Numba's type of an array of records; see `state.SERVER_CONNECTION`."""
    places, size = offsets(fields)
    kinds = {"names": list(fields), "formats": list(fields.values()), "offsets": list(places.values())}
    return numba.from_dtype(np.dtype({**kinds, "itemsize": size}))[::1]  # type: ignore[call-overload]


def compile_loop(name: str) -> MachineCode:
    """Compile the module of a loop for this CPU.

    Args:
        name: of the module in this folder.

    Raises:
        ValueError: the code calls what is not in the C library.
    """
    module = importlib.import_module(f"wslab.load.engine.{name}")
    functions = exported(module)
    cpu, features = llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()
    target = llvm.Target.from_default_triple()
    machine = target.create_target_machine(cpu=cpu, features=features, opt=3, reloc="static", codemodel="large")
    whole = llvm.parse_assembly("")
    whole.triple = target.triple
    parameters: dict[str, str] = {}
    for short, function in functions.items():
        (compiled,) = function.overloads.values()
        part = llvm.parse_assembly(compiled.library.get_llvm_str())
        _keep_only(part, compiled.fndesc.llvm_func_name, short, machine)
        whole.link_in(part)
        parameters[short] = " ".join(map(_kind, compiled.signature.args))
    elf = machine.emit_object(whole)
    try:
        return link(elf, parameters)
    except CannotLink:
        return MachineCode(
            functions={name: (0, kinds) for name, kinds in parameters.items()}, relocations={}, blob=elf, linked=False
        )


def exported(module: ModuleType) -> dict[str, Dispatcher]:
    """Return the functions of a module that were compiled for stated types."""
    return {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, Dispatcher) and not value._can_compile  # type: ignore[attr-defined]
    }


def _keep_only(module: llvm.ModuleRef, symbol: str, name: str, machine: llvm.TargetMachine) -> None:
    """Leave one function in a module, renamed, and what it uses."""
    for thing in [*module.functions, *module.global_variables]:
        if not thing.is_declaration:
            thing.linkage = "internal"
    kept = module.get_function(symbol)
    kept.linkage, kept.name = "external", name
    passes = llvm.create_new_module_pass_manager()
    passes.add_global_dead_code_eliminate_pass()
    passes.run(module, llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options()))


def _kind(kind: types.Type) -> str:
    """Return a parameter of a compiled function as `MachineCode` has it."""
    if isinstance(kind, types.Array):
        return f"{ARRAY}{kind.dtype.bitwidth // 8 if hasattr(kind.dtype, 'bitwidth') else kind.dtype.size}x{kind.ndim}"
    assert isinstance(kind, types.Integer | types.Boolean), kind
    return INTEGER


def link(elf: bytes, parameters: dict[str, str]) -> MachineCode:
    """Lay out what an ELF object wants in memory, and collect where addresses are to be filled in.

    Args:
        elf: an object of LLVM's large code model.
        parameters: by name of the functions that are wanted from it.

    Raises:
        CannotLink: the machine is not x86-64, or something else is to be filled in.
        ValueError: the code calls what is not in the C library.
    """
    header = struct.unpack_from(_HEADER, elf)
    machine, sections_at, section_size, count = header[1], header[5], header[10], header[11]
    if machine != 62:
        raise CannotLink(f"ELF machine {machine}")
    sections = [struct.unpack_from(_SECTION, elf, sections_at + n * section_size) for n in range(count)]
    names = sections[header[12]]
    blob = bytearray()
    places: dict[int, int] = {}  # of sections in the blob
    for index, (name_at, kind, flags, _, at, size, _, _, alignment, _) in enumerate(sections):
        name = _text(elf, names[4] + name_at)
        if flags & _ALLOCATED and size and not name.startswith(".eh_frame"):  # nothing unwinds these stacks
            if kind != _PROGBITS:
                raise CannotLink(f"section {name} of type {kind}")
            blob += bytes(-len(blob) % max(alignment, _CODE_ALIGNMENT))
            places[index] = len(blob)
            blob += elf[at : at + size]
    (symtab,) = [section for section in sections if section[1] == _SYMTAB]
    strings = sections[symtab[6]]
    symbols = [struct.unpack_from(_SYMBOL, elf, symtab[4] + n * 24) for n in range(symtab[5] // 24)]

    relocations: dict[str, list[tuple[int, int]]] = {}
    for section in sections:
        if section[1] != _RELA or section[7] not in places:
            continue
        for n in range(section[5] // 24):
            at, info, addend = struct.unpack_from(_RELOCATION, elf, section[4] + n * 24)
            name_at, _, _, home, value, _ = symbols[info >> 32]
            if info & 0xFFFFFFFF != _R_X86_64_64 or (home and home not in places):
                raise CannotLink(f"relocation {info & 0xFFFFFFFF} to section {home}")
            symbol = "" if home else _text(elf, strings[4] + name_at)
            to = addend + (places[home] + value if home else 0)
            relocations.setdefault(symbol, []).append((places[section[7]] + at, to))
    offsets_of = {
        _text(elf, strings[4] + name_at): places[home] + value
        for name_at, _, _, home, value, _ in symbols
        if home in places and name_at
    }
    functions = {name: (offsets_of[name], kinds) for name, kinds in parameters.items()}
    code = MachineCode(functions=functions, relocations=relocations, blob=bytes(blob))
    missing = code.missing()
    if missing:
        raise ValueError(f"not in the C library: {', '.join(missing)}")
    return code


def _text(data: bytes, at: int) -> str:
    return data[at : data.index(0, at)].decode()
