"""`python -m rabbitry.testing.debian trixie FOLDER`: RabbitMQ of another Debian release. The command's door;
`rabbitmq/debian.py` does it.
"""

import sys

from rabbitry.testing.rabbitmq.debian import main

if __name__ == "__main__":
    main(*sys.argv[1:])
