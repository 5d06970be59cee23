"""The cost of the program compared with a naive one: `make bench`.

`python -m tests.cloud -- python -m tests.campaigns.bench` measures everything inside one test cloud.
`measure` chooses the calls, `spawner` starts them, `report` makes tables and checks limits, `plot` draws
a chart. `naive` is the program to compare with.
"""
