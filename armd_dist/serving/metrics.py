"""What the server says of itself at /metrics, for Prometheus."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from armd_dist.serving.engine import Engine

PATHS = ("/", "/health", "/metrics", "/v1/models", "/v1/completions", "/v1/chat/completions")
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Metrics:
    """Counters of requests beside those of the engine."""

    def __init__(self, engine: Engine) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(EngineCollector(engine))
        self._requests = Counter("armd_requests", "HTTP requests answered.", ("path", "status"), registry=self.registry)
        self.first_text = Histogram(
            "armd_first_text_seconds", "To a text's first final token.", buckets=SECONDS, registry=self.registry
        )
        self.whole_text = Histogram(
            "armd_request_seconds", "To the end of a request's last text.", buckets=SECONDS, registry=self.registry
        )

    def note(self, path: str, status: int) -> None:
        """One more answer; paths that are none of ours count together."""
        known = path if path in PATHS else "/v1/models" if path.startswith("/v1/models/") else "other"
        self._requests.labels(known, str(status)).inc()

    def text(self) -> bytes:
        """In Prometheus' format."""
        return generate_latest(self.registry)


class EngineCollector(Collector):
    """Reads the engine's own counts when it is asked."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        engine, counts = self._engine, self._engine.counts
        yield GaugeMetricFamily("armd_slots", "Texts that can be decoded together.", engine.decoder.slots)
        yield GaugeMetricFamily("armd_texts_running", "Texts under way.", engine.running)
        yield GaugeMetricFamily("armd_texts_waiting", "Texts that wait for a slot.", engine.waiting)
        yield CounterMetricFamily("armd_passes", "Steps of the engine.", counts.passes)
        yield CounterMetricFamily("armd_tokens_generated", "Tokens placed.", counts.tokens)
        yield CounterMetricFamily("armd_texts_cancelled", "Texts given up by their clients.", counts.cancelled)
        yield CounterMetricFamily("armd_failed_passes", "Steps that raised an error.", counts.failures)
