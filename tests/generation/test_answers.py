"""A file of requests: batches, what a kill leaves, settings that differ, lines that cannot be read; and the verb."""

import io
import json
from pathlib import Path

import pytest
from ranks import armd
from rich.console import Console
from toys import tiny_model
from typer.testing import CliRunner

from armd_dist.cli.generate import watch
from armd_dist.cli.main import app
from armd_dist.errors import GenerationError
from armd_dist.generation.answers import Answers, answer_file, prepare_file, read_requests
from armd_dist.generation.generate import answer, begin, samples_of, text_so_far
from armd_dist.generation.requests import Ordering, Request, prepare
from armd_dist.generation.sampling import Sampling
from data_pipeline.tokenizer import Tokenizer

LINES = [
    {"prompt": "The value"},
    {"prompt": "", "max_new_tokens": 3},
    {"infill": "to <hole:4> that <hole:2>", "seed": 9},
    {"prompt": "of\u2028a", "permutation": [3, 1, 5, 0, 2, 4]},
    {"infill": ["as <hole:1>", 2]},
]
SAMPLING = Sampling(temperature=2.0, repetition_penalty=1.2)
ORDERING = Ordering("random")


@pytest.fixture(scope="module")
def tokenizer(dataset: Path) -> Tokenizer:
    return Tokenizer.load(dataset / "held_out" / "tokenizer.model")


def write(folder: Path, lines: list[dict] | None = None) -> Path:
    path = folder / "prompts.jsonl"
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n\n" for line in lines or LINES))
    return path


def run(folder: Path, tokenizer: Tokenizer, name: str, batch_size: int = 2, **settings: object) -> list[int]:
    model = tiny_model(vocab_size=tokenizer.vocab_size)
    prepared = prepare_file(write(folder), tokenizer, ORDERING, 24, max_new_tokens=6, seed=3)
    return list(answer_file(model, tokenizer, prepared, SAMPLING, Answers(folder / name, settings), batch_size))


def test_every_line_is_answered_as_if_it_were_alone(tokenizer: Tokenizer, tmp_path: Path) -> None:
    assert run(tmp_path, tokenizer, "out.jsonl") == [0, 2, 4, 5]
    answers = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [one["number"] for one in answers] == [0, 1, 2, 3, 4]
    requests = [request for _, request in read_requests(write(tmp_path), 6, 3)]
    assert [one.seed for one in requests] == [3, 4, 9, 6, 7]
    assert requests[1] == Request(("", 3), seed=4)
    model = tiny_model(vocab_size=tokenizer.vocab_size)
    for one, request in zip(answers, requests, strict=True):
        (alone,) = answer(model, tokenizer, [prepare(request, tokenizer, ORDERING, 24)], SAMPLING)
        assert (one["text"], one["tokens"], one["passes"]) == (alone.text, alone.tokens, alone.passes)
        assert one["logprobs"] == pytest.approx(alone.logprobs, abs=1e-10)
    assert answers[2]["text"].startswith("to ")
    assert " that" in answers[2]["text"]
    assert answers[4]["text"].startswith("as <hole:1>")
    assert run(tmp_path, tokenizer, "one.jsonl", batch_size=1)[-1] == 5
    ones = [json.loads(line)["tokens"] for line in (tmp_path / "one.jsonl").read_text().splitlines()]
    assert ones == [one["tokens"] for one in answers]


def test_a_kill_at_any_time_leaves_what_the_next_start_completes(tokenizer: Tokenizer, tmp_path: Path) -> None:
    run(tmp_path, tokenizer, "out.jsonl")
    out = tmp_path / "out.jsonl"
    whole = out.read_bytes()
    ends = [n for n, byte in enumerate(whole, start=1) if byte == ord("\n")]
    for cut in (0, 1, ends[0] - 1, ends[0], ends[0] + 7, ends[1], ends[2] + 1, ends[3], len(whole) - 1, len(whole)):
        out.write_bytes(whole[:cut])
        kept = whole[:cut].count(b"\n")
        assert run(tmp_path, tokenizer, "out.jsonl")[0] == kept
        assert out.read_bytes() == whole, cut


def test_other_settings_are_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    run(tmp_path, tokenizer, "out.jsonl", seed=3, top_k=None)
    before = (tmp_path / "out.jsonl").read_bytes()
    with pytest.raises(GenerationError, match=r"other settings \(seed=4, there seed=3; top_k=2, there top_k=None\)"):
        run(tmp_path, tokenizer, "out.jsonl", seed=4, top_k=2)
    (tmp_path / "mine.jsonl").write_text("precious\n")
    with pytest.raises(GenerationError, match=r"mine.jsonl: is there, and mine.jsonl.settings.json does not say"):
        run(tmp_path, tokenizer, "mine.jsonl")
    assert (tmp_path / "mine.jsonl").read_text() == "precious\n"
    assert (tmp_path / "out.jsonl").read_bytes() == before


def test_two_processes_do_not_write_one_file(tokenizer: Tokenizer, tmp_path: Path) -> None:
    model, out = tiny_model(vocab_size=tokenizer.vocab_size), Answers(tmp_path / "out.jsonl", {})
    prepared = prepare_file(write(tmp_path), tokenizer, ORDERING, 24, max_new_tokens=6, seed=3)
    one, other = (answer_file(model, tokenizer, prepared, SAMPLING, out, 2) for _ in range(2))
    assert [next(one), next(other), next(one)] == [0, 0, 2]
    with pytest.raises(GenerationError, match=r"out.jsonl: another process writes it too; stop one of the two"):
        next(other)
    assert list(one) == [4, 5]
    run(tmp_path, tokenizer, "alone.jsonl")
    assert out.path.read_bytes() == (tmp_path / "alone.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"prompts.jsonl:3: Expecting property name"),
        ("[]", 'needs "prompt" or "infill", one of the two'),
        ('{"prompt": "a", "infill": "<hole:1>"}', 'needs "prompt" or "infill", one of the two'),
        ('{"prompt": 3}', "prompt=3: use a text"),
        ('{"prompt": "a", "streams": 2}', "'streams' is unknown; use prompt, infill"),
        ('{"prompt": "a", "seed": -1}', "seed=-1: use a whole number from 0 up"),
        ('{"prompt": "a", "max_new_tokens": 0}', "max_new_tokens=0: use a whole number from 1 up"),
        ('{"prompt": "a", "max_new_tokens": 99}', "prompts.jsonl:3: .* 99 new ones exceed the model's length of 24"),
        ('{"prompt": "a", "permutation": [0.5]}', "use a list of whole numbers"),
        ('{"infill": "a"}', "has no hole"),
        ('{"infill": ["a", -1]}', "has a hole of -1 tokens"),
        ('{"infill": [true]}', "use a text with <hole:8>"),
        ('{"infill": "<hole:2>", "max_new_tokens": 3}', "is for a prompt"),
    ],
)
def test_lines_that_cannot_be_answered(line: str, message: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "fine"}\n\n' + line + "\n")
    with pytest.raises(GenerationError, match=message):
        prepare_file(path, tokenizer, ORDERING, 24, max_new_tokens=6, seed=0)


def test_text_is_seen_as_it_becomes_final(tokenizer: Tokenizer) -> None:
    """Streams fill in place, and what was seen of a token stays."""
    prepared = [prepare(Request(("to ", 6)), tokenizer, Ordering("strided", 2), 24)]
    model = tiny_model(vocab_size=tokenizer.vocab_size)
    decoding = begin(model, tokenizer, prepared, Sampling(0))
    dots = []
    while decoding.open:
        seen = text_so_far(decoding, tokenizer)
        assert seen.startswith("to ")
        dots.append(seen.count("·"))
        decoding.step()
    assert dots == [6, 5, 4, 2]
    (sample,) = samples_of(decoding, tokenizer, prepared)
    assert text_so_far(decoding, tokenizer) == "to " + sample.text
    assert answer(model, tokenizer, prepared, Sampling(0)) == [sample]


def test_terminal_shows_the_text_while_it_grows(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("armd_dist.cli.generate.LOOK_S", 0.0)
    prepared = [prepare(Request(("to ", 4)), tokenizer, Ordering(), 24)]
    decoding = begin(tiny_model(vocab_size=tokenizer.vocab_size), tokenizer, prepared, Sampling(0))
    screen = io.StringIO()
    watch(decoding, tokenizer, Console(file=screen, force_terminal=True, width=80))
    assert not decoding.open
    pictures = [picture.count("·") for picture in screen.getvalue().split("\r") if "to " in picture]
    assert pictures[:4] == [3, 2, 1, 0]


def verb(*words: object) -> str:
    done = CliRunner().invoke(app, ["generate", *map(str, words), "--device", "cpu"])
    if done.exception is not None:
        raise done.exception
    return done.stdout


def test_verb(trained: Path, tmp_path: Path) -> None:
    """A checkpoint answers a file, and the same from the command line; a killed file goes on."""
    out, prompts = tmp_path / "out.jsonl", write(tmp_path, LINES[:3])
    ask = (trained, "--order", "block", "--block-size", 3, "--min-p", 0.01, "--repetition-penalty", 1.1, "--seed", 5)
    ask = (*ask, "--max-new-tokens", 7)
    assert "3 answers" in verb(*ask, "--prompts", prompts, "--out", out, "--batch-size", 2)
    whole = out.read_bytes()
    out.write_bytes(whole[:-5])
    verb(*ask, "--prompts", prompts, "--out", out, "--batch-size", 2)
    assert out.read_bytes() == whole
    first = json.loads(whole.splitlines()[0])
    alone = json.loads(verb(*ask, "--prompt", "The value", "--json"))
    assert (alone["text"], alone["tokens"]) == (first["text"], first["tokens"])
    shown = verb(trained, "--infill", "to <hole:4> that", "--order", "random")
    assert shown.startswith("to ")
    assert shown.endswith(" that\n")
    with pytest.raises(GenerationError, match="seed=6, there seed=5"):
        verb(*ask[:-3], 6, "--max-new-tokens", 7, "--prompts", prompts, "--out", out)


def test_two_processes_answer_as_one(trained: Path, tmp_path: Path) -> None:
    """Tensor-parallel ones: the first alone writes and speaks, and a file that was cut short goes on."""
    out, prompts = tmp_path / "out.jsonl", write(tmp_path, LINES[:3])
    ask = (trained, "--streams", 2, "--prompts", prompts, "--out", out, "--batch-size", 2, "--max-new-tokens", 6)
    verb(*ask)
    whole = [json.loads(line) for line in out.read_text().splitlines()]
    out.write_text("".join(out.read_text().splitlines(keepends=True)[:1]))
    done = armd("generate", *ask, "--tensor-parallel", 2, processes=2)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{out}: 3 answers\n"
    again = [json.loads(line) for line in out.read_text().splitlines()]
    assert [one.pop("logprobs") for one in again] == [pytest.approx(one.pop("logprobs"), abs=1e-4) for one in whole]
    assert again == whole


def test_processes_take_devices_of_their_own(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": 0, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 1}.items():
        monkeypatch.setenv(name, str(value))
    with pytest.raises(GenerationError, match="--device cpu: with --tensor-parallel each process takes its own"):
        verb(trained, "--tensor-parallel", 2)
    with pytest.raises(GenerationError, match="1: this job has 2 processes; start it without torchrun"):
        verb(trained)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--tensor-parallel", 2], "--tensor-parallel 2: this job has 1 processes; start it with torchrun --nproc-per"),
        (["--prompts", "x.jsonl"], "--prompts x.jsonl: needs --out too"),
        (["--out", "x.jsonl"], "--out x.jsonl: needs --prompts too"),
        (["--prompts", "x.jsonl", "--out", "y", "--prompt", "a"], "leave out --prompt and --infill"),
        (["--prompts", "x.jsonl", "--out", "y"], "--prompts x.jsonl: cannot be read"),
        (["--order", "block"], "--block-size=None: --order block needs the number of tokens"),
        (["--order", "random", "--streams", 2], "--streams=2: is for --order strided"),
        (["--min-p", 2], "--min-p=2.0: use a number from 0 to 1"),
        (["--repetition-penalty", 0], "--repetition-penalty=0.0: use a number above 0"),
        (["--infill", "a ___ b"], "has no hole; write <hole:8> for 8 tokens"),
    ],
)
def test_bad_requests(words: list[object], message: str, trained: Path) -> None:
    with pytest.raises(GenerationError, match=message):
        verb(trained, *words)
