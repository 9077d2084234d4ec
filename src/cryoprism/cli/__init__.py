"""The command line. Importing it is light: every command imports what it needs when it runs."""

from ._main import app, main

__all__ = ["app", "main"]
