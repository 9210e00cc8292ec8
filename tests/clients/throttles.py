"""Calls a function whose reserved concurrency is all busy, by the real boto3, and prints what it saw as one JSON object.
Arguments: endpoint, folder. A call is held up by a file that is not there yet."""

import json
import pathlib
import sys
import threading
import time

import boto3
from botocore.config import Config

endpoint, folder = sys.argv[1], pathlib.Path(sys.argv[2])
go, runs = folder / "go", folder / "runs"
data = json.dumps({"file": str(go), "runs": str(runs)}).encode()


def client(attempts=1, mode="standard"):
    return boto3.client(
        "lambda",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="x",
        aws_secret_access_key="y",
        config=Config(retries={"total_max_attempts": attempts, "mode": mode}, proxies={}, read_timeout=120),
    )


def call(by, function="wait", **more):
    answer = by.invoke(FunctionName=function, Payload=data, **more)
    return [answer["StatusCode"], answer["Payload"].read().decode(), answer["ResponseMetadata"]["RetryAttempts"]]


def throttled(by, function="wait"):
    try:
        call(by, function)
    except by.exceptions.TooManyRequestsException as error:
        response = error.response
        return {
            "class": type(error).__name__,
            "code": response["Error"]["Code"],
            "message": response["Error"]["Message"],
            "status": response["ResponseMetadata"]["HTTPStatusCode"],
            "retry_after": response.get("retryAfterSeconds"),
            "reason": response.get("Reason"),
            "type": response.get("Type"),
            "retries": response["ResponseMetadata"]["RetryAttempts"],
        }
    return None


def until(look):
    while not look():
        time.sleep(0.02)


def lines():
    return len(runs.read_text().splitlines()) if runs.exists() else 0


once = client()
seen, held = {}, []
holder = threading.Thread(target=lambda: held.append(call(client())))
holder.start()
until(lambda: lines() == 1)

seen["throttled"] = throttled(once)
seen["again"] = throttled(client(attempts=2))
seen["legacy"] = throttled(client(attempts=2, mode="legacy"))
seen["event"] = call(once, InvocationType="Event")
seen["dry_run"] = call(once, InvocationType="DryRun")
seen["ran_meanwhile"] = lines()

# One that is tried again gets its answer as soon as there is room.
patient, answered = client(attempts=30), []
retrier = threading.Thread(target=lambda: answered.append(call(patient)))
tries = []
patient.meta.events.register("before-send.lambda.Invoke", lambda **_: tries.append(1))
retrier.start()
until(lambda: len(tries) >= 2)
go.touch()
holder.join()
retrier.join()
seen["held"], seen["retried"] = held[0], answered[0]
until(lambda: lines() == 3)

# Another bound, while it runs.
seen["put"] = once.put_function_concurrency(FunctionName="wait", ReservedConcurrentExecutions=0)[
    "ReservedConcurrentExecutions"
]
seen["got"] = once.get_function_concurrency(FunctionName="wait").get("ReservedConcurrentExecutions")
seen["described"] = once.get_function(FunctionName="wait")["Concurrency"]["ReservedConcurrentExecutions"]
seen["none"] = throttled(once)
seen["other"] = call(once, "free")
seen["put_other"] = once.put_function_concurrency(FunctionName="free", ReservedConcurrentExecutions=3)[
    "ReservedConcurrentExecutions"
]
seen["got_other"] = once.get_function_concurrency(FunctionName="free").get("ReservedConcurrentExecutions")
for function in ["wait", "free"]:
    once.delete_function_concurrency(FunctionName=function)
seen["deleted"] = once.get_function_concurrency(FunctionName="wait").get("ReservedConcurrentExecutions")
seen["deleted_other"] = once.get_function_concurrency(FunctionName="free").get("ReservedConcurrentExecutions")
seen["after"] = call(once)
for name, wanted in [("too_many", 100_001), ("nobody", 1)]:
    try:
        once.put_function_concurrency(
            FunctionName="nobody" if name == "nobody" else "wait", ReservedConcurrentExecutions=wanted
        )
    except once.exceptions.ClientError as error:
        seen[name] = [type(error).__name__, error.response["ResponseMetadata"]["HTTPStatusCode"]]
print(json.dumps(seen))
