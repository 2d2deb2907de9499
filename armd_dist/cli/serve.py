"""`armd serve`: an OpenAI-compatible server for a checkpoint or an export."""

import ipaddress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from armd_dist.cli.arguments import DEVICE, EMA, MODEL

if TYPE_CHECKING:
    from armd_dist.serving.config import ServingConfig

NEEDED = ("fastapi", "uvicorn", "prometheus_client")
SLOTS_HELP = "Texts decoded together; each takes a KV cache of the model's whole length."
QUEUE_HELP = "Texts that may wait for a slot; more are answered with 429."
TIMEOUT_HELP = "Seconds for a request, waiting included."
SHUTDOWN_HELP = "Seconds that running requests have to finish after SIGTERM or Ctrl-C."
TEMPLATE_HELP = "Jinja file, or a Hugging Face folder that has a template: how chats become texts."
KEY_HELP = "What clients must send. Better in the environment, where no list of processes shows it."


def serve(
    model: Annotated[Path, MODEL],
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 is every one.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one, and prints it.")] = 8000,
    name: Annotated[str | None, typer.Option(help="The model's name in requests. Default: its folder's.")] = None,
    slots: Annotated[int, typer.Option(min=1, help=SLOTS_HELP)] = 16,
    max_queue: Annotated[int, typer.Option(min=0, help=QUEUE_HELP)] = 256,
    request_timeout: Annotated[float, typer.Option(min=0.001, help=TIMEOUT_HELP)] = 600.0,
    max_body_bytes: Annotated[int, typer.Option(min=1024, help="Longest body of a request.")] = 1 << 20,
    shutdown_seconds: Annotated[float, typer.Option(min=0, help=SHUTDOWN_HELP)] = 30.0,
    api_key: Annotated[str | None, typer.Option(envvar="ARMD_API_KEY", help=KEY_HELP)] = None,
    chat_template: Annotated[Path | None, typer.Option(help=TEMPLATE_HELP, show_default="the export's")] = None,
    ema: Annotated[bool, EMA] = False,
    device: Annotated[str | None, DEVICE] = None,
) -> None:
    """Serve completions and chats over HTTP, as OpenAI's API has them, in strided streams where asked; a page at /.

    Example: armd serve runs/mine/export --port 8000
    """
    _check(api_key)

    from armd_dist.export.open import device_of, open_armd, settle
    from armd_dist.serving.run import make_server
    from armd_dist.serving.template import read_template

    config = _settings(
        name=name or model.resolve().name,
        host=host,
        port=port,
        slots=slots,
        max_queue=max_queue,
        request_timeout=request_timeout,
        max_body_bytes=max_body_bytes,
        shutdown_seconds=shutdown_seconds,
        api_key=api_key,
    )
    template = read_template(model, chat_template)
    network, tokenizer = open_armd(model, ema)
    settle(network, device_of(device))
    server = make_server(network, tokenizer, template, config)
    open_to_all = api_key is None and not _is_local(host)

    def tell(address: str) -> None:
        typer.echo(f"{config.name} at {address}")
        if open_to_all:
            typer.echo(f"no API key: whoever reaches {host} may ask; set ARMD_API_KEY to change that", err=True)

    server.run(tell)


def _check(api_key: str | None) -> None:
    """Raises ExportError where the extra is not installed, ConfigError for a key that keeps nobody out."""
    from armd_dist.errors import ConfigError, ExportError, Problem

    missing = [module for module in NEEDED if find_spec(module) is None]
    if missing:
        raise ExportError(f"armd serve needs {', '.join(missing)}; pip install 'armd-dist[serve]'")
    if api_key is not None and not api_key.strip():
        remedy = "name one, or leave out --api-key and ARMD_API_KEY"
        raise ConfigError([Problem("--api-key", "", "is empty", remedy)])


def _settings(**given: object) -> "ServingConfig":
    """Raises ConfigError for what the options' own bounds let through, such as NaN."""
    from pydantic import ValidationError

    from armd_dist.errors import ConfigError, Problem
    from armd_dist.serving.config import ServingConfig

    try:
        return ServingConfig.model_validate(given)
    except ValidationError as error:
        problems = [(str(one["loc"][0]).replace("_", "-"), one["input"], one["msg"]) for one in error.errors()]
        remedy = "see armd serve --help"
        raise ConfigError([Problem(f"--{name}", value, rule, remedy) for name, value, rule in problems]) from error


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
