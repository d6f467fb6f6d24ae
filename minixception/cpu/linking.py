"""Each kernel is optimised, and machine code made of it, once.

Numba compiles every helper into a library of its own: LLVM optimises it and makes machine code of it, before it is
linked into whoever calls it, where the same happens again; around the body of a ``prange`` lie three libraries more. A
tile was so optimised and translated seven times over, and only the last of these is ever run.

While a kernel is compiled, the libraries are therefore ``_Part``s. A part is linked as it is, and becomes machine code
only when somebody asks for the address of a function in it: for that of the kernel itself, the dispatcher does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

from numba.core.codegen import JITCodeLibrary
from numba.core.compiler_lock import global_compiler_lock
from numba.core.environment import lookup_environment

_BODY = "__numba_parfor_gufunc"  # how Numba names the body of a prange, which has an entry for Python that none calls
_STEPS = ("_optimize_final_module", "_finalize_final_module", "get_pointer_to_function")


class _Part(JITCodeLibrary):
    """Code that waits for being linked; machine code is made of it on demand."""

    _made = False
    _compiled_object: Any = None

    def _optimize_final_module(self) -> None:
        """Not before somebody asks for an address."""

    def _finalize_final_module(self) -> None:
        self._finalized = True
        if self._compiled_object is not None:  # from the cache: machine code is all there is
            self._made = True
            super()._finalize_final_module()

    def get_pointer_to_function(self, name: str) -> Any:
        """The address of a function; 0 if it is not in here."""
        self._ensure_finalized()
        if not self._made:
            if self.name.startswith(_BODY) or not self._defines(name):
                return 0
            self._make()
        return super().get_pointer_to_function(name)

    def _defines(self, name: str) -> bool:
        return any(function.name == name for function in self.get_defined_functions())

    @global_compiler_lock
    def _make(self) -> None:
        self._made = True
        super()._optimize_final_module()
        super()._finalize_final_module()
        for variable in self._final_module.global_variables:  # of the functions that are linked in, too
            if (environment := lookup_environment(variable.name)) is not None:
                self._codegen.set_env(variable.name, environment)


def make_code_once(dispatcher: Any) -> None:
    """Let what is compiled for this dispatcher be made of parts; with a Numba that is built otherwise, do nothing."""
    if all(hasattr(JITCodeLibrary, step) for step in _STEPS):
        compiler = dispatcher._compiler
        compiler.compile = _of_parts(compiler.compile, dispatcher.targetctx)


def _of_parts(compile: Callable[..., Any], context: Any) -> Callable[..., Any]:
    @wraps(compile)
    def compile_of_parts(*arguments: Any) -> Any:
        codegen = context.codegen()
        if codegen._library_class is _Part:  # a kernel that another calls
            return compile(*arguments)
        with _parts(codegen):
            return compile(*arguments)

    return compile_of_parts


@contextmanager
def _parts(codegen: Any) -> Iterator[None]:
    """Let libraries be parts, inside of the block; Numba holds its compiler's lock meanwhile."""
    set_env = type(codegen).set_env

    def set_env_if_made(name: str, environment: Any) -> None:
        if codegen._engine.is_symbol_defined(name):  # else the library that a part is linked into sets it
            set_env(codegen, name, environment)

    codegen._library_class, codegen.set_env = _Part, set_env_if_made
    try:
        yield
    finally:
        del codegen._library_class, codegen.set_env
