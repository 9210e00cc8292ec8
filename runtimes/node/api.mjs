// The AWS Lambda Runtime API, seen from the runtime: one function per call, nothing remembered.
//
// `next` may block for ever, so nothing here sets a timeout; connections are kept open and do not hold the process up.

import http from 'node:http';

const BASE = '/2018-06-01/runtime';
const JSON_TYPE = 'application/json';
const STREAMED = { 'Lambda-Runtime-Function-Response-Mode': 'streaming' };
export const ERROR_TYPE = 'Lambda-Runtime-Function-Error-Type';
export const ERROR_BODY = 'Lambda-Runtime-Function-Error-Body';

export class RuntimeApi {
  // `address`: host:port. `loops`: how many invocations are asked for at once.
  constructor(address, loops) {
    const colon = address.lastIndexOf(':');
    this.host = address.slice(0, colon).replace(/^\[|\]$/g, '');
    this.port = Number(address.slice(colon + 1));
    this.agent = new http.Agent({ keepAlive: true, maxSockets: 2 * loops });
  }

  // The next invocation, when there is one.
  async next() {
    const { headers, body } = await this.#call('GET', '/invocation/next');
    const id = headers['lambda-runtime-aws-request-id'];
    if (!id) throw new Error('the Runtime API gave an invocation without its request id');
    return {
      id,
      deadlineMs: Number(headers['lambda-runtime-deadline-ms']),
      arn: headers['lambda-runtime-invoked-function-arn'],
      traceId: headers['lambda-runtime-trace-id'],
      tenantId: headers['lambda-runtime-aws-tenant-id'],
      clientContext: headers['lambda-runtime-client-context'],
      identity: headers['lambda-runtime-cognito-identity'],
      body,
    };
  }

  respond(id, body) {
    return this.#call('POST', `/invocation/${id}/response`, { 'Content-Type': JSON_TYPE }, body);
  }

  fail(id, error) {
    return this.#call('POST', `/invocation/${id}/error`, failure(error), JSON.stringify(error));
  }

  failInit(error) {
    return this.#call('POST', '/init/error', failure(error), JSON.stringify(error));
  }

  // A response that is written piece by piece: the request to write to, and a promise of the answer.
  stream(id, contentType) {
    const headers = { ...STREAMED, 'Content-Type': contentType, Trailer: `${ERROR_TYPE}, ${ERROR_BODY}` };
    return this.#open('POST', `/invocation/${id}/response`, headers);
  }

  async #call(method, path, headers = {}, body = undefined) {
    const payload = body === undefined ? undefined : Buffer.from(body);
    const length = payload === undefined ? {} : { 'Content-Length': payload.length };
    const { request, answer } = this.#open(method, path, { ...headers, ...length });
    request.end(payload);
    const { status, headers: answered, body: text } = await answer;
    if (status >= 300) throw new Refused(method, path, status, text);
    return { headers: answered, body: text };
  }

  #open(method, path, headers) {
    const request = http.request({ host: this.host, port: this.port, agent: this.agent, method, path: BASE + path, headers });
    const answer = new Promise((resolve, reject) => {
      request.on('error', reject);
      request.on('response', (response) => {
        const chunks = [];
        response.on('data', (chunk) => chunks.push(chunk));
        response.on('error', reject);
        response.on('end', () =>
          resolve({ status: response.statusCode, headers: response.headers, body: Buffer.concat(chunks).toString('utf8') }));
      });
    });
    return { request, answer };
  }
}

// What the Runtime API refused, such as an answer that is too large.
export class Refused extends Error {
  constructor(method, path, status, text) {
    super(`${method} ${path} was refused with ${status}: ${text}`);
    this.name = 'Runtime.Refused';
    this.status = status;
  }
}

function failure(error) {
  return { 'Content-Type': JSON_TYPE, [ERROR_TYPE]: headerValue(error.errorType) };
}

// A header holds no line breaks and no letters beyond Latin-1.
function headerValue(text) {
  return String(text).replace(/[^\x20-\x7e]/g, '?');
}
