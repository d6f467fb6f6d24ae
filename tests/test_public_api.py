"""The public API, name by name with its arguments: what courses rely on changes with intent or not at all.

After an intended change: python -m tests.test_public_api
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import minixception as mx

LIST = Path(__file__).parent / "golden" / "public_api.txt"


def arguments(function: Any, skipped: int = 0) -> str:
    """Names, kinds and defaults of all but the first; of a default that is no plain value, its type."""

    def shown(parameter: inspect.Parameter) -> inspect.Parameter:
        value = parameter.default
        plain = isinstance(value, int | float | str | tuple | type(None)) or value is inspect.Parameter.empty
        return parameter.replace(annotation=inspect.Parameter.empty, default=value if plain else type(value))

    signature = inspect.signature(function)
    parameters = list(map(shown, signature.parameters.values()))[skipped:]
    return str(signature.replace(parameters=parameters, return_annotation=inspect.Signature.empty))


def public(module: Any) -> list[str]:
    """``__all__``; without one, what the module and those below it define."""
    things = {name: getattr(thing, "__module__", None) or "" for name, thing in vars(module).items()}
    defined = [name for name, where in things.items() if where.startswith(module.__name__) and name[0] != "_"]
    return sorted(getattr(module, "__all__", defined))


def lines() -> Iterator[str]:
    """One for each name of the package and of its public modules, and for each member of a class."""
    modules = {"mx": mx} | {
        f"mx.{name}": getattr(mx, name) for name in public(mx) if inspect.ismodule(getattr(mx, name))
    }
    classes = {thing for module in modules.values() for thing in vars(module).values() if inspect.isclass(thing)}
    for path, module in modules.items():
        for name in public(module):
            thing, path_of_it = getattr(module, name), f"{path}.{name}"
            if inspect.isclass(thing) and issubclass(thing, BaseException):
                yield f"{path_of_it}: {', '.join(base.__name__ for base in thing.__bases__)}"
            elif inspect.isclass(thing):
                yield f"{path_of_it}{arguments(thing)}"
                for base in thing.__mro__:
                    if base is thing or (base.__module__.startswith("minixception") and base not in classes):
                        yield from (f"{path_of_it}.{member}" for member in members(base))
            elif inspect.isroutine(thing):
                yield f"{path_of_it}{arguments(thing)}"
            elif isinstance(thing, dict):
                yield from (f"{path_of_it}[{key!r}]" for key in thing)
            else:
                yield f"{path_of_it}: {type(thing).__name__}"


def members(one: type) -> list[str]:
    """What a class adds to its bases: methods with their arguments, and properties."""

    def shown(name: str, value: Any) -> str:
        function = getattr(value, "__func__", value)
        is_static = isinstance(value, staticmethod)
        return name + arguments(function, skipped=0 if is_static else 1) if inspect.isfunction(function) else name

    return [shown(name, value) for name, value in vars(one).items() if not name.startswith("_")]


def test_nothing_public_has_changed():
    assert sorted(lines()) == LIST.read_text(encoding="utf-8").splitlines()


if __name__ == "__main__":
    LIST.write_text("\n".join(sorted(lines())) + "\n", encoding="utf-8")
