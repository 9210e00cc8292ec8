// One invocation: calls the handler in whatever way it wants to be called, and answers once.

import { Refused } from './api.mjs';
import { describe, named } from './errors.mjs';
import { current } from './log.mjs';
import { ResponseStream, isStreaming } from './stream.mjs';

// Runs `handler` on one invocation and posts its answer. `alone`: no other invocation runs in this process, so that an
// empty event loop means that nothing more will come of this one.
export async function run(api, handler, invocation, environment, alone) {
  try {
    await current.run(invocation, () => (isStreaming(handler) ? stream : answer)(api, handler, invocation, environment, alone));
  } catch (thrown) {
    // Neither answer was taken. With 413 the invocation has an error already, which is what AWS does too.
    if (!(thrown instanceof Refused)) throw thrown;
    console.error('the answer was refused', thrown.message);
  }
}

async function answer(api, handler, invocation, environment, alone) {
  let body;
  try {
    const event = parse(invocation.body);
    const result = await outcome(handler, event, makeContext(invocation, environment), alone);
    body = stringify(result);
  } catch (thrown) {
    await failed(api, invocation, thrown);
    return;
  }
  try {
    await api.respond(invocation.id, body);
  } catch (thrown) {
    if (!(thrown instanceof Refused)) throw thrown;
    await failed(api, invocation, named('Function.ResponseSizeTooLarge', thrown.message));
  }
}

async function stream(api, handler, invocation, environment) {
  const response = new ResponseStream(api, invocation.id);
  try {
    const event = parse(invocation.body);
    await handler(event, response, makeContext(invocation, environment));
    // A handler may leave ending it to the code that it piped in; a response that was ended twice is ended.
    if (!response.writableEnded) response.end();
  } catch (thrown) {
    console.error('Invoke Error', describe(thrown));
    if (!response.started) {
      await api.fail(invocation.id, describe(thrown));
      return;
    }
    response.fail(thrown);
  }
  const { status, body } = await response.answer();
  if (status >= 300) throw new Refused('POST', `/invocation/${invocation.id}/response`, status, body);
}

async function failed(api, invocation, thrown) {
  console.error('Invoke Error', describe(thrown));
  await api.fail(invocation.id, describe(thrown));
}

function parse(body) {
  try {
    return JSON.parse(body);
  } catch (error) {
    throw named('Runtime.UnmarshalError', `the event is no JSON: ${error.message}`, error);
  }
}

function stringify(result) {
  try {
    return JSON.stringify(result === undefined ? null : result) ?? 'null';
  } catch (error) {
    throw named('Runtime.MarshalError', `the result cannot be written as JSON: ${error.message}`, error);
  }
}

// The handler's outcome, by its promise, by its callback or by the methods of its context, whichever is first.
function outcome(handler, event, context, alone) {
  return new Promise((resolve, reject) => {
    // What an empty event loop means for this invocation.
    let emptied;
    const forget = () => emptied && process.off('beforeExit', emptied);
    const settle = (how) => (value) => {
      forget();
      how(value);
    };
    const succeed = settle(resolve);
    const fail = settle(reject);
    // A callback's answer is given when the event loop is empty, unless the handler asked not to wait.
    const called = (thrown, result) => {
      const done = () => (thrown === undefined || thrown === null ? succeed(result) : fail(thrown));
      if (!alone || !context.callbackWaitsForEmptyEventLoop) return done();
      forget();
      emptied = done;
      process.once('beforeExit', emptied);
    };
    Object.assign(context, { done: called, succeed: (result) => called(null, result), fail: (thrown) => called(thrown ?? 'handled') });
    const result = handler(event, context, called);
    const isPromise = typeof result?.then === 'function';
    if (alone && emptied === undefined) {
      // Nothing is left that could answer.
      emptied = () =>
        isPromise ? fail(named('Runtime.NodeJsExit', 'the handler ended without resolving or rejecting its promise')) : succeed(null);
      process.once('beforeExit', emptied);
    }
    if (isPromise) result.then(succeed, fail);
  });
}

function makeContext(invocation, environment) {
  return {
    functionName: environment.AWS_LAMBDA_FUNCTION_NAME,
    functionVersion: environment.AWS_LAMBDA_FUNCTION_VERSION,
    memoryLimitInMB: environment.AWS_LAMBDA_FUNCTION_MEMORY_SIZE,
    logGroupName: environment.AWS_LAMBDA_LOG_GROUP_NAME,
    logStreamName: environment.AWS_LAMBDA_LOG_STREAM_NAME,
    invokedFunctionArn: invocation.arn,
    awsRequestId: invocation.id,
    tenantId: invocation.tenantId,
    clientContext: invocation.clientContext ? JSON.parse(invocation.clientContext) : undefined,
    identity: invocation.identity ? JSON.parse(invocation.identity) : undefined,
    callbackWaitsForEmptyEventLoop: true,
    getRemainingTimeInMillis: () => Math.max(0, invocation.deadlineMs - Date.now()),
  };
}
