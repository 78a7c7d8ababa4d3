"""RQ on Redis. https://python-rq.org/docs: worker-pool, each worker a process that forks for each job."""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from redis import Redis
from rq import Queue
from rq.worker_pool import WorkerPool

import producer

connection = Redis.from_url(os.environ["PEER_URL"])
queue = Queue("peer", connection=connection)


def noop(key, padding):
    producer.started(key)


def enqueue(key, padding):
    queue.enqueue("peer.noop", key, padding, result_ttl=0)


def preload(keys, padding):
    queue.enqueue_many([Queue.prepare_data("peer.noop", args=(key, padding), result_ttl=0) for key in keys])


def work(workers):
    os.chdir(os.path.dirname(os.path.abspath(__file__)))
    WorkerPool([queue], connection=connection, num_workers=workers).start(logging_level="WARNING")


if __name__ == "__main__":
    producer.main(lambda: None, enqueue, preload, work)
