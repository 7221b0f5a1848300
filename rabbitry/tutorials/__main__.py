"""`python -m rabbitry.tutorials`: lists the tutorials, in the order to read them, and how to run each."""

import importlib

TUTORIALS = ("hello_world", "work_queue", "publish_subscribe", "routing", "topics", "headers", "rpc")


def main() -> None:
    for name in TUTORIALS:
        text = importlib.import_module(f"rabbitry.tutorials.{name}").__doc__ or ""
        title, commands, *_ = [*text.strip().split("\n\n"), "", ""]  # python -OO leaves no docstrings
        print(f"{title}\n\n{commands}\n")
    print("Each takes --backend trio, and --url amqp://user:password@host where $RABBITMQ_URL does not say it.")
    print("Without a RabbitMQ, `python -m rabbitry broker` in another terminal serves them; it forgets all as it ends.")


if __name__ == "__main__":
    main()
