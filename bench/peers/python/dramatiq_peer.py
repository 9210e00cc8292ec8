"""Dramatiq: acknowledged after the actor, publisher confirms, quorum queues; results are off, as its guide advises for
what nobody reads. Processes = processors and 8 threads in each are its defaults."""

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker

from event import AMQP_URL, EVENTS, PREFIX, event, executed


class QuorumBroker(RabbitmqBroker):
    """Its releases declare classic queues only. The dead-letter queue is left as it is: nothing gets there."""

    def _build_queue_arguments(self, queue_name):
        return {**super()._build_queue_arguments(queue_name), "x-queue-type": "quorum"}


broker = QuorumBroker(url=AMQP_URL, confirm_delivery=True)
dramatiq.set_broker(broker)


@dramatiq.actor(queue_name=PREFIX)
def noop(order):
    executed()


if __name__ == "__main__":
    for number in range(EVENTS):
        noop.send(event(number))
    broker.close()
