"""What one import costs, in a process of its own: ``python importing.py MODULE`` prints it as JSON."""

import importlib
import sys
import time

HEAVY = (
    "IPython",
    "aiohttp",
    "anywidget",
    "httpx",
    "ipywidgets",
    "nest_asyncio2",
    "numpy",
    "pandas",
    "pydantic",
    "tqdm",
)
"""What importing the library may not bring in."""

cpu, wall = time.process_time(), time.perf_counter()
importlib.import_module(sys.argv[1])
cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
heavy = [name for name in HEAVY if name in sys.modules]

import json  # noqa: E402 - not before the clock stopped: it would be part of what is measured

print(json.dumps({"cpu": cpu, "wall": wall, "heavy": heavy, "modules": len(sys.modules)}))
