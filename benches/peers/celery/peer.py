"""Celery on Redis. https://docs.celeryq.dev: late acknowledgement, one job reserved at a time, no results."""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))

from celery import Celery

import producer

app = Celery("peer", broker=os.environ["PEER_URL"])
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=1,
    task_ignore_result=True,
    broker_connection_retry_on_startup=True,
    broker_pool_limit=64,
)


@app.task(name="noop")
def noop(key, padding):
    producer.started(key)


def preload(keys, padding):
    with app.connection_for_write() as connection, connection.channel() as channel:
        with app.amqp.Producer(channel) as one:
            for key in keys:
                noop.apply_async((key, padding), producer=one)


def work(workers):
    # A process for each, as is the default; a hundred processes would only swap places on few cores: threads.
    pool = "prefork" if workers <= 10 else "threads"
    app.worker_main(["worker", "-c", str(workers), "-P", pool, "--without-gossip", "--without-mingle", "-l", "WARNING"])


if __name__ == "__main__":
    producer.main(lambda: None, lambda key, padding: noop.delay(key, padding), preload, work)
