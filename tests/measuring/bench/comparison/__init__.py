"""rabbitry beside other libraries, as somebody sees them who chooses one: messages a second, processor time a message,
memory a connection.

`plan.py` has the libraries, the jobs and how much each does of them; `libraries/` does it; `rounds.py` runs all cells
in turn; `result.py` makes one value of what came of them, and `page.py`, `pictures.py` and `tables.py` show it, from
that value alone. What must stay true: every library has the same work (bodies, persistence, confirms, prefetch,
acknowledgements), done the way its own documentation shows, and nothing here knows a bound.
"""
