// Calls a function whose reserved concurrency is all busy, by the real @aws-sdk/client-lambda, and prints what it saw as one
// JSON object. Arguments: endpoint, folder. A call is held up by a file that is not there yet.
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { setTimeout as pause } from "node:timers/promises";

const { LambdaClient, InvokeCommand, TooManyRequestsException } = createRequire(`${process.env.NODE_PATH}/`)(
  "@aws-sdk/client-lambda",
);

const [endpoint, folder] = process.argv.slice(2);
const [go, runs] = [`${folder}/go`, `${folder}/runs`];
const client = (maxAttempts) =>
  new LambdaClient({ endpoint, region: "us-east-1", credentials: { accessKeyId: "x", secretAccessKey: "y" }, maxAttempts });
const command = () => new InvokeCommand({ FunctionName: "wait", Payload: JSON.stringify({ file: go, runs }) });
const call = async (by) => {
  const { StatusCode, Payload, $metadata } = await by.send(command());
  return { status: StatusCode, payload: Buffer.from(Payload).toString(), attempts: $metadata.attempts };
};
const throttled = async (by) => {
  try {
    await call(by);
    return null;
  } catch (error) {
    return {
      is: error instanceof TooManyRequestsException,
      name: error.name,
      status: error.$metadata.httpStatusCode,
      attempts: error.$metadata.attempts,
      reason: error.Reason,
      type: error.Type,
      retry_after: error.retryAfterSeconds,
      fault: error.$fault,
    };
  }
};
const lines = () => (existsSync(runs) ? readFileSync(runs, "utf8").trim().split("\n").length : 0);
const until = async (look) => {
  while (!look()) await pause(20);
};

const held = call(client(1));
await until(() => lines() === 1);
const seen = { throttled: await throttled(client(1)), again: await throttled(client(2)), ran_meanwhile: lines() };
const patient = client(60);
let tries = 0;
patient.middlewareStack.add((next) => (args) => { tries += 1; return next(args); }, { step: "finalizeRequest", priority: "low" });
const retried = call(patient);
await until(() => tries >= 2);
writeFileSync(go, "");
Object.assign(seen, { held: await held, retried: await retried });
console.log(JSON.stringify(seen));
