// pg-boss: a batch of 500 at each poll, polling as often as it allows.
import PgBoss from 'pg-boss';
import { batches, executed, main, POSTGRES_URL, PREFIX } from './event.mjs';

async function boss(maintains) {
  const boss = new PgBoss({ connectionString: POSTGRES_URL, supervise: maintains, schedule: false });
  boss.on('error', (error) => console.error(error));
  await boss.start();
  return boss;
}

await main({
  async enqueue() {
    const at = await boss(false);
    await at.createQueue(PREFIX);
    for (const batch of batches(1000)) {
      await at.insert(batch.map((data) => ({ name: PREFIX, data })));
    }
    await at.stop({ graceful: false });
  },
  async work() {
    const at = await boss(true);
    await at.work(PREFIX, { batchSize: 500, pollingIntervalSeconds: 0.5 }, async (jobs) => {
      for (const _ of jobs) executed();
    });
    return () => at.stop({ graceful: false });
  },
  async left() {
    const at = await boss(false);
    return at.getQueueSize(PREFIX, { before: 'completed' });
  },
});
