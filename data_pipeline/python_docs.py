"""The prose inside the Python installation: a few megabytes of English that every machine already has."""

import ast
import os
import platform
import sysconfig
from collections.abc import Iterator
from pathlib import Path

PYTHON_DOCS = "python-docs"

# Tests hold little prose; site-packages differs between machines; encodings and pydoc_data are generated tables.
SKIPPED_FOLDERS = {
    "test", "tests", "idle_test", "site-packages", "dist-packages", "lib2to3", "encodings", "pydoc_data", "__pycache__",
}  # fmt: skip
MINIMUM_CHARACTERS = 200


def python_docs_version() -> str:
    """What the text depends on: the interpreter's implementation and version."""
    return f"{platform.python_implementation()} {platform.python_version()}"


def docstring_documents() -> Iterator[tuple[str, str]]:
    """Yield `(text, source)`: every topic of `pydoc_data.topics`, then one document a standard library module.

    A module's document joins the docstrings of the module, its classes and functions in the order of the source;
    modules with less than 200 characters of them are left out. The order is the same on every run.
    """
    from pydoc_data.topics import topics

    for topic in sorted(topics):
        yield topics[topic], f"{PYTHON_DOCS}:topics/{topic}"
    library = Path(sysconfig.get_path("stdlib"))
    for path in _modules(library):
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):  # templates and deliberately broken files
            continue
        text = "\n\n".join(_docstrings(tree))
        if len(text) >= MINIMUM_CHARACTERS:
            yield text + "\n", f"{PYTHON_DOCS}:{path.relative_to(library)}"


def _modules(library: Path) -> Iterator[Path]:
    for folder, subfolders, files in os.walk(library):
        subfolders[:] = sorted(name for name in subfolders if name not in SKIPPED_FOLDERS)
        for name in sorted(files):
            if name.endswith(".py"):
                yield Path(folder, name)


def _docstrings(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[str]:
    if text := ast.get_docstring(node):
        yield text
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _docstrings(child)
