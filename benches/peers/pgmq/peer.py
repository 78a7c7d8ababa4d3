"""pgmq on PostgreSQL. https://github.com/pgmq/pgmq: send, read with a visibility timeout, delete. It has no worker: each is a
thread that reads one message with polling in the server and deletes it when it has run."""

import os
import sys
import threading
from importlib.resources import files

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))

from psycopg.types.json import Jsonb
from psycopg_pool import ConnectionPool

import producer

pool = ConnectionPool(os.environ["PEER_URL"], min_size=1, max_size=100, open=False, kwargs={"autocommit": True})


def setup():
    with pool, pool.connection() as connection:
        connection.execute((files("pgmq") / "sql" / "pgmq.sql").read_bytes())
        connection.execute("select pgmq.create('peer')")


def message(key, padding):
    return Jsonb({"key": key, "padding": padding})


def enqueue(key, padding):
    pool.open()
    with pool.connection() as connection:
        connection.execute("select pgmq.send('peer', %s)", [message(key, padding)])


def preload(keys, padding):
    pool.open()
    with pool.connection() as connection:
        connection.execute("select pgmq.send_batch('peer', %s)", [[message(key, padding) for key in keys]])


def consume():
    with pool.connection() as connection:
        while True:
            read = "select msg_id, message from pgmq.read_with_poll('peer', 30, 1, 5, 50)"
            for number, message in connection.execute(read).fetchall():
                producer.started(message["key"])
                connection.execute("select pgmq.delete('peer', %s)", [number])


def work(workers):
    pool.open()
    threads = [threading.Thread(target=consume) for _ in range(workers)]
    for thread in threads:
        thread.start()


if __name__ == "__main__":
    producer.main(setup, enqueue, preload, work)
