// pg-boss on PostgreSQL. https://timgit.github.io/pg-boss: fetches each half second, its shortest interval, in batches.
import PgBoss from 'pg-boss'

import { main, started } from '../producer.mjs'

const BATCH = 500

const boss = new PgBoss({ connectionString: process.env.PEER_URL, max: 32, schedule: false })
boss.on('error', console.error)
let ready
const open = () => (ready ??= boss.start())

await main({
  async setup() {
    await open()
    await boss.createQueue('peer')
  },
  async enqueue(key, padding) {
    await open()
    await boss.send('peer', { key, padding })
  },
  async preload(keys, padding) {
    await open()
    await boss.insert(keys.map((key) => ({ name: 'peer', data: { key, padding } })))
  },
  async work(workers) {
    await open()
    const options = { batchSize: BATCH, pollingIntervalSeconds: 0.5 }
    for (let n = 0; n < workers; n += 1)
      await boss.work('peer', options, async (jobs) => jobs.forEach((job) => started(job.data.key)))
  },
})
