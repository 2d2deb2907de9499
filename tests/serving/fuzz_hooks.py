"""For schemathesis: the model that is there, and texts short enough to be made by the hundred."""

from typing import Any

import schemathesis


@schemathesis.hook
def map_body(context: Any, body: Any) -> Any:
    if isinstance(body, dict) and isinstance(body.get("model"), str):
        body["model"] = "tiny"
        for name in ("max_tokens", "max_completion_tokens", "streams", "n"):
            if type(body.get(name)) is int and body[name] > 8:
                body[name] = 1 + body[name] % 8
    return body
