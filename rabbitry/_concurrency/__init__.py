"""How this library waits, holds its background tasks and tells the time. Knows neither sockets nor AMQP."""
