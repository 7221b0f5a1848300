"""One TCP life: how to connect, the poller that many connections share, and what is asked of one as a whole."""
