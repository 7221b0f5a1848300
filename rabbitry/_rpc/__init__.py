"""Remote procedure calls: what travels with a request and its reply; calling; answering. Knows one life at a time."""
