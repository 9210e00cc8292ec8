// What all peers in Node share: the event, and how an executed job is counted.
//
// Every job writes one byte to a pipe that the bench reads: the first byte starts the clock, the last one stops it.
import fs from 'node:fs';

export const EVENTS = Number(process.env.BENCH_EVENTS ?? 0);
export const REDIS_URL = process.env.BENCH_REDIS_URL;
export const POSTGRES_URL = process.env.BENCH_POSTGRES_URL;
export const PREFIX = process.env.BENCH_PREFIX ?? 'bench';

let done;
export function executed() {
  done ??= fs.openSync(process.env.BENCH_DONE, 'w');
  fs.writeSync(done, '.');
}

// The same data as the bench's own events carry.
export function event(number) {
  return {
    order: `event-${String(number).padStart(8, '0')}`,
    customer: { id: `customer-${number % 997}`, name: 'Zoë Ångström', country: 'SE' },
    items: [
      { sku: 'WEFT-0001', quantity: 2, unit_price_minor: 1999 },
      { sku: 'WEFT-0002', quantity: 1, unit_price_minor: 450 },
    ],
    currency: 'EUR',
    note: 'leave it with the neighbours if nobody is at home',
  };
}

export function* batches(size) {
  for (let from = 0; from < EVENTS; from += size) {
    yield Array.from({ length: Math.min(size, EVENTS - from) }, (_, index) => event(from + index));
  }
}

// `enqueue` fills the queue, `work` runs until SIGTERM, `left` prints how many jobs are not done.
export async function main({ enqueue, work, left }) {
  switch (process.argv[2]) {
    case 'enqueue':
      await enqueue();
      process.exit(0);
    case 'left':
      console.log(await left());
      process.exit(0);
    case 'work': {
      const stop = await work();
      process.on('SIGTERM', async () => {
        await stop();
        process.exit(0);
      });
      break;
    }
    default:
      throw new Error(`unknown command ${process.argv[2]}`);
  }
}
