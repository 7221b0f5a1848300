"""What spans the lives of connections: only values and declarative handles cross from one to the next."""
