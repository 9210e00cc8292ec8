// Graphile Worker: 24 jobs at once; with BENCH_BATCHED also a local queue and completions in batches, as its page on
// performance has it.
import { run, makeWorkerUtils, Logger } from 'graphile-worker';
import pg from 'pg';
import { batches, executed, main, POSTGRES_URL } from './event.mjs';

const batched = { localQueue: { size: 500 }, completeJobBatchDelay: 0, failJobBatchDelay: 0 };
const quiet = new Logger(() => () => {});

await main({
  async enqueue() {
    const utils = await makeWorkerUtils({ connectionString: POSTGRES_URL, logger: quiet });
    await utils.migrate();
    for (const batch of batches(1000)) {
      await utils.addJobs(batch.map((payload) => ({ identifier: 'noop', payload })));
    }
    await utils.release();
  },
  async work() {
    const runner = await run({
      logger: quiet,
      noHandleSignals: true,
      taskList: { noop: async () => executed() },
      preset: {
        worker: {
          connectionString: POSTGRES_URL,
          concurrentJobs: 24,
          maxPoolSize: 25,
          ...(process.env.BENCH_BATCHED ? batched : {}),
        },
      },
    });
    return () => runner.stop();
  },
  async left() {
    const client = new pg.Client(POSTGRES_URL);
    await client.connect();
    const { rows } = await client.query('select count(*)::int as left from graphile_worker._private_jobs');
    return rows[0].left;
  },
});
