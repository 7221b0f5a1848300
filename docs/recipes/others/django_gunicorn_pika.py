"""django_gunicorn.py with pika: a connection for each thread, as pika's may not be shared."""

import os
import sys
import threading

import django
import pika
import pika.exceptions
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, JsonResponse
from django.urls import path

ORDERS = "recipes.django.orders"
PARAMETERS = pika.URLParameters(os.environ.get("RABBITMQ_URL", "amqp://guest:guest@localhost"))
PARAMETERS.socket_timeout = PARAMETERS.stack_timeout = PARAMETERS.blocked_connection_timeout = 5
local = threading.local()


def channel() -> pika.adapters.blocking_connection.BlockingChannel:
    """This thread's, made where it has none, or the last one was closed."""
    if not hasattr(local, "channel") or local.channel.is_closed:
        local.connection = pika.BlockingConnection(PARAMETERS)
        local.channel = local.connection.channel()
        local.channel.queue_declare(ORDERS, durable=True, arguments={"x-queue-type": "quorum"})
        local.channel.confirm_delivery()
    return local.channel


def forget() -> None:
    connection = local.__dict__.pop("connection", None)
    local.__dict__.pop("channel", None)
    if connection is not None and connection.is_open:
        connection.close()


def publish(body: bytes) -> None:
    """Twice if need be: no heartbeat is sent between requests, so the broker may have closed the connection."""
    for is_last in (False, True):
        try:
            channel().basic_publish("", ORDERS, body, pika.BasicProperties(delivery_mode=2), mandatory=True)
            return
        except (pika.exceptions.UnroutableError, pika.exceptions.NackError):
            raise
        except pika.exceptions.AMQPError:
            forget()
            if is_last:
                raise


def order(request: HttpRequest) -> JsonResponse:
    try:
        publish(request.body)
    except pika.exceptions.AMQPError as error:
        return JsonResponse({"error": type(error).__name__}, status=503)
    return JsonResponse({"worker": os.getpid()}, status=202)


urlpatterns = [path("orders", order)]
settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY=os.environ.get("SECRET_KEY", "for tests"))
django.setup()
application = get_wsgi_application()

if __name__ == "__main__":
    address = f"127.0.0.1:{os.environ.get('PORT', '8000')}"
    flags = ["--preload", "-k", "gthread", "-w", "2", "--threads", "4", "-b", address]
    os.chdir(os.path.dirname(os.path.abspath(__file__)))
    os.execv(sys.executable, [sys.executable, "-m", "gunicorn", *flags, "django_gunicorn_pika:application"])
