// A Lambda runtime for Node.js in plain JavaScript: takes invocations from the Runtime API and runs an unmodified handler.
//
//   node bootstrap.mjs [HANDLER]        HANDLER: file.function; default: the variable _HANDLER
//
// The environment is that of AWS Lambda. With AWS_LAMBDA_MAX_CONCURRENCY above 1, so many invocations run at once in this
// process; callbacks then answer at once, and _X_AMZN_TRACE_ID is not set, since it could only be one invocation's.

import { RuntimeApi } from './api.mjs';
import { describe, named } from './errors.mjs';
import { load } from './load.mjs';
import { current, install } from './log.mjs';
import { run } from './run.mjs';
import { awslambda } from './stream.mjs';

// Statuses of a process whose code threw where nobody waited for it.
const UNHANDLED_REJECTION = 128;
const UNCAUGHT_EXCEPTION = 129;

const environment = { ...process.env };
const loops = Math.max(1, Number.parseInt(environment.AWS_LAMBDA_MAX_CONCURRENCY ?? '1', 10) || 1);
const api = new RuntimeApi(environment.AWS_LAMBDA_RUNTIME_API, loops);
// Those under way, by id.
const running = new Map();

globalThis.awslambda = awslambda;
install(environment);
process.on('uncaughtException', (thrown) => leave(thrown, UNCAUGHT_EXCEPTION));
process.on('unhandledRejection', (reason) => {
  const error = named('Runtime.UnhandledPromiseRejection', describe(reason).errorMessage, reason);
  if (reason instanceof Error) error.stack = reason.stack;
  leave(error, UNHANDLED_REJECTION);
});

let handler;
try {
  handler = await load(environment.LAMBDA_TASK_ROOT ?? process.cwd(), process.argv[2] ?? environment._HANDLER ?? '');
} catch (thrown) {
  console.error('Init Error', describe(thrown));
  await api.failInit(describe(thrown));
  process.exit(1);
}
// Not awaited: an empty event loop is how a handler's end without an answer is seen. A rejection ends the process.
for (let started = 0; started < loops; started += 1) loop();

async function loop() {
  for (;;) {
    const invocation = await api.next();
    running.set(invocation.id, invocation);
    if (loops === 1 && invocation.traceId) process.env._X_AMZN_TRACE_ID = invocation.traceId;
    try {
      await run(api, handler, invocation, environment, loops === 1);
    } finally {
      running.delete(invocation.id);
    }
  }
}

// Something was thrown where nobody waited for it: the invocation that it belongs to has failed, and so has the process,
// for nobody knows what state it is in. The others are told too: they would only be cut off.
async function leave(thrown, status) {
  const error = describe(thrown);
  console.error('Uncaught Exception', error);
  const guilty = current.getStore();
  const told = guilty && running.has(guilty.id) ? [guilty] : [...running.values()];
  try {
    await Promise.allSettled(told.map(({ id }) => api.fail(id, error)));
    if (handler === undefined) await api.failInit(error);
  } finally {
    process.exit(status);
  }
}
