"""What all contenders in Python share: the commands that the benchmark gives, keys, payloads, and what was acknowledged when.

A contender gives main() its functions:
    setup()                     makes its tables or queues
    enqueue(key, padding)       one durable job; returns when it is acknowledged; called from several threads
    preload(keys, padding)      many jobs, by its documented fast way; the same, with PEER_BATCH jobs at a time
    work(workers)               works for ever
Lines of the files: `key begin acknowledged` and `key begin`, nanoseconds of the monotonic clock, which all processes share.
"""

import os
import sys
import threading
import time
import uuid

PAYLOAD_BYTES = 256
PADDING = "x" * (PAYLOAD_BYTES - 36)
PRELOAD_BATCH = 1000


def started(key, file=[]):
    """The job itself: one line in the file of starts."""
    if not file or file[0] != os.getpid():
        file[:] = [os.getpid(), os.open(os.environ["PEER_STARTS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)]
    os.write(file[1], f"{key} {time.monotonic_ns()}\n".encode())


def produce(enqueue, preload, seconds, count, producers, pause_ms):
    """A closed loop of so many producers, until the time is over or the count is reached."""
    acks, end = [], time.monotonic() + seconds
    batch = int(os.environ["PEER_BATCH"])
    turns = iter(range(0, count, batch))

    def loop():
        for _ in turns:
            if time.monotonic() >= end:
                return
            keys, begin = [str(uuid.uuid4()) for _ in range(batch)], time.monotonic_ns()
            if batch == 1:
                enqueue(keys[0], PADDING)
            else:
                preload(keys, PADDING)
            acknowledged = time.monotonic_ns()
            acks.extend(f"{key} {begin} {acknowledged}\n" for key in keys)
            if pause_ms:
                time.sleep(pause_ms / 1000)

    threads = [threading.Thread(target=loop) for _ in range(producers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with open(os.environ["PEER_ACKS"], "w") as file:
        file.writelines(acks)


def main(setup, enqueue, preload, work):
    command, numbers = sys.argv[1], [int(number) for number in sys.argv[2:]]
    if command == "setup":
        setup()
    elif command == "enqueue":
        produce(enqueue, preload, *numbers)
    elif command == "preload":
        for first in range(0, numbers[0], PRELOAD_BATCH):
            preload([str(uuid.uuid4()) for _ in range(min(PRELOAD_BATCH, numbers[0] - first))], PADDING)
    else:
        work(numbers[0])
