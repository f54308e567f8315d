"""The door to `rpiae` and, behind it, torch and diffusers.

They take seconds to import, and the page must not wait for them: so the app imports `rpiae` inside functions, and
each function that the page may call while the worker is still importing goes through `import_library` first.
Two threads at once in diffusers' lazy imports end in "cannot import name ...".
"""

from __future__ import annotations

import threading

_one_at_a_time = threading.Lock()


def import_library() -> None:
    """Returns when all of `rpiae` that the app uses is imported; at once when it is."""
    with _one_at_a_time:
        import rpiae.metrics
        import rpiae.pipeline
        import rpiae.recipe
        import rpiae.tokenizers
        import rpiae.tokenizers.comparison  # noqa: F401

        rpiae.tokenizers.available()  # imports each tokenizer's module
