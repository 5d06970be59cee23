"""What the program costs, beside a naive one: `make bench`.

`python -m tests.cloud -- python -m tests.campaigns.bench` measures everything inside one test cloud:
`spawner` starts the calls, `measure` says which, `report` makes tables and bars of it, `plot` a
picture. `naive` is the yardstick.
"""
