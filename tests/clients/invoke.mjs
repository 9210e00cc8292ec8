// Calls functions by the real @aws-sdk/client-lambda and prints what it saw as one JSON object.
// Arguments: endpoint, access key, secret, file.
import { createRequire } from "node:module";

const { LambdaClient, InvokeCommand, ListFunctionsCommand, GetFunctionCommand } = createRequire(
  `${process.env.NODE_PATH}/`,
)("@aws-sdk/client-lambda");

const [endpoint, accessKeyId, secretAccessKey, go] = process.argv.slice(2);
const client = (secret = secretAccessKey) =>
  new LambdaClient({
    endpoint,
    region: "us-east-1",
    credentials: { accessKeyId, secretAccessKey: secret },
    maxAttempts: 1,
  });
const lambdas = client();
const payload = JSON.stringify({ file: go });
const answered = ({ StatusCode, ExecutedVersion, FunctionError, Payload }) => ({
  status: StatusCode,
  version: ExecutedVersion ?? null,
  error: FunctionError ?? null,
  payload: Payload ? Buffer.from(Payload).toString() : "",
});
const invoke = async (input) => answered(await lambdas.send(new InvokeCommand(input)));
const refused = async (command, by = lambdas) => {
  try {
    await by.send(command);
    return null;
  } catch (error) {
    return { name: error.name, status: error.$metadata?.httpStatusCode, message: error.message };
  }
};

const seen = {
  invoked: await invoke({ FunctionName: "wait", Payload: payload }),
  failed: await invoke({ FunctionName: "retry", Payload: '{"from_attempt":9}' }),
  event: await invoke({ FunctionName: "wait", Payload: payload, InvocationType: "Event" }),
  dry_run: await invoke({ FunctionName: "wait", InvocationType: "DryRun" }),
  functions: (await lambdas.send(new ListFunctionsCommand({}))).Functions.map((one) => one.FunctionName),
  timeout: (await lambdas.send(new GetFunctionCommand({ FunctionName: "seen" }))).Configuration.Timeout,
  unknown: await refused(new InvokeCommand({ FunctionName: "nobody" })),
  no_json: await refused(new InvokeCommand({ FunctionName: "wait", Payload: "{" })),
  too_large: await refused(new InvokeCommand({ FunctionName: "wait", Payload: " ".repeat(6 * 1024 * 1024 + 1) })),
  wrong_secret: await refused(new ListFunctionsCommand({}), client("another")),
};
console.log(JSON.stringify(seen));
