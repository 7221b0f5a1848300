"""`python -m rabbitry.testing.install`: installs RabbitMQ. The command's door; `rabbitmq/install.py` does it."""

from rabbitry.testing.rabbitmq.install import main

if __name__ == "__main__":
    main()
