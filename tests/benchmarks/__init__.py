"""What a request costs here, beside bare aiohttp and the peers: ``python -m tests.benchmarks``.

* Every run is a process of its own, and the contestants take turns (A B C A B C …): a noisy minute hits them alike.
* What counts is CPU seconds of that process, and ratios to bare aiohttp in the same round; walls are shown beside what
  would be ideal. Nothing here is asserted: a table is printed, a file written for the next comparison, and drawn.
* The server (`load_server.c`) is on loopback, in a process of its own, says what it costs, and counts what it is
  asked. A run that did not answer every prompt, or asked more than once, is no figure: the tables name it, and the
  command fails. A contestant that would talk to any other machine is stopped.
* Over TLS everybody verifies the server's certificate, which an authority of the run's own has signed.
"""
