"""gunicorn's settings for django_gunicorn.py: the site is loaded before the fork, clients are made after it."""

import os
from pathlib import Path
from typing import Any

wsgi_app = "django_gunicorn:application"
chdir = str(Path(__file__).parent)
bind = f"127.0.0.1:{os.environ.get('PORT', '8000')}"
preload_app = True
worker_class = "gthread"
workers = 2
threads = 4


def post_fork(server: Any, worker: Any) -> None:
    import django_gunicorn

    django_gunicorn.connect()


def worker_exit(server: Any, worker: Any) -> None:
    import django_gunicorn

    django_gunicorn.close()
