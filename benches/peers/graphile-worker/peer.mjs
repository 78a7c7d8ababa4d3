// graphile-worker on PostgreSQL. https://worker.graphile.org: LISTEN/NOTIFY; jobs are deleted when they have run.
// PEER_MODE=fast: its local queue and batched completion, which give up strict priority.
import { Logger, makeWorkerUtils, run, runMigrations } from 'graphile-worker'
import { createRequire } from 'node:module'

import { main, started } from '../producer.mjs'

const { Pool } = createRequire(createRequire(import.meta.url).resolve('graphile-worker'))('pg')
const logger = new Logger(() => () => {})
const pool = new Pool({ connectionString: process.env.PEER_URL, max: 32 })
pool.on('error', console.error)
pool.on('connect', (client) => client.on('error', console.error))
let utils

const fast = { worker: { localQueue: { size: 500 }, completeJobBatchDelay: 0, failJobBatchDelay: 0 } }

await main({
  setup: () => runMigrations({ pgPool: pool, logger }),
  async enqueue(key, padding) {
    utils ??= makeWorkerUtils({ pgPool: pool, logger })
    await (await utils).addJob('peer', { key, padding })
  },
  async preload(keys, padding) {
    utils ??= makeWorkerUtils({ pgPool: pool, logger })
    await (await utils).addJobs(keys.map((key) => ({ identifier: 'peer', payload: { key, padding } })))
  },
  work: (workers) =>
    run({
      pgPool: pool,
      logger,
      concurrency: workers,
      preset: process.env.PEER_MODE === 'fast' ? fast : undefined,
      taskList: { peer: async ({ key }) => started(key) },
    }),
})
