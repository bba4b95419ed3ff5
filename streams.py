"""
streams.py: what is said while a script works, and where to
===========================================================
No generative model: stdout and stderr that may be a terminal, a log file, a full disk, or nothing.
"""
import contextlib
import os
import sys


class Patient:
    """A stream. If nothing more can be written to it (a full disk, a terminal that is gone), what
    is said from then on is lost, and the work is not."""

    def __init__(self, stream):
        self.stream = stream or open(os.devnull, "w", encoding="utf-8")  # None: it was closed

    def __getattr__(self, name):
        return getattr(self.stream, name)

    def write(self, text):
        self.attempt("write", text)
        self.attempt("flush")
        return len(text)

    def flush(self):
        self.attempt("flush")

    def attempt(self, name, *what):
        try:
            getattr(self.stream, name)(*what)
        except BrokenPipeError:  # `python vae.py | head`: the reader has left, and so do we
            raise
        except (OSError, ValueError):
            self.give_up()

    def give_up(self):
        """What its buffer still holds must go as well, or Python's own last flush fails."""
        nowhere = open(os.devnull, "w", encoding="utf-8")
        try:
            os.dup2(nowhere.fileno(), self.stream.fileno())
        except (OSError, ValueError):  # it has none, or is closed
            pass
        self.stream = nowhere


def seen_by_somebody():
    """Is there a terminal that a progress bar can move in? In a log file other lines would be glued
    to it: there those of evaluations have to do."""
    with contextlib.suppress(AttributeError, ValueError):  # it has no such method, or is closed
        return sys.stderr is not None and sys.stderr.isatty()
    return False
