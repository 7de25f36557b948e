"""What a request costs here, beside bare aiohttp and async-batch-llm: ``python -m tests.benchmarks``.

* Every run is a process of its own, and the contestants take turns (A B C A B C …): a noisy minute hits them alike.
* What counts is CPU seconds of that process, and ratios to bare aiohttp in the same round; walls are shown beside what
  would be ideal. Nothing here is asserted: a table is printed, and a file written for the next comparison.
* The server (`load_server.c`) is on loopback, costs about 5 µs a request, and counts what it is asked. A run that did
  not answer every prompt, or asked more than once, is an error and no figure. A contestant that would talk to any
  other machine is stopped.
"""
