"""The command line: its flags, and one module for each thing it does."""

from __future__ import annotations
