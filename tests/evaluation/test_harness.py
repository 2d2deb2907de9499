"""lm-evaluation-harness, where it is installed: its requests get our model's numbers and texts, and a task runs."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from full_pass import window_nll
from typer.testing import CliRunner

from armd_dist.cli.harness import INSTALL
from armd_dist.cli.main import app
from armd_dist.errors import ArmdError, EvaluationError
from armd_dist.export.open import open_armd
from armd_dist.generation.generate import answer
from armd_dist.generation.requests import Ordering, Request, prepare
from armd_dist.generation.sampling import Sampling
from armd_dist.model.armd import ARMD
from data_pipeline.tokenizer import Tokenizer


def test_a_missing_harness_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "lm_eval", None)
    error = CliRunner().invoke(app, ["lm-eval", "--tasks", "x"]).exception
    assert isinstance(error, EvaluationError)
    assert str(error) == INSTALL


def test_it_works_in_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    error = CliRunner().invoke(app, ["lm-eval", "--tasks", "x"]).exception
    assert isinstance(error, EvaluationError)
    assert str(error).startswith("WORLD_SIZE=2: armd lm-eval works in one process")


class TestHarness:
    """What needs the package itself."""

    @pytest.fixture(scope="class")
    def harness(self) -> Any:
        pytest.importorskip("lm_eval")
        import armd_dist.evaluation.harness

        return armd_dist.evaluation.harness

    @pytest.fixture(scope="class")
    def lm(self, harness: Any, trained: Path) -> Any:
        return harness.ArmdLM(path=str(trained), batch_size=3, device="cpu")

    @pytest.fixture(scope="class")
    def ours(self, harness: Any, trained: Path) -> tuple[ARMD, Tokenizer]:
        return open_armd(trained)

    def test_loglikelihood_is_that_of_the_continuation(self, lm: Any, ours: tuple[ARMD, Tokenizer]) -> None:
        pairs = [("The value", " of"), ("", "Return"), ("The value ", "of"), ("a", " name")]
        found = lm.loglikelihood(asked(*pairs), disable_tqdm=True)
        for (context, text), (score, _) in zip(pairs, found, strict=True):
            whole = context.rstrip() + " " * (len(context) - len(context.rstrip())) + text
            wanted = nats(*ours, whole) - nats(*ours, context.rstrip())
            assert score == pytest.approx(-wanted, abs=1e-4)
        assert found[0] == pytest.approx(found[2]), "a blank at the context's end belongs to what follows"

    def test_what_the_model_would_write_is_greedy(self, harness: Any, trained: Path, lm: Any) -> None:
        contexts = ["The value", "Return the", "This", "a name", "If"]
        texts = lm.generate_until(asked(*[(one, {"max_gen_toks": 1}) for one in contexts]), disable_tqdm=True)
        encode = lm.ready.opened.tokenizer.encode
        # Those that are tokenized again as they were written.
        pairs = [(context, text) for context, text in zip(contexts, texts, strict=True) if len(encode(text)) == 1]
        assert pairs
        assert [greedy for _, greedy in lm.loglikelihood(asked(*pairs), disable_tqdm=True)] == [True] * len(pairs)
        others = [(context, "?!") for context, _ in pairs]
        assert [greedy for _, greedy in lm.loglikelihood(asked(*others), disable_tqdm=True)] == [False] * len(pairs)
        bound = harness.ArmdLM(path=str(trained), orders=2, device="cpu")
        assert [greedy for _, greedy in bound.loglikelihood(asked(*pairs), disable_tqdm=True)] == [False] * len(pairs)

    def test_rolling_reads_long_texts_in_windows(self, lm: Any, ours: tuple[ARMD, Tokenizer]) -> None:
        text = "The value of a list of names. " * 8
        tokens = ours[1].encode(text)
        assert len(tokens) > 2 * 32
        wanted = sum(nats_of(ours[0], tokens[start : start + 32], 2) for start in range(0, len(tokens), 32))
        assert lm.loglikelihood_rolling(asked((text,)), disable_tqdm=True) == [pytest.approx(-wanted, abs=1e-3)]

    def test_bounds_and_streams_score_under_their_orders(self, harness: Any, trained: Path, lm: Any) -> None:
        pairs = asked(("The value", " of a list of names"))
        streams, orders = (
            harness.ArmdLM(path=str(trained), device="cpu", **how) for how in ({"streams": 2}, {"orders": 3})
        )
        ((exact, _),), ((strided, _),), ((bound, greedy),) = (
            one.loglikelihood(pairs, disable_tqdm=True) for one in (lm, streams, orders)
        )
        assert len({exact, strided, bound}) == 3
        assert greedy is False
        assert (streams.scheme.name, orders.scheme.name, orders.scheme.draws) == ("strided_2", "any_order", 3)

    def test_texts_are_those_of_generate_up_to_their_stop(self, harness: Any, trained: Path, ours: Any) -> None:
        lm = harness.ArmdLM(path=str(trained), streams=2, batch_size=2, device="cpu", seed=7)
        drawn = {"max_gen_toks": 8, "do_sample": True, "temperature": 1.5, "top_k": 50}
        contexts = ["The value", "", "Return the"]
        found = lm.generate_until(asked(*[(context, drawn) for context in contexts]), disable_tqdm=True)
        for number, context in enumerate(contexts):
            request = prepare(Request((context, 8), 7 + number), ours[1], Ordering("strided", 2), 32)
            (wanted,) = answer(*ours, [request], Sampling(1.5, top_k=50))
            assert found[number] == wanted.text
        stop = found[0][2:4]
        cut = lm.generate_until(asked((contexts[0], {**drawn, "until": ["never", stop]})), disable_tqdm=True)
        assert cut == [found[0][: found[0].index(stop)]]

    def test_a_long_context_loses_its_beginning(self, lm: Any, ours: tuple[ARMD, Tokenizer]) -> None:
        context, how = "The value of a list of names. " * 8, {"max_gen_toks": 4}
        kept = ours[1].decode(ours[1].encode(context)[-28:])
        assert ours[1].encode(kept) == ours[1].encode(context)[-28:]
        long, short = (lm.generate_until(asked((text, how)), disable_tqdm=True) for text in (context, kept))
        assert long == short

    def test_wishes_of_tasks(self, harness: Any) -> None:
        wish = harness.read_wish({"until": "a", "temperature": 0.0}, 32)
        assert (wish.until, wish.max_new_tokens, wish.sampling.temperature) == (("a",), 16, 0)
        assert harness.read_wish({"temperature": 0.7}, 1024).sampling.temperature == 0.7
        assert harness.read_wish({"do_sample": False, "temperature": 0.7}, 32).sampling.temperature == 0
        assert harness.read_wish({"do_sample": True}, 1024).max_new_tokens == 256
        for settings, told in (
            ({"num_beams": 4}, "--gen_kwargs num_beams=4: is unknown"),
            ({"max_gen_toks": 32}, "--gen_kwargs max_gen_toks=32: leaves no room"),
            ({"do_sample": True, "top_p": 2.0}, "--gen_kwargs top_p=2.0"),
        ):
            with pytest.raises(EvaluationError, match=told):
                harness.read_wish(settings, 32)

    @pytest.mark.parametrize(
        ("arguments", "told"),
        [
            ({}, "--model_args path: is missing"),
            ({"pretrained": "x"}, "--model_args pretrained: is unknown"),
            ({"dtype": "int8"}, "--model_args dtype=int8: is unknown"),
            ({"streams": 2, "orders": 3}, "--model_args streams=2: orders=3 are random"),
            ({"batch_size": "auto"}, "--batch_size auto: is no number"),
            ({"device": "cuda:99"}, "--device=cuda:99: cannot be used here"),
            ({"max_length": 99}, "--sequence-length 99: is longer"),
            ({"streams": 0}, "--model_args streams=0: is no whole number"),
            ({"orders": "many"}, "--model_args orders=many: is no whole number"),
            ({"path": "nowhere"}, "nowhere"),
        ],
    )
    def test_bad_arguments_are_told(self, arguments: dict[str, Any], told: str, harness: Any, trained: Path) -> None:
        given = {"path": str(trained), "device": "cpu", **arguments} if arguments else {}
        with pytest.raises(ArmdError) as error:
            harness.ArmdLM(**given)
        assert str(error.value).startswith(told)

    def test_a_task_of_the_harness_runs(self, harness: Any, trained: Path, tmp_path: Path, monkeypatch: Any) -> None:
        import datasets
        from lm_eval import simple_evaluate
        from lm_eval.tasks import TaskManager

        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
        (tmp_path / "d.jsonl").write_text(json.dumps({"q": "The value", "a": "of", "b": "\u4e00\u4e8c\u4e09"}) + "\n")
        task = {
            "task": "armd_choice",
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(tmp_path / "d.jsonl")}},
            "test_split": "test",
            "output_type": "multiple_choice",
            "doc_to_text": "{{q}}",
            "doc_to_choice": "{{[a, b]}}",
            "doc_to_target": 0,
            "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        }
        (tmp_path / "task.yaml").write_text(yaml.safe_dump(task))
        found = simple_evaluate(
            model="armd",
            model_args=f"path={trained},streams=2",
            tasks=["armd_choice"],
            task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False),
            device="cpu",
            bootstrap_iters=0,
        )
        assert found is not None
        assert found["results"]["armd_choice"]["acc,none"] == 1


def asked(*arguments: tuple[Any, ...]) -> list[Any]:
    """As the harness' own requests: all that a model sees of them is `args`."""
    return [SimpleNamespace(args=one) for one in arguments]


def nats(model: ARMD, tokenizer: Tokenizer, text: str) -> float:
    """Of a text left to right behind BOS, in one pass over it alone."""
    return nats_of(model, tokenizer.encode(text), tokenizer.bos_id) if text else 0.0


def nats_of(model: ARMD, tokens: list[int], bos_id: int) -> float:
    places = torch.arange(1, len(tokens) + 1)
    return window_nll(model, torch.tensor([tokens]), places, places, bos_id).sum().item()
