"""Every sentence that people read, in the language of whoever asks: `say(key)`. The words lie in `app.words`.

Who asks is set by `speaking` for the time that a request is answered, or somebody's job is at work; see `app.page`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any

from app.words import en_page, en_work, zh_library, zh_page, zh_work

WORDS = {"en": en_page.PAGE | en_work.WORK, "zh": zh_page.PAGE | zh_work.WORK}
LIBRARY = {"zh": zh_library.SENTENCES}  # of `rpiae`, which speaks English
PROMPTS = en_work.PROMPTS
LANGUAGES = tuple(WORDS)
_language: ContextVar[str] = ContextVar("language", default=LANGUAGES[0])


def language() -> str:
    """The language that is spoken here and now: one of LANGUAGES."""
    return _language.get()


@contextmanager
def speaking(wanted: str) -> Iterator[None]:
    """Says everything in a language until the end of the block."""
    token = _language.set(wanted if wanted in WORDS else LANGUAGES[0])
    try:
        yield
    finally:
        _language.reset(token)


def as_spoken_here(work: Callable[..., Any]) -> Callable[..., Any]:
    """`work`, for another thread, in the language that is spoken now."""
    wanted = language()

    @wraps(work)
    def speak(*values: Any, **named: Any) -> Any:
        with speaking(wanted):
            return work(*values, **named)

    return speak


def say(key: str, **values: object) -> str:
    """The sentence `key`, filled in. An unknown key is our own mistake and raises KeyError."""
    return WORDS[language()][key].format(**values)


class Mistake(ValueError):
    """A fault whose sentence, `say(key, **values)`, is said when it is read: in the language of whoever reads it, who
    may be another person, later, or beyond a process."""

    def __init__(self, key: str, **values: object) -> None:
        super().__init__(key, values)
        self.key, self.values = key, values

    def __str__(self) -> str:
        return say(self.key, **self.values)


def word_for(key: str) -> str:
    """The word `key`, "" when there is none."""
    return WORDS[language()].get(key, "")


def translated(sentence: str) -> str:
    """A sentence of `rpiae` in the language of whoever reads it; as it is where there is no other one for it."""
    for pattern, form in LIBRARY.get(language(), ()):
        if found := pattern.fullmatch(sentence):
            return form.format(**found.groupdict()).replace("The picture", say("picture"))
    return sentence


def tokenizer_label(name: str) -> str:
    """What people call a tokenizer; its own name where there is no better one. "name=random": with random weights."""
    name, _, weights = name.partition("=")
    label = word_for(f"tokenizer.{name}") or name
    return say("tokenizer.random", label=label) if weights == "random" else label
