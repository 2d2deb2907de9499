"""Texts that users have: each format, what its corpus did to it undone, and everything wrong told at once."""

from pathlib import Path

import pytest
import yaml

from armd_dist.errors import EvaluationError
from armd_dist.evaluation.detokenizers import DETOKENIZERS, detokenize
from armd_dist.evaluation.text_formats import FORMATS
from armd_dist.evaluation.texts import Document, load_sets, load_texts
from data_pipeline.files import sha256_of

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "configs" / "evaluation" / "zero_shot.yaml"

# By rule, and what SEDD's and MDLM's own functions make of them.
HARD = [
    ("wikitext", " 7 @.@ 2 kg ( 1 @,@ 500 lb ) , and well @-@ known . ", " 7.2 kg (1,500 lb), and well-known."),
    (
        "wikitext",
        'It is " lobster red " on [ <unk> ] ; it \'s { odd } .',
        'It is "lobster red" on [<unk>]; it\'s {odd} .',
    ),
    ("wikitext", " = = = Head = = = ", " === Head ==="),
    ("wikitext", "the lobsters ' claws at 5 ° N of", "the lobsters' claws at 5°N of"),
    ("wikitext", ' ( ) " " ( open \' alone', ' () "" ( open \' alone'),
    ("wikitext", ' one " open . \n two " shut " here . \n', ' one " open.\ntwo "shut" here.\n'),
    ("ptb", "it did n't cost $ N N N in <unk> 's firms ' city", "it didn't cost $1 1 1 in ?'s firms' city"),
    ("ptb", "N N and N\\/N # N .", "N 1 and N/N #1 ."),
    ("lm1b", 'He said : " No , it \'s $ 5 ( five ) . " Why ?', 'He said: "No, it\'s $5 (five) ." Why?'),
    ("lm1b", "See http : / / a.b / c now .", "See http://a.b/c now."),
    ("lm1b", "Yes ! It is ' so ' [ here ] ; £ 7 !", "Yes! It is 'so' [here]; £7!"),
    ("lambada", " “I will,” said Tom. \n", '\n"I will," said Tom.'),
    ("scientific_papers", 'a well @-@ known $ x ( a ) , " b " .', 'a well-known $x (a), "b" .'),
    ("none", " “a” @-@ b . \n", " “a” @-@ b . \n"),
]


@pytest.mark.parametrize(("name", "text", "wanted"), HARD)
def test_detokenizers_undo_what_the_corpus_did(name: str, text: str, wanted: str) -> None:
    assert detokenize(name, text) == wanted


def test_every_detokenizer_is_tried() -> None:
    assert {name for name, *_ in HARD} == set(DETOKENIZERS)
    assert {kind.detokenizer for kind in FORMATS.values()} <= set(DETOKENIZERS)


ARTICLES = (
    " \n = Du Fu = \n \n He was a poet . \n \n = = Life = = \n \n Born in 712 . \n"
    " = not a title , as no blank line is before = \n \n = A = b = \n \n Text . \n"
)


FILES: dict[str, tuple[str, str, list[Document]]] = {
    "wikitext2": (
        "wiki.test.tokens",
        ARTICLES,
        [
            Document(
                "= Du Fu =\n\nHe was a poet.\n\n== Life ==\n\nBorn in 712.\n= not a title, as no blank line is before ="
            ),
            Document("= A = b =\n\nText."),
        ],
    ),
    "wikitext103": ("wiki.test.raw", " = A = \n \n b \n", [Document("= A =\n\nb")]),
    "ptb": ("ptb.test.txt", " no it was n't \n\n he has N \n", [Document("no it wasn't"), Document("he has N")]),
    "lm1b": ("held.jsonl", '{"text": "Why ? No ."}\n', [Document("Why? No.")]),
    "lambada": (
        "lambada.jsonl",
        '{"text": "Tom said “I am Tom"}\n\n{"context": "of\\nthe", "continuation": "signs"}\n',
        [Document(" Tom", '\nTom said "I am'), Document(" signs", "\nof\nthe")],
    ),
    "agnews": ("test.csv", '3,"A, b","C ""d"""\n4,E,F\n', [Document('A, b C "d"'), Document("E F")]),
    "pubmed": ("test.txt", '{"article_text": ["a , b", "c"], "id": 1}\n', [Document("a, b\nc")]),
    "arxiv": ("test.jsonl", '{"article": "x ; y"}\n', [Document("x; y")]),
    "jsonl": (
        "a.jsonl",
        '{"text": " as it is "}\n{"prompt": "2+2=", "completion": "4"}\n{"text": "b", "context": "a"}\n',
        [Document(" as it is "), Document("4", "2+2="), Document("b", "a")],
    ),
    "lines": ("a.txt", " a \n\nb\u2028c\n", [Document(" a "), Document("b\u2028c")]),
    "paragraphs": ("a.txt", "\n\n a\nb\n \n\nc\n", [Document(" a\nb"), Document("c")]),
    "plain": ("a.txt", " a\n\nb\n", [Document(" a\n\nb\n")]),
}


@pytest.mark.parametrize("name", FORMATS)
def test_formats(name: str, tmp_path: Path) -> None:
    file, content, wanted = FILES[name]
    (tmp_path / file).write_text(content, encoding="utf-8")
    assert load_texts(name, tmp_path / file) == wanted
    assert load_texts(name, tmp_path / file, limit=1) == wanted[:1]


def test_news_with_a_head_and_as_objects(tmp_path: Path) -> None:
    table, objects = tmp_path / "a.csv", tmp_path / "a.jsonl"
    table.write_text("Class Index,Title,Description\n1,A,b\n")
    objects.write_text('{"text": "A b", "label": 0}\n')
    assert load_texts("agnews", table) == load_texts("agnews", objects) == [Document("A b")]


def test_a_limit_reads_no_further(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\nbroken\n')
    assert load_texts("jsonl", tmp_path / "a.jsonl", limit=1) == [Document("a")]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("jsonl", '{"text": "a"}\n{"text": " "}\n', "line 2: is empty"),
        ("jsonl", '{"text": "a"}\n{"body": "b"}\n', "line 2: has no text 'text', but body"),
        ("jsonl", '{"prompt": "a"}\n', "line 1: has no text 'completion', but prompt"),
        ("jsonl", '{"text": 3}\n', "line 1: has no text 'text'"),
        ("jsonl", '\n["a"]\n', "line 2: is no object"),
        ("jsonl", "a\n", "line 1: is not JSON"),
        ("lambada", '{"text": "word"}\n', "line 1: has a single word"),
        ("agnews", "1,a,b\n2,c\n", "row 2: has 2 columns"),
        ("agnews", '1,"",""\n', "row 1: is empty"),
        ("pubmed", '{"article_text": []}\n', "line 1: is empty"),
        ("plain", " \n", "text 1: is empty"),
        ("wikitext2", " \n \n", "holds no text"),
        ("lines", b"\xff\xfe a\n", "is not UTF-8"),
    ],
)
def test_bad_files_are_named_with_the_place(name: str, content: str | bytes, told: str, tmp_path: Path) -> None:
    file = tmp_path / "texts"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(EvaluationError) as error:
        load_texts(name, file)
    assert str(error.value).startswith(f"{file}: {told}")


def test_missing_files_are_told(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(EvaluationError, match="cannot be read"):
            load_texts("plain", path)


def test_sets_of_a_yaml(tmp_path: Path) -> None:
    text, pairs = tmp_path / "a.txt", tmp_path / "b.jsonl"
    text.write_text(" a @-@ b \n c \n")
    pairs.write_text('{"prompt": "a", "completion": "b"}\n')
    entries = {
        "mine": {"path": str(text), "format": "lines", "detokenizer": "wikitext", "limit": 1},
        "pairs": {"path": str(pairs), "format": "jsonl"},
    }
    (tmp_path / "sets.yaml").write_text(yaml.safe_dump(entries))
    mine, other = load_sets(tmp_path / "sets.yaml")
    assert (mine.name, mine.documents, mine.detokenizer) == ("mine", [Document(" a-b")], "wikitext")
    assert (mine.path, mine.sha256) == (str(text), sha256_of(text))
    assert (other.name, other.documents, other.detokenizer) == ("pairs", [Document("b", "a")], "none")


def test_all_problems_of_all_sets_are_told_at_once(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.txt", tmp_path / "bad.jsonl"
    good.write_text("a\n")
    bad.write_text('{"text": ""}\n')
    file = tmp_path / "sets.yaml"
    good_one, pair = str(good), tmp_path / "pair.jsonl"
    pair.write_text('{"prompt": "a", "completion": "b"}\n')
    entries = {
        "one": {"path": str(tmp_path / "gone"), "format": "wikitext", "detokenizer": "moses", "limit": 0, "size": 3},
        "two": {"path": str(bad), "format": "jsonl"},
        "three": {"format": ["plain"]},
        "four": "plain",
        "five": {"path": good_one, "format": "plain"},
        "six": {"path": str(pair), "format": "jsonl", "detokenizer": "wikitext"},
    }
    file.write_text(yaml.safe_dump(entries, sort_keys=False))
    with pytest.raises(EvaluationError) as error:
        load_sets(file)
    told = str(error.value).splitlines()
    begins = ["one.size=3: is not a setting", "one.path=", "one.format=wikitext: is unknown; use one of wikitext2"]
    begins += ["one.detokenizer=moses: is unknown", "one.limit=0: is no number", f"two: {bad}: line 1: is empty"]
    begins += [
        "three.path=None: names no file",
        "three.format=['plain']: is unknown",
        "four=plain: is no mapping",
        f"six: {pair}: line 1: detokenizer=wiki",
    ]
    assert len(told) == len(begins)
    for line, begin in zip(told, begins, strict=True):
        assert line.startswith(f"{file}: {begin}")


@pytest.mark.parametrize("content", ["", "- a\n", "a: [\n"])
def test_a_yaml_without_sets_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "sets.yaml").write_text(content)
    with pytest.raises(EvaluationError, match=r"sets\.yaml: "):
        load_sets(tmp_path / "sets.yaml")


def test_the_shipped_sets_lack_their_files_alone() -> None:
    with pytest.raises(EvaluationError) as error:
        load_sets(SHIPPED)
    entries = yaml.safe_load(SHIPPED.read_text())
    assert [line.split(": ")[1].split("=")[0] for line in str(error.value).splitlines()] == [
        f"{name}.path" for name in entries
    ]
    for name, entry in entries.items():
        if entry["format"] != "jsonl":
            assert entry["detokenizer"] == FORMATS[entry["format"]].detokenizer, name
