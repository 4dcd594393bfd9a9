"""Which benchmarks there are, told from the source alone: nothing is imported, so no benchmark can disturb another."""

import ast
from pathlib import Path


def benchmarks() -> dict[str, str]:
    """Return name -> first line of the docstring of every module here that defines `main`, by name."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("*.py")):
        tree = ast.parse(path.read_text())
        functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        if "main" in functions and not path.stem.startswith("_"):
            found[path.stem] = (ast.get_docstring(tree) or "").partition("\n")[0]
    return found
