// Responses that are written piece by piece: `awslambda.streamifyResponse` and `awslambda.HttpResponseStream`.

import { Writable } from 'node:stream';

import { ERROR_BODY, ERROR_TYPE } from './api.mjs';
import { describe } from './errors.mjs';

const STREAMS = Symbol.for('weft.lambda.streams');
const HTTP_TYPE = 'application/vnd.awslambda.http-integration-response';
// Ends the JSON in front of a streamed HTTP response.
const END_OF_PRELUDE = Buffer.alloc(8);

// Handlers find it as the global `awslambda`, as on AWS.
export const awslambda = {
  streamifyResponse(handler) {
    handler[STREAMS] = true;
    return handler;
  },
  HttpResponseStream: {
    // Status, headers and cookies go in front of the first byte of the body.
    from(stream, prelude) {
      stream.setContentType(HTTP_TYPE);
      stream.prelude = Buffer.concat([Buffer.from(JSON.stringify(prelude ?? {})), END_OF_PRELUDE]);
      return stream;
    },
  },
};

export const isStreaming = (handler) => handler[STREAMS] === true;

// What the handler writes to. The request is opened with the first byte, for until then the content type may change.
export class ResponseStream extends Writable {
  #api;
  #id;
  #contentType = 'application/octet-stream';
  #open;
  #failed;
  prelude;

  constructor(api, id) {
    super();
    this.#api = api;
    this.#id = id;
  }

  get started() {
    return this.#open !== undefined;
  }

  setContentType(type) {
    if (this.started) throw new Error('the content type cannot change once the response has begun');
    this.#contentType = type;
  }

  // Ends it with an error: what was written stays, and the trailers say that it is not all.
  fail(thrown) {
    this.#failed = describe(thrown);
    this.end();
  }

  // The Runtime API's answer to the whole response.
  answer() {
    return this.#request().answer;
  }

  #request() {
    if (!this.#open) {
      this.#open = this.#api.stream(this.#id, this.#contentType);
      if (this.prelude) this.#open.request.write(this.prelude);
    }
    return this.#open;
  }

  _write(chunk, encoding, done) {
    const { request } = this.#request();
    const bytes = typeof chunk === 'string' ? Buffer.from(chunk, encoding) : chunk;
    // As fast as it is read, and not faster.
    if (request.write(bytes)) done();
    else request.once('drain', done);
  }

  _final(done) {
    const { request } = this.#request();
    if (this.#failed) {
      const body = Buffer.from(JSON.stringify(this.#failed)).toString('base64');
      request.addTrailers({ [ERROR_TYPE]: this.#failed.errorType, [ERROR_BODY]: body });
    }
    request.end(done);
  }
}
