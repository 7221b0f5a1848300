"""A worker with the probes of Kubernetes, over HTTP, without a web framework.

    python docs/recipes/kubernetes_probes.py          curl -i localhost:8080/ready

In the pod's manifest:

    terminationGracePeriodSeconds: 90       # more than a job takes
    containers:
    - name: worker
      ports: [{name: probes, containerPort: 8080}]
      readinessProbe: {httpGet: {path: /ready, port: probes}, periodSeconds: 5}
      livenessProbe:  {httpGet: {path: /live, port: probes}, periodSeconds: 10, timeoutSeconds: 5}

Guaranteed: /ready is 200 while the worker is connected and a 503 otherwise, so that a rollout waits for workers that
reach their broker. /live is 200 also while the broker is away, as the worker comes back by itself; it stays unanswered
where the event loop hangs. What waiting does not mend (refused credentials, a queue that somebody else declared
otherwise) ends the program, which is restarted. On SIGTERM the jobs at work finish, and no other is begun.

Not guaranteed: that a job is done once only. One that takes longer than a minute is cancelled, and dead-lettered where
the queue says so: a probe does not see what hangs in a single job.
"""

import functools
import json
import os

import anyio
from anyio.abc import ByteStream, TaskStatus
from anyio.streams.buffered import BufferedByteReceiveStream

import rabbitry

JOBS = rabbitry.Queue("recipes.probed", type="quorum")
ENDED = (anyio.EndOfStream, anyio.IncompleteRead, anyio.DelimiterNotFound, anyio.BrokenResourceError)


async def main() -> None:
    url = os.environ.get("RABBITMQ_URL", "amqp://guest:guest@localhost")
    async with rabbitry.open_client(url, name="worker") as client, anyio.create_task_group() as tg:
        await tg.start(serve_probes, client)  # first: the probes answer while the broker is away
        with client.stop_on():  # SIGTERM, SIGINT
            await client.declare(JOBS)
            await client.process(JOBS, work, concurrency=4, on_error="reject")
        tg.cancel_scope.cancel()
    print("ended in order", flush=True)


async def work(job: rabbitry.Delivery) -> None:
    print("working on", job.body.decode(), flush=True)
    with anyio.fail_after(60):
        await anyio.sleep(1)
    print("done", job.body.decode(), flush=True)


async def serve_probes(client: rabbitry.Client, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
    # The kubelet asks at the pod's own address, which is why this listens on all.
    host, port = os.environ.get("HOST", "0.0.0.0"), int(os.environ.get("PORT", "8080"))
    async with await anyio.create_tcp_listener(local_host=host, local_port=port) as listener:
        task_status.started()
        await listener.serve(functools.partial(answer, client))


async def answer(client: rabbitry.Client, stream: ByteStream) -> None:
    async with stream:
        with anyio.move_on_after(5):  # for who asks nothing
            try:
                request = await BufferedByteReceiveStream(stream).receive_until(b"\r\n\r\n", 8192)
                await stream.send(response(client, request.split(b" ")[1]))
            except (*ENDED, IndexError):
                pass  # no request


def response(client: rabbitry.Client, path: bytes) -> bytes:
    probes = {b"/ready": client.is_ready, b"/live": client.state != "closed"}
    status = "404 Not Found" if path not in probes else "200 OK" if probes[path] else "503 Service Unavailable"
    body = json.dumps({"state": client.state, "blocked": client.blocked_reason}).encode()
    lines = f"HTTP/1.1 {status}", "Content-Type: application/json", f"Content-Length: {len(body)}", "Connection: close"
    return "\r\n".join([*lines, "", ""]).encode() + body


if __name__ == "__main__":
    anyio.run(main)
