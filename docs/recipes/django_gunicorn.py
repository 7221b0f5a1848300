"""Django under gunicorn that loads it once and forks: each worker has a client of its own.

    gunicorn -c docs/recipes/django_gunicorn_conf.py       (or: python docs/recipes/django_gunicorn.py)
    curl -d '{"item": "tea"}' localhost:8000/orders

A connection does not survive a fork: two processes would write into one socket. So nothing connects while the site is
loaded, and gunicorn's hooks, in django_gunicorn_conf.py, give each worker its client and close it.

Guaranteed: 202 means that RabbitMQ has confirmed the order and a queue has it, else 503 within five seconds. All of a
worker's threads share its client, which reconnects by itself, keeps heartbeats going between requests, and raises
rather than misbehaves if it is used by a fork.

Not guaranteed: that what the view wrote to the database and the message go together: publish in
`django.db.transaction.on_commit`, or, where none may be lost, by outbox.py.
"""

import functools
import os
import sys
from pathlib import Path

import django
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, JsonResponse
from django.urls import path

import rabbitry
from rabbitry import blocking

ORDERS = rabbitry.Queue("recipes.django.orders", type="quorum")
client: blocking.Client | None = None


def connect() -> None:
    """In each worker, once: the client connects when it is needed first."""
    global client
    client = blocking.start_client(os.environ.get("RABBITMQ_URL", "amqp://guest:guest@localhost"), name="django")


def close() -> None:
    if client is not None:
        client.close()


@functools.cache  # of what returned: a worker declares it once, as soon as there is a broker
def prepared() -> blocking.Client:
    assert client is not None, "gunicorn's post_fork connects"
    client.declare(ORDERS, timeout=5)
    return client


def order(request: HttpRequest) -> JsonResponse:
    try:
        prepared().publish(request.body, routing_key=ORDERS.name, mandatory=True, timeout=5)
    except (TimeoutError, rabbitry.RabbitryError) as error:
        return JsonResponse({"error": type(error).__name__}, status=503)
    return JsonResponse({"worker": os.getpid()}, status=202)


urlpatterns = [path("orders", order)]
settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY=os.environ.get("SECRET_KEY", "for tests"))
django.setup()
application = get_wsgi_application()

if __name__ == "__main__":
    conf = Path(__file__).with_name("django_gunicorn_conf.py")
    os.execv(sys.executable, [sys.executable, "-m", "gunicorn", "-c", str(conf)])
