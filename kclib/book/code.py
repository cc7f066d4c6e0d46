"""Which code makes a thing: the definitions that one function of kclib reaches, and their digest.

The store names an entry by its settings and by this digest, so that what was made by other code is
never read. Only what is reached counts: a new function beside it changes nothing, and neither do
comments, docstrings and layout.
"""

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

_PACKAGE = Path(__file__).parents[1]
#: Modules that cannot change a number.
_NEUTRAL = {"atomic", "book.progress", "compatibility", "errors"}

#: A definition: its module, by its path inside the package, and its name there.
Place = tuple[str, str]


@cache
def digest(module: str, name: str) -> str:
    """Digest a definition of kclib with all that it uses of kclib, directly or not.

    A method counts where its class is named, in code or in an annotation.

    Parameters
    ----------
    module : str
        Its path inside the package, e.g. ``"book.making"``.
    name : str
        Of a function, class or constant at the top of that module.

    Returns
    -------
    str
        20 hexadecimal digits.

    Examples
    --------
    >>> digest("measures", "variance") == digest("measures", "Evaluation")
    False
    """
    return _digest({(module, name)})


def digest_of_source(source: str) -> str:
    """Digest what Python source, such as a notebook's, uses of kclib; not the source itself."""
    nodes = [*ast.walk(ast.parse(source))]
    return _digest(set(_named(nodes, _imports(nodes, None))))


def reached(start: set[Place]) -> dict[Place, str]:
    """Return the code of some definitions and of all that they use of kclib."""
    found, waiting = {}, set(start)
    while waiting:
        place = waiting.pop()
        if place not in found and place[0] not in _NEUTRAL:
            found[place], used = _read(place)
            waiting |= used
    return found


@cache  # for what one thing reaches, nearly all others reach too
def _read(place: Place) -> tuple[str, set[Place]]:
    """Return the code of a definition, and the definitions of kclib that it names."""
    module, name = place
    node = _definitions(module)[name]
    nodes = [*ast.walk(node)]
    return ast.unparse(node), set(_named(nodes, _known(module) | _imports(nodes, module)))


def _digest(start: set[Place]) -> str:
    text = "\n".join(f"{':'.join(place)}\n{code}" for place, code in sorted(reached(start).items()))
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def _named(nodes: list[ast.AST], known: dict[str, tuple[str, str | None]]) -> Iterator[Place]:
    """Yield the definitions of kclib that some code names, given what names mean in it."""
    attributes = {id(one.value): one for one in nodes if isinstance(one, ast.Attribute)}
    for one in nodes:
        if isinstance(one, ast.Name) and one.id in known:
            chain, inner = [], one  # of a.b.c, the names after a
            while (inner := attributes.get(id(inner))) is not None:
                chain.append(inner.attr)
            yield from _resolved(*known[one.id], chain)


def _names_in(node: ast.AST) -> Iterator[str]:
    return (one.id for one in ast.walk(node) if isinstance(one, ast.Name))


def _resolved(module: str, name: str | None, chain: list[str]) -> Iterator[Place]:
    """Yield what a name in a module stands for, or of the module itself what is taken from it."""
    if name is None:
        if not chain:  # it is handed on as a whole
            yield from ((module, one) for one in _definitions(module))
        elif _is_module(f"{module}.{chain[0]}".lstrip(".")):
            yield from _resolved(f"{module}.{chain[0]}".lstrip("."), None, chain[1:])
        else:
            yield from _resolved(module, chain[0], chain[1:])
    elif name in _definitions(module):
        yield module, name
    elif name in _known(module):
        yield from _resolved(*_known(module)[name], chain)


@cache
def _definitions(module: str) -> dict[str, ast.AST]:
    """Return what stands at the top of a module, by name."""
    found = {}
    for node in _tree(module).body:
        if hasattr(node, "name"):
            found[node.name] = node
        elif isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {name: node for target in targets for name in _names_in(target)}
    return found


@cache
def _known(module: str) -> dict[str, tuple[str, str | None]]:
    """Return what the names at the top of a module stand for, its own and imported ones."""
    imported = _imports([*ast.walk(_tree(module))], module)
    return {one: (module, one) for one in _definitions(module)} | imported


@cache
def _tree(module: str) -> ast.Module:
    """Return a module's code without docstrings."""
    tree = ast.parse(_file(module).read_text())
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            if isinstance(body[0].value, ast.Constant) and isinstance(body[0].value.value, str):
                body[0] = ast.Pass()
    return tree


def _file(module: str) -> Path:
    path = _PACKAGE.joinpath(*filter(None, module.split(".")))
    file = path.with_suffix(".py")
    return file if module and file.exists() else path / "__init__.py"


def _is_module(module: str) -> bool:
    return _file(module).exists()


def _imports(nodes: list[ast.AST], module: str | None) -> dict[str, tuple[str, str | None]]:
    """Return the modules of kclib, or names in them, that a module's imports bind, by name."""
    found = {}
    for one in nodes:
        if isinstance(one, ast.ImportFrom) and (origin := _origin(one, module)) is not None:
            for alias in one.names:
                inner = f"{origin}.{alias.name}".lstrip(".")
                place = (inner, None) if _is_module(inner) else (origin, alias.name)
                found[alias.asname or alias.name] = place
        elif isinstance(one, ast.Import):
            for alias in one.names:
                first, _, inner = alias.name.partition(".")
                if first == "kclib":
                    found[alias.asname or first] = (inner if alias.asname else "", None)
    return found


def _origin(node: ast.ImportFrom, module: str | None) -> str | None:
    """Return the module of kclib that names are imported from; None if it is not of kclib."""
    named = node.module.split(".") if node.module else []
    if node.level == 0:
        return ".".join(named[1:]) if named[:1] == ["kclib"] else None
    package = module.split(".") if module else []
    if _file(module or "").name != "__init__.py":
        package = package[:-1]
    return ".".join(package[: len(package) - node.level + 1] + named)
