// BullMQ on Redis. https://docs.bullmq.io: one worker with so many jobs at once.
import { Queue, Worker } from 'bullmq'

import { main, started } from '../producer.mjs'

const url = new URL(process.env.PEER_URL)
const connection = { host: url.hostname, port: Number(url.port), password: url.password, maxRetriesPerRequest: null }
let queue
const open = () => (queue ??= new Queue('peer', { connection, defaultJobOptions: { removeOnComplete: true } }))

await main({
  async setup() {},
  enqueue: (key, padding) => open().add('noop', { key, padding }),
  preload: (keys, padding) => open().addBulk(keys.map((key) => ({ name: 'noop', data: { key, padding } }))),
  work: (workers) => new Worker('peer', async (job) => started(job.data.key), { connection, concurrency: workers }),
})
