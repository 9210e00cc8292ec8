"""Calls a function with LogType Tail by the real boto3 and prints what it saw as one JSON object. Argument: endpoint."""

import base64
import json
import sys

import boto3
from botocore.config import Config

lambdas = boto3.client(
    "lambda",
    endpoint_url=sys.argv[1],
    region_name="us-east-1",
    aws_access_key_id="x",
    aws_secret_access_key="y",
    config=Config(retries={"total_max_attempts": 1}, proxies={}),
)


def call(log_type="Tail", function="app", **data):
    answer = lambdas.invoke(FunctionName=function, Payload=json.dumps(data).encode(), LogType=log_type)
    log = answer.get("LogResult")
    return {
        "id": answer["ResponseMetadata"]["RequestId"],
        "error": answer.get("FunctionError"),
        "payload": json.loads(answer["Payload"].read()),
        "log": base64.b64decode(log).decode() if log is not None else None,
    }


seen = {
    "cold": call(say=["first", "zweitens ü"]),
    "warm": call(say=["second"]),
    "silent": call(say=[]),
    "failed": call(say=["about to fail"], fail=True),
    "long": call(say=["x" * 99] * 2000),
    "none": call(log_type="None", say=["nobody asked"]),
    "native": call(function="speak", file=None),
    "many": [call(say=[f"line {number}"])["log"] for number in range(30)],
}
print(json.dumps(seen))
