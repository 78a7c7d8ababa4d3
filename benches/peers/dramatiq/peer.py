"""Dramatiq on Redis. https://dramatiq.io: one process with a thread for each worker, prefetch as it is by default."""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))

import dramatiq
from dramatiq.brokers.redis import RedisBroker

import producer

dramatiq.set_broker(RedisBroker(url=os.environ["PEER_URL"]))


@dramatiq.actor
def noop(key, padding):
    producer.started(key)


def preload(keys, padding):
    for key in keys:
        noop.send(key, padding)


def work(workers):
    program = os.path.join(os.path.dirname(sys.executable), "dramatiq")
    os.chdir(os.path.dirname(os.path.abspath(__file__)))
    os.execv(program, [program, "peer", "--processes", "1", "--threads", str(workers)])


if __name__ == "__main__":
    producer.main(lambda: None, noop.send, preload, work)
