"""The benchmark: rabbitry beside other clients, on the same work and the same broker.

`python -m tests.measuring.bench` starts a private node and runs fresh processes in turn, so that what disturbs one
disturbs the other. `comparison/` has what a reader wants to see: libraries beside each other, for bodies of several
sizes. The rest is held to bounds (`--only ROW`, `--bounds`): `plan.py` says which runs, `runner.py` how; `verdict.py`
makes paired ratios and compares them with the bounds, `report.py` makes tables. The work itself is in `ours.py`,
`peers.py` and `reference.c`: each prints a line of JSON. RPC is in `ours_rpc.py` and `peers_rpc.py`, with what both
share in `rpc.py`; publishing without async in `ours_blocking.py` and `peers_blocking.py`. `former.py` compares this
checkout's client with another one's.
"""
