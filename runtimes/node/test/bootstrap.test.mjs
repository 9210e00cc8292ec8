import assert from 'node:assert/strict';
import { test } from 'node:test';

import { Emulator } from './emulator.mjs';

const RESPONSE = /\/2018-06-01\/runtime\/invocation\/id-\d+\/response$/;
const ERROR = /\/2018-06-01\/runtime\/invocation\/id-\d+\/error$/;

async function with_(handler, body, environment = {}) {
  const emulator = await Emulator.start(handler, environment);
  try {
    await body(emulator);
  } finally {
    await emulator.stop();
  }
}

const answers = (handler, event, expected) =>
  with_(handler, async (emulator) => {
    const answer = await emulator.call(event);
    assert.match(answer.path, RESPONSE);
    assert.deepEqual(JSON.parse(answer.body), expected);
  });

const fails = (handler, event, type, message) =>
  with_(handler, async (emulator) => {
    const answer = await emulator.call(event);
    assert.match(answer.path, ERROR);
    const error = JSON.parse(answer.body);
    assert.equal(error.errorType, type);
    assert.match(error.errorMessage, message);
    assert.equal(answer.headers['lambda-runtime-function-error-type'], type);
    assert.ok(Array.isArray(error.trace));
  });

test('one_process_answers_one_invocation_after_the_other', () =>
  with_('plain.echo', async (emulator) => {
    for (const calls of [1, 2, 3]) {
      const answer = await emulator.call({ n: calls });
      assert.deepEqual(JSON.parse(answer.body), { event: { n: calls }, id: `id-${calls}`, left: true, calls });
    }
  }));

test('a_callback_answers_when_the_event_loop_is_empty', () => answers('plain.callback', {}, { by: 'callback' }));
test('a_callback_answers_at_once_when_it_need_not_wait', () => answers('plain.early', {}, 'early'));
test('a_handler_without_an_answer_answers_null', () => answers('plain.silent', {}, null));
test('a_member_of_an_export_is_a_handler', () => answers('plain.nested.deep.call', {}, 'deep'));
test('a_module_is_a_handler', () => answers('module.handler', {}, 'a module'));

test('a_promise_that_nothing_can_settle_is_an_error', () => fails('plain.stuck', {}, 'Runtime.NodeJsExit', /without resolving/));
test('what_a_handler_throws_is_told_with_its_type', () => fails('plain.throwing', {}, 'RangeError', /out of it/));
test('a_thrown_text_is_told', () => fails('plain.text', {}, 'string', /just text/));
test('a_result_that_is_no_json_is_an_error', () => fails('plain.circular', {}, 'Runtime.MarshalError', /JSON/));
test('an_event_that_is_no_json_is_an_error', () => fails('plain.echo', '{', 'Runtime.UnmarshalError', /JSON/));

test('an_error_thrown_beside_the_handler_fails_the_invocation_and_the_process', () =>
  with_('plain.uncaught', async (emulator) => {
    const answer = await emulator.call({});
    assert.match(answer.path, ERROR);
    assert.match(answer.body, /nobody waits/);
    assert.equal(await emulator.exited, 129);
  }));

test('a_rejection_that_nobody_awaits_fails_the_invocation_and_the_process', () =>
  with_('plain.rejected', async (emulator) => {
    const answer = await emulator.call({});
    assert.equal(JSON.parse(answer.body).errorType, 'Runtime.UnhandledPromiseRejection');
    assert.equal(await emulator.exited, 128);
  }));

for (const [handler, type] of [
  ['absent.handler', 'Runtime.ImportModuleError'],
  ['plain.absent', 'Runtime.HandlerNotFound'],
  ['plain.number', 'Runtime.HandlerNotFound'],
  ['plain', 'Runtime.MalformedHandlerName'],
  ['../plain.echo', 'Runtime.MalformedHandlerName'],
  ['syntax.handler', 'Runtime.UserCodeSyntaxError'],
]) {
  test(`the_handler_${handler}_is_an_init_error`, () =>
    with_(handler, async (emulator) => {
      const answer = await emulator.answer();
      assert.match(answer.path, /\/2018-06-01\/runtime\/init\/error$/);
      assert.equal(JSON.parse(answer.body).errorType, type);
      assert.equal(await emulator.exited, 1);
    }));
}

test('a_result_that_is_refused_as_too_large_becomes_an_error', () =>
  with_('plain.large', async (emulator) => {
    emulator.limit = 100;
    const first = await emulator.call({});
    assert.equal(first.refused, true);
    const second = await emulator.answer();
    assert.match(second.path, ERROR);
    assert.equal(JSON.parse(second.body).errorType, 'Function.ResponseSizeTooLarge');
  }));

test('the_trace_is_in_the_environment', () =>
  with_('plain.trace', async (emulator) => {
    const answer = await emulator.call({}, { 'Lambda-Runtime-Trace-Id': 'Root=1-2-3' });
    assert.equal(JSON.parse(answer.body), 'Root=1-2-3');
  }));

test('a_message_is_one_line_with_its_invocation', () =>
  with_('plain.log', async (emulator) => {
    await emulator.call({});
    assert.match(emulator.output, /^\S+Z\tid-1\tINFO\ttwo\rlines\n$/);
  }));

test('several_invocations_run_at_once_where_they_may', () =>
  with_('plain.meet', async (emulator) => {
    for (let sent = 0; sent < 3; sent += 1) emulator.send({ many: 3 });
    for (let got = 0; got < 3; got += 1) assert.match((await emulator.answer()).path, RESPONSE);
  }, { AWS_LAMBDA_MAX_CONCURRENCY: '3' }));

test('a_streamed_response_comes_in_pieces_with_its_type', () =>
  with_('module.streamed', async (emulator) => {
    const answer = await emulator.call({});
    assert.equal(answer.body, 'one two');
    assert.equal(answer.headers['content-type'], 'text/plain');
    assert.equal(answer.headers['lambda-runtime-function-response-mode'], 'streaming');
  }));

test('a_streamed_page_has_its_status_in_front', () =>
  with_('module.page', async (emulator) => {
    const answer = await emulator.call({});
    const [prelude, body] = answer.body.split('\0'.repeat(8));
    assert.deepEqual(JSON.parse(prelude), { statusCode: 201, cookies: ['a=b'] });
    assert.equal(body, '<p>');
  }));

test('a_stream_that_breaks_says_so_behind_what_was_written', () =>
  with_('module.broken', async (emulator) => {
    const answer = await emulator.call({});
    assert.equal(answer.body, 'half');
    assert.equal(answer.trailers['lambda-runtime-function-error-type'], 'Error');
    const error = Buffer.from(answer.trailers['lambda-runtime-function-error-body'], 'base64').toString();
    assert.match(JSON.parse(error).errorMessage, /in the middle/);
  }));

test('a_stream_that_never_began_is_an_error', () => fails('module.unbegun', {}, 'Error', /before it began/));
