"""What this machine can bear, what it is, and what a run uses of it."""

from __future__ import annotations
