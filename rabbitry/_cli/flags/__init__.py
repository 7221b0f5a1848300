"""The flags of each group of commands, apart from what runs them, which `--help` need not import."""
