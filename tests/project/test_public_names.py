"""The package imports its public names when the first is asked for, and nobody can tell but by the time it takes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import get_type_hints

import pytest

import rabbitry
from rabbitry import _public

ROOT = Path(__file__).parents[2]


def run(script: str) -> None:
    """The script in a process of its own, as what is imported stays so."""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_package_alone_imports_nothing() -> None:
    run(
        "import sys, rabbitry\n"
        "assert not {'anyio', 'asyncio', 'rabbitry._public'} & set(sys.modules)\n"
        "assert not hasattr(rabbitry, '_no_such_name') and 'rabbitry._public' not in sys.modules\n"
        "assert set(dir(rabbitry)) >= {'Client', 'connect', '__all__', '__path__'}\n"
        "from rabbitry import *\n"
        "assert Client is rabbitry.Client and open_client is rabbitry.open_client\n"
    )


def test_what_is_for_tests_imports_nothing_until_it_is_asked_for() -> None:
    run(
        "import sys, rabbitry.testing\n"
        "assert not {'anyio', 'asyncio', 'rabbitry.testing.names', 'rabbitry.broker'} & set(sys.modules)\n"
        "assert not hasattr(rabbitry.testing, 'PrivateNoode')\n"
        "assert set(dir(rabbitry.testing)) >= {'PrivateNode', 'VirtualTimeLoop', '__all__', '__path__'}\n"
        "from rabbitry.testing import *\n"
        "assert PrivateNode is rabbitry.testing.PrivateNode\n"
    )


def test_every_part_can_be_imported_first() -> None:
    """None of them relies on another order of imports."""
    run(
        "import importlib, os, anyio, msgpack, trio\n"
        "parts = 'blocking opentelemetry prometheus protocol taskiq testing testing.hosting'.split()\n"
        "parts += 'testing.pytest_plugin _transport tutorials.rpc _cli.commands.rpc'.split()\n"
        "for part in parts:\n"
        "    if not (child := os.fork()):\n"
        "        importlib.import_module(f'rabbitry.{part}')\n"
        "        os._exit(0)\n"
        "    assert os.waitpid(child, 0)[1] == 0, part\n"
    )


def test_the_names_are_those_of_one_place() -> None:
    assert rabbitry.__all__ is _public.__all__
    assert [name for name in rabbitry.__all__ if getattr(rabbitry, name) is not getattr(_public, name)] == []
    assert set(dir(rabbitry)) >= {*rabbitry.__all__, "__all__", "__path__"}


def test_a_name_that_is_none() -> None:
    with pytest.raises(AttributeError, match=r"^module 'rabbitry' has no attribute 'Mesage'$") as caught:
        rabbitry.Mesage  # type: ignore[attr-defined]
    assert (caught.value.name, caught.value.obj) == ("Mesage", rabbitry)  # by which Python tells what may be meant
    with pytest.raises(ImportError, match="cannot import name 'Mesage' from 'rabbitry'"):
        from rabbitry import Mesage  # type: ignore[attr-defined]  # noqa: F401


def test_annotations_of_public_classes_can_be_evaluated() -> None:
    """Where their `__module__` has none of the names they are written with: as msgspec and cattrs evaluate them."""
    hints = {}
    for name in rabbitry.__all__:
        value = getattr(rabbitry, name)
        if isinstance(value, type):
            hints[name] = get_type_hints(value)
    assert hints["Queue"]["name"] is str and len(hints) > 50


def test_what_was_put_in_place_of_a_name_before_the_first_was_asked_for_stays() -> None:
    run("import rabbitry\nrabbitry.connect = 'fake'\nassert rabbitry.Client and rabbitry.connect == 'fake'\n")


WAITS = """
    asyncio ssl trio concurrent.futures subprocess importlib.metadata email zipfile secrets ipaddress urllib.parse
    anyio.streams.tls anyio._backends rabbitry.protocol.server rabbitry.testing rabbitry.broker rabbitry.blocking
    rabbitry._cli rabbitry._concurrency.virtual_asyncio
"""
"""What takes long to import, and what most programs need later, or never, or have imported themselves."""


def test_the_first_name_imports_nothing_that_can_wait() -> None:
    """Whatever AnyIO itself imports, which differs between its versions."""
    run(
        "import sys, anyio\n"
        "anyio.Event, anyio.create_task_group\n"
        "before = set(sys.modules)\n"
        "import rabbitry\n"
        "rabbitry.open_client\n"
        f"assert not (found := set({WAITS.split()}) & (set(sys.modules) - before)), found\n"
        "from rabbitry.protocol.wire.methods import METHODS\n"
        "compiled = {row.name for row in METHODS.values() if '__init__' in vars(row)}\n"
        "assert len(compiled) < 5, f'these methods are compiled as they are imported: {compiled}'\n"
    )


def test_annotations_of_public_functions_can_be_evaluated() -> None:
    """Those that name a module which is imported later, too."""
    run(
        "import sys, typing, rabbitry\n"
        "hints = typing.get_type_hints(rabbitry.open_client)\n"
        "import ssl\n"
        "assert hints['ssl_context'] == ssl.SSLContext | None\n"
    )


def test_what_is_imported_later_is_the_module_itself() -> None:
    from rabbitry._later import Later

    later = Later("colorsys")
    assert repr(later) == "<module 'colorsys', to be imported when used>"
    sys.modules.pop("colorsys", None)
    with pytest.raises(AttributeError, match="colorsys"):
        later.no_such_name
    import colorsys

    assert later.rgb_to_hsv is colorsys.rgb_to_hsv and "rgb_to_hsv" in vars(later)
    with pytest.raises(ModuleNotFoundError):
        Later("no_such_module_of_anybody").name
