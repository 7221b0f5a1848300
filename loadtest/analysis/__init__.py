"""What records show: the result, the facts behind a verdict, the verdict. From values alone, whoever measured them."""

from __future__ import annotations
