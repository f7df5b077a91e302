"""The packages of the repository and the imports between them; `python -m tests.structure` prints this map."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests.helpers import REPOSITORY

# The layers, from the bottom up. A file may import from the layers below, and within its own layer from packages under
# the same top-level package.
LAYERS = [
    ["common", "common.ops"],  # one layer: config imports ops.precision, which imports errors
    ["common.distributed", "common.tracking"],
    ["common.data"],
    ["common.checkpoint"],
    ["common.training"],
    ["tacotron2.text"],
    ["tacotron2", "waveglow"],
    ["synthesis", "synthesis.onnx", "synthesis.engines", "synthesis.scheduler", "synthesis.server"],
    ["evaluation"],
    ["recordings"],
    ["train", "inference"],
    ["scripts", "scripts.benchmarks"],
    ["tests", "tests.helpers"],
]
PACKAGES = sorted({package.split(".")[0] for layer in LAYERS for package in layer})


class Module:
    """One source file: its dotted name, its `package` and its syntax tree."""

    def __init__(self, path: Path) -> None:
        self.path = path.relative_to(REPOSITORY)
        parts = list(self.path.with_suffix("").parts)
        self.is_package = parts[-1] == "__init__"
        self.name = ".".join(parts[:-1] if self.is_package else parts)
        self.source = path.read_text(encoding="utf-8")
        self.tree = ast.parse(self.source)

    @property
    def package(self) -> str:
        """The package, or a top-level module itself: "common.data" for common/data/mels.py, "train" for train.py."""
        return self.name if self.is_package else self.name.rpartition(".")[0] or self.name

    def imports(self) -> Iterator[str]:
        """Yield the names that this module imports, also inside functions, except those for type checking only."""
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
                assert node.level == 0, f"{self.path}: imports must be absolute"
                for alias in node.names:
                    yield f"{node.module}.{alias.name}"


def modules() -> list[Module]:
    tops = [path for name in PACKAGES if (path := REPOSITORY / f"{name}.py").exists()]
    inner = [path for name in PACKAGES for path in sorted((REPOSITORY / name).rglob("*.py"))]
    return [Module(path) for path in tops + inner]


def dependencies(found: list[Module]) -> dict[tuple[str, str], list[str]]:
    """Return the imports between packages: (importing, imported) -> the file of each import."""
    by_name = {module.name.removeprefix("scripts."): module for module in found}  # scripts/ itself is on sys.path
    result: dict[tuple[str, str], list[str]] = {}
    for module in found:
        for name in module.imports():
            target = by_name.get(name) or by_name.get(name.rpartition(".")[0])
            if target is not None and target.package != module.package:
                result.setdefault((module.package, target.package), []).append(str(module.path))
    return result


def layer(package: str) -> int:
    return next(index for index, packages in enumerate(LAYERS) if package in packages)


def goes_up(source: str, target: str) -> bool:
    """Return whether an import goes to a higher layer, or to another top-level package of the same layer."""
    same_package = source.split(".")[0] == target.split(".")[0]
    return layer(target) > layer(source) or (layer(target) == layer(source) and not same_package)


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
        lines[module.package] += module.source.count("\n")
    print("packages (lines)")
    for level in reversed(LAYERS):
        print("   ", ", ".join(f"{package} {lines[package]}" for package in level))
    print("dependencies (imports)")
    for (source, target), where in sorted(dependencies(found).items(), key=lambda item: (-layer(item[0][0]), item[0])):
        mark = "  <- not to a lower layer" if goes_up(source, target) else ""
        if not source.startswith("tests"):
            print(f"    {source} -> {target} ({len(where)}){mark}")
    code = [module for module in found if module.package != "tests"]
    print("longest")
    for size, name, path in sorted(((length(c), c.name, m.path) for m in code for c in classes(m)), reverse=True)[:3]:
        print(f"    class {name}, {size} lines, {path}")
    for size, name, path in sorted(((length(f), f.name, m.path) for m in code for f in functions(m)), reverse=True)[:3]:
        print(f"    function {name}, {size} lines, {path}")


if __name__ == "__main__":
    main()
