// A Runtime API for tests: hands out what it is given and remembers what comes back.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import http from 'node:http';
import { fileURLToPath } from 'node:url';

const BOOTSTRAP = fileURLToPath(new URL('../bootstrap.mjs', import.meta.url));
const FUNCTIONS = fileURLToPath(new URL('./functions', import.meta.url));

export class Emulator {
  #waiting = [];
  #events = [];
  #answers = [];
  #readers = [];
  #next = 1;
  limit = 1 << 20;

  static async start(handler, environment = {}) {
    const emulator = new Emulator();
    emulator.server = http.createServer((request, response) => emulator.#serve(request, response)).listen(0, '127.0.0.1');
    await once(emulator.server, 'listening');
    const { port } = emulator.server.address();
    emulator.process = spawn(process.execPath, [BOOTSTRAP, handler], {
      env: {
        AWS_LAMBDA_RUNTIME_API: `127.0.0.1:${port}`,
        AWS_LAMBDA_FUNCTION_NAME: 'test',
        AWS_LAMBDA_FUNCTION_VERSION: '$LATEST',
        AWS_LAMBDA_FUNCTION_MEMORY_SIZE: '128',
        LAMBDA_TASK_ROOT: FUNCTIONS,
        ...environment,
      },
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    emulator.output = '';
    emulator.process.stdout.on('data', (chunk) => (emulator.output += chunk));
    emulator.exited = once(emulator.process, 'exit').then(([status]) => status);
    return emulator;
  }

  // Queues an event; its request id.
  send(event, headers = {}) {
    const id = `id-${this.#next++}`;
    this.#events.push({ id, body: typeof event === 'string' ? event : JSON.stringify(event), headers });
    this.#hand();
    return id;
  }

  // The next thing that the runtime posts: { path, headers, body, trailers }.
  answer() {
    return new Promise((resolve) => {
      this.#readers.push(resolve);
      this.#match();
    });
  }

  async call(event, headers) {
    this.send(event, headers);
    return this.answer();
  }

  async stop() {
    this.process.kill('SIGKILL');
    await this.exited;
    this.server.closeAllConnections();
    this.server.close();
  }

  #serve(request, response) {
    if (request.url.endsWith('/next')) {
      this.#waiting.push(response);
      this.#hand();
      return;
    }
    const chunks = [];
    request.on('data', (chunk) => chunks.push(chunk));
    request.on('end', () => {
      const body = Buffer.concat(chunks);
      const refused = body.length > this.limit && request.url.endsWith('/response');
      this.#answers.push({ path: request.url, headers: request.headers, body: body.toString(), trailers: request.trailers, refused });
      response.writeHead(refused ? 413 : 202, { 'Content-Type': 'application/json' });
      response.end(refused ? '{"errorType":"RequestEntityTooLarge"}' : '{"status":"OK"}');
      this.#match();
    });
  }

  #hand() {
    while (this.#waiting.length > 0 && this.#events.length > 0) {
      const { id, body, headers } = this.#events.shift();
      this.#waiting.shift().writeHead(200, {
        'Lambda-Runtime-Aws-Request-Id': id,
        'Lambda-Runtime-Deadline-Ms': String(Date.now() + 10_000),
        'Lambda-Runtime-Invoked-Function-Arn': 'arn:aws:lambda:local:0:function:test',
        ...headers,
      }).end(body);
    }
  }

  #match() {
    while (this.#readers.length > 0 && this.#answers.length > 0) this.#readers.shift()(this.#answers.shift());
  }
}
