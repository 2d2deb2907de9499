"""Undoes what corpora did to their texts: " @-@ ", blanks before punctuation, quotes apart from their words.

The rules are those by which SEDD and MDLM (and before them Megatron-LM's evaluation of GPT-2) score these corpora, kept
also where they are rough (a lone "N" becomes "1"), since perplexities compare only on the same text. Our choice: a rule
stays within a line, so that one quote that is never closed cannot move the blanks of a whole article.
"""

import re

Rules = list[tuple[re.Pattern[str], str]]


def _plain(*pairs: tuple[str, str]) -> Rules:
    return [(re.compile(re.escape(old)), new) for old, new in pairs]


def _patterns(*pairs: tuple[str, str]) -> Rules:
    return [(re.compile(old), new) for old, new in pairs]


# Blanks inside a pair of signs; what is between them has neither sign.
PAIRS = ((r"\(", ")"), (r"\[", "]"), (r"\{", "}"), ('"', '"'), ("'", "'"))

WIKITEXT = [
    *_plain(("s '", "s'"), (" @-@ ", "-"), (" @,@ ", ","), (" @.@ ", ".")),
    *[(re.compile(re.escape(f" {sign} ")), f"{sign} ") for sign in ":;.!?,"],
    *[
        (re.compile(rf"{opening}\s*([^{re.escape(closing)}]*?)\s*{re.escape(closing)}"), rf"{opening[-1]}\1{closing}")
        for opening, closing in PAIRS
    ],
    *_plain(("= = = =", "===="), ("= = =", "==="), ("= =", "=="), (" ° ", "°")),
    *_patterns((r" $", "")),
    *_plain((" N ", " 1 "), (" 's", "'s")),
]

PTB = [
    *_plain((" 's", "'s"), ("s ' ", "s' "), (" n't", "n't"), (r"\/", "/")),
    *_patterns((r" N(?= )", " 1")),
    *_plain(("$ 1", "$1"), ("# 1", "#1"), ("<unk>", "?")),
]

LM1B = [
    *_plain(("http : / / ", "http://"), ("https : / / ", "https://")),
    *_patterns((r" '(\w+)", r"'\1"), (r" (\w+) \. ", r" \1. "), (r" (\w+) \.$", r" \1.")),
    *_patterns((r" \? ", "? "), (r" \?$", "?"), (r" ! ", "! "), (r" !$", "!")),
    *_plain((" , ", ", "), (" : ", ": "), (" ; ", "; "), (" / ", "/")),
    *_patterns((r'" ([^"]+) "', r'"\1"'), (r"' ([^']+) '", r"'\1'")),
    *_patterns((r"\( ([^()]+) \)", r"(\1)"), (r"\[ ([^\[\]]+) \]", r"[\1]")),
    *_plain(("$ ", "$"), ("£ ", "£")),
]

BY_LINES: dict[str, Rules] = {"wikitext": WIKITEXT, "ptb": PTB, "lm1b": LM1B, "scientific_papers": WIKITEXT + LM1B}
DETOKENIZERS = (*BY_LINES, "lambada", "none")


def detokenize(name: str, text: str) -> str:
    """The text as it was before its corpus cut it up. name: one of `DETOKENIZERS`."""
    if name == "none":
        return text
    if name == "lambada":
        return "\n" + text.replace("“", '"').replace("”", '"').strip()
    lines = [_apply(BY_LINES[name], line) for line in text.split("\n")]
    # The first line keeps its blank, as in SEDD's and MDLM's, which take a line at a time.
    return "\n".join([lines[0], *(line.removeprefix(" ") for line in lines[1:])])


def _apply(rules: Rules, line: str) -> str:
    for pattern, new in rules:
        line = pattern.sub(new, line)
    return line
