"""What all peers in Python share: the event, and how an executed job is counted.

Every job writes one byte to a pipe that the bench reads: the first byte starts the clock, the last one stops it.
"""

import os

EVENTS = int(os.environ.get("BENCH_EVENTS", "0"))
AMQP_URL = os.environ.get("BENCH_AMQP_URL", "")
REDIS_URL = os.environ.get("BENCH_REDIS_URL", "")
PREFIX = os.environ.get("BENCH_PREFIX", "bench")

_done = None


def executed():
    """Counts this job. Opens the pipe at the first call, so that each forked process has its own descriptor."""
    global _done
    if _done is None:
        _done = os.open(os.environ["BENCH_DONE"], os.O_WRONLY)
    os.write(_done, b".")


def event(number):
    """The same data as the bench's own events carry."""
    return {
        "order": f"event-{number:08}",
        "customer": {"id": f"customer-{number % 997}", "name": "Zoë Ångström", "country": "SE"},
        "items": [
            {"sku": "WEFT-0001", "quantity": 2, "unit_price_minor": 1999},
            {"sku": "WEFT-0002", "quantity": 1, "unit_price_minor": 450},
        ],
        "currency": "EUR",
        "note": "leave it with the neighbours if nobody is at home",
    }
