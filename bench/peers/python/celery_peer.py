"""Celery: prefork, acknowledged after the task, results in Redis, quorum queue, publisher confirms.

Its guide to optimizing advises a large prefetch for short tasks, and concurrency = processors for prefork.
"""

from celery import Celery

from event import AMQP_URL, EVENTS, PREFIX, REDIS_URL, event, executed

app = Celery("bench", broker=AMQP_URL, backend=REDIS_URL)
app.conf.update(
    task_default_queue=PREFIX,
    task_default_queue_type="quorum",
    worker_detect_quorum_queues=True,
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_ignore_result=False,
    broker_transport_options={"confirm_publish": True},
    broker_connection_retry_on_startup=True,
    worker_concurrency=2,
    worker_prefetch_multiplier=64,
    worker_send_task_events=False,
    worker_hijack_root_logger=False,
)


@app.task(name="noop")
def noop(order):
    executed()
    return "ok"


if __name__ == "__main__":
    with app.producer_pool.acquire(block=True) as producer:
        for number in range(EVENTS):
            noop.apply_async((event(number),), producer=producer)
