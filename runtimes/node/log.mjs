// The console of a handler: each message with its time, its invocation and its level, as text or as JSON.

import { AsyncLocalStorage } from 'node:async_hooks';
import { formatWithOptions } from 'node:util';

const LEVELS = ['trace', 'debug', 'info', 'warn', 'error', 'fatal'];
const METHODS = { trace: 'trace', debug: 'debug', log: 'info', info: 'info', warn: 'warn', error: 'error' };

// Which invocation the running code belongs to, also behind an await.
export const current = new AsyncLocalStorage();

export function install(environment, write = (line) => process.stdout.write(line)) {
  const json = environment.AWS_LAMBDA_LOG_FORMAT === 'JSON';
  const least = Math.max(0, LEVELS.indexOf((environment.AWS_LAMBDA_LOG_LEVEL ?? 'trace').toLowerCase()));
  for (const [method, level] of Object.entries(METHODS)) {
    if (LEVELS.indexOf(level) < least) {
      console[method] = () => {};
      continue;
    }
    console[method] = (...values) => write(json ? asJson(level, values) : asText(level, values));
  }
}

function asText(level, values) {
  // One line for each message: what reads the output splits it at line breaks.
  const message = formatWithOptions({}, ...values).replaceAll('\n', '\r');
  return `${new Date().toISOString()}\t${current.getStore()?.id ?? 'undefined'}\t${level.toUpperCase()}\t${message}\n`;
}

function asJson(level, values) {
  const entry = { timestamp: new Date().toISOString(), level: level.toUpperCase(), requestId: current.getStore()?.id };
  const [first] = values;
  if (values.length === 1 && typeof first === 'object' && first !== null && !(first instanceof Error)) {
    entry.message = first;
  } else {
    entry.message = formatWithOptions({}, ...values);
    const error = values.find((value) => value instanceof Error);
    if (error) Object.assign(entry, { errorType: error.name, errorMessage: error.message, stackTrace: (error.stack ?? '').split('\n') });
  }
  try {
    return `${JSON.stringify(entry)}\n`;
  } catch {
    return `${JSON.stringify({ ...entry, message: formatWithOptions({}, ...values) })}\n`;
  }
}
