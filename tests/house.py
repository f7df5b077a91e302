"""The rooms of the repository and the imports between them; `python -m tests.house` prints the map."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests.helpers import REPOSITORY

# From the bottom up. A file imports from its own room and from the floors below.
FLOORS = [
    ["common", "common.ops"],  # one room: precision is an option and an operation
    ["common.distributed", "common.tracking"],
    ["common.data"],
    ["common.checkpoint"],
    ["common.training"],
    ["tacotron2.text"],
    ["tacotron2", "waveglow"],
    ["synthesis", "synthesis.onnx"],
    ["evaluation"],
    ["train", "inference"],
    ["scripts", "scripts.benchmarks"],
    ["tests", "tests.helpers"],
]
PACKAGES = sorted({room.split(".")[0] for floor in FLOORS for room in floor})


class Module:
    """One source file: its dotted name, its room, its syntax tree."""

    def __init__(self, path: Path) -> None:
        self.path = path.relative_to(REPOSITORY)
        parts = list(self.path.with_suffix("").parts)
        self.is_package = parts[-1] == "__init__"
        self.name = ".".join(parts[:-1] if self.is_package else parts)
        self.source = path.read_text(encoding="utf-8")
        self.tree = ast.parse(self.source)

    @property
    def room(self) -> str:
        """Its folder, or its name at the top: "common.data" for common/data/mels.py, "train" for train.py."""
        return self.name if self.is_package else self.name.rpartition(".")[0] or self.name

    def imports(self) -> Iterator[str]:
        """Names that this module imports, in functions too, but not for type checking alone."""
        annotations = {
            inner
            for node in ast.walk(self.tree)
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
            for inner in ast.walk(node)
        }
        for node in ast.walk(self.tree):
            if node in annotations:
                continue
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{self.path}: imports are absolute here"
                for alias in node.names:
                    yield f"{node.module}.{alias.name}"


def modules() -> list[Module]:
    tops = [path for name in PACKAGES if (path := REPOSITORY / f"{name}.py").exists()]
    inner = [path for name in PACKAGES for path in sorted((REPOSITORY / name).rglob("*.py"))]
    return [Module(path) for path in tops + inner]


def arrows(found: list[Module]) -> dict[tuple[str, str], list[str]]:
    """The imports between rooms: (from, to) -> the files that hold them."""
    by_name = {module.name.removeprefix("scripts."): module for module in found}  # scripts/ is on sys.path itself
    result: dict[tuple[str, str], list[str]] = {}
    for module in found:
        for name in module.imports():
            target = by_name.get(name) or by_name.get(name.rpartition(".")[0])
            if target is not None and target.room != module.room:
                result.setdefault((module.room, target.room), []).append(str(module.path))
    return result


def floor(room: str) -> int:
    return next(index for index, rooms in enumerate(FLOORS) if room in rooms)


def runs_back(source: str, target: str) -> bool:
    """Whether an import goes up the house, or sideways to a room of another name."""
    same_package = source.split(".")[0] == target.split(".")[0]
    return floor(target) > floor(source) or (floor(target) == floor(source) and not same_package)


def functions(module: Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def classes(module: Module) -> Iterator[ast.ClassDef]:
    yield from (node for node in ast.walk(module.tree) if isinstance(node, ast.ClassDef))


def length(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    assert node.end_lineno is not None
    return node.end_lineno - node.lineno + 1


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    given = function.args
    return sum(map(len, (given.posonlyargs, given.args, given.kwonlyargs))) + bool(given.vararg) + bool(given.kwarg)


def main() -> None:
    found = modules()
    lines: Counter[str] = Counter()
    for module in found:
        lines[module.room] += module.source.count("\n")
    print("rooms (lines)")
    for level in reversed(FLOORS):
        print("   ", ", ".join(f"{room} {lines[room]}" for room in level))
    print("arrows (imports)")
    for (source, target), where in sorted(arrows(found).items(), key=lambda arrow: (-floor(arrow[0][0]), arrow[0])):
        mark = "  <- runs back" if runs_back(source, target) else ""
        if not source.startswith("tests"):
            print(f"    {source} -> {target} ({len(where)}){mark}")
    code = [module for module in found if module.room != "tests"]
    print("longest")
    for size, name, path in sorted(((length(c), c.name, m.path) for m in code for c in classes(m)), reverse=True)[:3]:
        print(f"    class {name}, {size} lines, {path}")
    for size, name, path in sorted(((length(f), f.name, m.path) for m in code for f in functions(m)), reverse=True)[:3]:
        print(f"    function {name}, {size} lines, {path}")


if __name__ == "__main__":
    main()
