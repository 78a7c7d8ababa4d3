// As producer.py, for contenders in JavaScript.
import { randomUUID } from 'node:crypto'
import { openSync, writeFileSync, writeSync } from 'node:fs'

const PAYLOAD_BYTES = 256
const PADDING = 'x'.repeat(PAYLOAD_BYTES - 36)
const PRELOAD_BATCH = 1000

let starts

// The job itself: one line in the file of starts.
export function started(key) {
  starts ??= openSync(process.env.PEER_STARTS, 'a')
  writeSync(starts, `${key} ${process.hrtime.bigint()}\n`)
}

async function produce(enqueue, preload, seconds, count, producers, pauseMs) {
  const acks = []
  const batch = Number(process.env.PEER_BATCH)
  const end = Date.now() + seconds * 1000
  let turns = 0
  const loop = async () => {
    while (turns < count && Date.now() < end) {
      turns += batch
      const [keys, begin] = [Array.from({ length: batch }, () => randomUUID()), process.hrtime.bigint()]
      await (batch === 1 ? enqueue(keys[0], PADDING) : preload(keys, PADDING))
      const acknowledged = process.hrtime.bigint()
      for (const key of keys) acks.push(`${key} ${begin} ${acknowledged}\n`)
      if (pauseMs) await new Promise((resume) => setTimeout(resume, pauseMs))
    }
  }
  await Promise.all(Array.from({ length: producers }, loop))
  writeFileSync(process.env.PEER_ACKS, acks.join(''))
}

export async function main({ setup, enqueue, preload, work }) {
  const [command, ...numbers] = process.argv.slice(2).map((word, n) => (n ? Number(word) : word))
  if (command === 'work') return work(numbers[0])
  if (command === 'setup') await setup()
  else if (command === 'enqueue') await produce(enqueue, preload, ...numbers)
  else
    for (let first = 0; first < numbers[0]; first += PRELOAD_BATCH)
      await preload(Array.from({ length: Math.min(PRELOAD_BATCH, numbers[0] - first) }, () => randomUUID()), PADDING)
  process.exit(0)
}
