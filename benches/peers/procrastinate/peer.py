"""procrastinate on PostgreSQL. https://procrastinate.readthedocs.io: one worker with so many jobs at once, LISTEN/NOTIFY."""

import asyncio
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))

import procrastinate

import producer

URL = os.environ["PEER_URL"]
# Producers are threads, as those of the other contenders in Python; the worker is asynchronous.
if sys.argv[1] == "work":
    connector = procrastinate.PsycopgConnector(conninfo=URL, min_size=4, max_size=16)
else:
    connector = procrastinate.SyncPsycopgConnector(conninfo=URL, min_size=1, max_size=32)
app = procrastinate.App(connector=connector)


@app.task(name="noop")
async def noop(key, padding):
    producer.started(key)


def work(workers):
    async def run():
        async with app.open_async():
            await app.run_worker_async(concurrency=workers, delete_jobs="successful")

    asyncio.run(run())


def main():
    producer.main(
        app.schema_manager.apply_schema,
        lambda key, padding: noop.defer(key=key, padding=padding),
        lambda keys, padding: noop.batch_defer(*({"key": key, "padding": padding} for key in keys)),
        work,
    )


if __name__ == "__main__":
    if sys.argv[1] == "work":
        main()
    else:
        with app.open():
            main()
