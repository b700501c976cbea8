"""`clean_answer`: the caption in the answer of a chat model, without reasoning, markdown and phrases. Pure."""

from __future__ import annotations

import re

MAX_CHARACTERS = 300
"""Of one caption; a longer one is cut at the end of a sentence."""

_OPEN = r"<(?:think|thinking|thought|reasoning)>|◁think▷|<\|begin_of_thought\|>"
_CLOSE = r"</(?:think|thinking|thought|reasoning)>|◁/think▷|<\|end_of_thought\|>"
_REASONING = re.compile(rf"(?:{_OPEN}).*?(?:{_CLOSE}|\Z)", re.DOTALL | re.IGNORECASE)
# Some chat templates write the opening tag into the prompt, so that the answer has only the closing one.
_CLOSED = re.compile(rf"\A.*(?:{_CLOSE})", re.DOTALL | re.IGNORECASE)
_TAGS = ("<think>", "<thinking>", "<thought>", "<reasoning>", "◁think▷", "<|begin_of_thought|>")
_TOKENS = re.compile(r"<\|[^|<>]{1,40}\|>|</?s>|<(?:start|end)_of_turn>|<eos>|<pad>")
_MARKDOWN = (
    (re.compile(r"```[a-zA-Z]*\n?|```"), ""),
    (re.compile(r"!?\[([^\]\n]*)\]\([^)\s]*\)"), r"\1"),
    (re.compile(r"^\s{0,3}(?:#{1,6}\s+|>\s+|[-*+•]\s+|\d{1,2}[.)]\s+)", re.MULTILINE), ""),
    (re.compile(r"(\*\*\*|\*\*|__)(?=\S)(.+?)(?<=\S)\1"), r"\2"),
    (re.compile(r"(?<![\w*])([*_])(?=\S)([^*_\n]+?)(?<=\S)\1(?![\w*])"), r"\2"),
    (re.compile(r"`([^`\n]+)`"), r"\1"),
    (re.compile(r"\*{2,}|`"), ""),  # unpaired: the answer was cut, or has not ended
)
_THING = r"(?:image|picture|photo(?:graph)?|scene|video(?:\s+clip)?|clip|frame|snapshot|screenshot|footage)s?"
_OPENERS = re.compile(
    r"\A(?:"
    r"(?:sure|certainly|of course|okay|ok)\b[^.:\n]{0,60}[.!:,]\s*"
    r"|here(?:'s|’s| is)\b[^.:\n]{0,80}:\s*"
    r"|(?:caption|answer|description|response|final answer|output)\s*:\s*"
    rf"|(?:the|this|these|each|all)\s+(?:\d+\s+)?{_THING}\s+(?:here\s+)?(?:clearly\s+|simply\s+)?"
    r"(?:(?:shows?|depicts?|features?|displays?|captures?|presents?|portrays?|illustrates?)(?:\s+us)?(?:\s+that)?"
    r"|is\s+of)\s+"
    rf"|in\s+(?:the|this|these)\s+{_THING},?\s+(?:(?:we|you|one)\s+(?:can\s+)?sees?\s+|i\s+(?:can\s+)?see\s+)?"
    r"|(?:we|you|i)\s+can\s+see\s+"
    r")",
    re.IGNORECASE,
)
# An interim text that begins like this may become an opener: it is shown from the fifth, or the twelfth, word on.
_PHRASE_WORDS = {"the", "this", "these", "each", "all", "in", "we", "you", "i"}
_CHATTER_WORDS = {"here", "here's", "here’s", "sure", "certainly", "of", "okay", "ok", "caption", "answer", "final"}
_CHATTER_WORDS |= {"description", "response", "output"}
_FIRST_WORDS = dict.fromkeys(_PHRASE_WORDS, 5) | dict.fromkeys(_CHATTER_WORDS, 12)
_QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’", "«": "»", "„": "“", "`": "`"}
_SENTENCE_END = re.compile(r"[.!?…。！？][\"'”’)]*(?=\s|\Z)")


def clean_answer(text: str, max_characters: int = MAX_CHARACTERS) -> str:
    """One caption on one line of at most `max_characters`; empty if the answer says nothing. Idempotent."""
    text = " ".join(_without_markdown(_without_reasoning(text)).split())
    before = None
    while before != text:
        before = text
        # On one line, markdown may appear that was none before.
        text = " ".join(_without_markdown(_without_quotes(_without_opener(text))).split())
    return _cut(text, max_characters)


def clean_partial(text: str, max_characters: int = MAX_CHARACTERS) -> str:
    """The part of an unfinished answer to show: empty inside reasoning, and while it may be an opening phrase."""
    shown = _without_reasoning(text)
    for tag in _TAGS:  # an opening tag that has not arrived completely
        for length in range(len(tag) - 1, 0, -1):
            if shown.lower().endswith(tag[:length]):
                shown = shown[:-length]
                break
    shown = _without_markdown(shown).strip("\n\"'“‘«„”’»").lstrip()
    before = None
    while before != shown:
        before, shown = shown, _without_opener(shown)
    words = shown.split()
    first = words[0].lower().rstrip(",.!:") if words else ""
    if len(words) < _FIRST_WORDS.get(first, 0):
        return ""
    if len(words) == 1 and not shown[-1].isspace() and any(known.startswith(first) for known in _FIRST_WORDS):
        return ""
    return clean_answer(shown, max_characters)


def has_hidden_reasoning(text: str) -> bool:
    """Whether the answer begins inside reasoning: it has a closing tag without an opening one before it."""
    closed = re.search(_CLOSE, text, re.IGNORECASE)
    return closed is not None and re.search(_OPEN, text[: closed.start()], re.IGNORECASE) is None


def _without_reasoning(text: str) -> str:
    return _CLOSED.sub("", _REASONING.sub("", text))


def _without_markdown(text: str) -> str:
    text = _TOKENS.sub("", text)
    for pattern, replacement in _MARKDOWN:
        text = pattern.sub(replacement, text)
    return text


def _without_opener(text: str) -> str:
    match = _OPENERS.match(text)
    if match is None:
        return text
    rest = text[match.end() :].lstrip()
    return rest[:1].upper() + rest[1:] if text[:1].isupper() else rest


def _without_quotes(text: str) -> str:
    for opening, closing in _QUOTES.items():
        inner = text[len(opening) : -len(closing)]
        if len(text) > 1 and text.startswith(opening) and text.endswith(closing) and closing not in inner:
            return inner.strip()
    return text


def _cut(text: str, max_characters: int) -> str:
    """`text`, cut after the last sentence that fits, else between words."""
    if len(text) <= max_characters:
        return text
    ends = [match.end() for match in _SENTENCE_END.finditer(text) if match.end() <= max_characters]
    if ends and ends[-1] > max_characters // 4:
        return text[: ends[-1]]
    words = (
        text[: max_characters - 1].rsplit(None, 1)[0]
        if " " in text[: max_characters - 1]
        else text[: max_characters - 1]
    )
    return words.rstrip(" ,;:") + "…"
