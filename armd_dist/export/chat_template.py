"""Chat templates in Jinja, as Hugging Face folders have them: where one stands, and whether it is one."""

import json
from pathlib import Path
from typing import Any, NoReturn

from jinja2 import Template, TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from armd_dist.errors import ExportError

FILE = "chat_template.jinja"


def find_template(folder: Path) -> tuple[str, Path] | None:
    """A folder's template and the file that has it: chat_template.jinja, or tokenizer_config.json. Raises ExportError
    where they cannot be read."""
    file, settings = folder / FILE, folder / "tokenizer_config.json"
    try:
        if file.is_file():
            return file.read_text(encoding="utf-8"), file
        if not settings.is_file():
            return None
        found: Any = json.loads(settings.read_text(encoding="utf-8")).get("chat_template")
    except (OSError, ValueError, AttributeError) as error:
        raise ExportError(f"{folder}: its chat template cannot be read ({error})") from error
    if isinstance(found, list):  # several, by name
        found = next((one.get("template") for one in found if one.get("name") == "default"), None)
    return (found, settings) if isinstance(found, str) else None


def given_template(path: Path) -> tuple[str, Path]:
    """What --chat-template names, a Jinja file or a Hugging Face folder that has one. Raises ExportError."""
    if path.is_dir():
        found = find_template(path)
        if found is None:
            raise ExportError(f"--chat-template {path}: the folder has none; give a Jinja file")
    else:
        try:
            found = path.read_text(encoding="utf-8"), path
        except (OSError, ValueError) as error:
            raise ExportError(f"--chat-template {path}: cannot be read ({error}); give a Jinja file") from error
    compile_template(*found)
    return found


def compile_template(source: str, path: Path) -> Template:
    """Without access to anything but what it is given, and with what such templates count on. Raises ExportError, in
    which `path` stands, where it is no template."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = lambda value, **_: json.dumps(value, ensure_ascii=False)
    environment.globals["raise_exception"] = _refuse
    try:
        return environment.from_string(source)
    except TemplateError as error:
        raise ExportError(f"{path}: its chat template is none ({error}); mend it, or take it out") from error


def _refuse(message: str) -> NoReturn:
    raise TemplateError(message)
