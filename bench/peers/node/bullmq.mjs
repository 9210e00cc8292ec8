// BullMQ: concurrency 50 in each process, as its guide has it for tasks that do not compute; finished jobs are removed,
// as it advises; Redis with an append-only file.
import { Queue, Worker } from 'bullmq';
import { Redis } from 'ioredis';
import { batches, executed, main, PREFIX, REDIS_URL } from './event.mjs';

const connection = () => new Redis(REDIS_URL, { maxRetriesPerRequest: null });

await main({
  async enqueue() {
    const queue = new Queue(PREFIX, { connection: connection() });
    for (const batch of batches(500)) {
      await queue.addBulk(batch.map((data) => ({ name: 'noop', data, opts: { removeOnComplete: true } })));
    }
  },
  async work() {
    const worker = new Worker(PREFIX, async () => executed(), { connection: connection(), concurrency: 50 });
    worker.on('error', (error) => console.error(error));
    return () => worker.close();
  },
  async left() {
    const queue = new Queue(PREFIX, { connection: connection() });
    const counts = await queue.getJobCounts();
    return Object.values(counts).reduce((sum, count) => sum + count, 0);
  },
});
