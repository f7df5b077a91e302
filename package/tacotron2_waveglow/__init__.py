"""All packages of the project under one name, for other programs: `tacotron2_waveglow.common` and so on.

In the repository they are called `common`, `synthesis` and so on, names that another program may use itself. An
installation therefore has them only under this package, and their imports of each other are rewritten to match.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType

OURS = ("common", "tacotron2", "waveglow", "synthesis", "evaluation", "recordings")
_HERE = Path(__file__).resolve().parent
_CHECKOUT = _HERE.parent.parent
if not (_HERE / "common").is_dir():  # an editable installation
    __path__ = [str(_CHECKOUT)]


class _Loader(SourceFileLoader):
    """Compiles `from common.x import y` as `from tacotron2_waveglow.common.x import y`."""

    def get_code(self, fullname: str) -> CodeType:
        """Compile without a .pyc file: the module under its short name would use the same one."""
        path = self.get_filename(fullname)
        tree = ast.parse(self.get_data(path), path)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in OURS:
                node.module = f"{__name__}.{node.module}"
        code: CodeType = compile(tree, path, "exec", dont_inherit=True)
        return code


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        parts = fullname.split(".")
        if parts[0] != __name__ or len(parts) < 2 or parts[1] not in OURS:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(fullname, spec.loader.path)
        return spec


sys.meta_path.insert(0, _Finder())
