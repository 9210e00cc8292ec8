"""Calls functions by the real boto3 and prints what it saw as one JSON object. Arguments: endpoint, access key, secret, file."""

import base64
import datetime
import json
import sys

import boto3
import botocore.auth
from botocore.config import Config

endpoint, access_key, secret, go = sys.argv[1:]


def client(secret=secret, access_key=access_key, retries=1):
    return boto3.client(
        "lambda",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id=access_key,
        aws_secret_access_key=secret,
        config=Config(retries={"total_max_attempts": retries, "mode": "standard"}, proxies={}),
    )


def answered(answer):
    return {
        "status": answer["StatusCode"],
        "version": answer.get("ExecutedVersion"),
        "error": answer.get("FunctionError"),
        "payload": answer["Payload"].read().decode(),
    }


def refused(call, **arguments):
    try:
        call(**arguments)
    except Exception as error:
        response = getattr(error, "response", {})
        return {
            "class": type(error).__name__,
            "code": response.get("Error", {}).get("Code"),
            "message": response.get("Error", {}).get("Message"),
            "status": response.get("ResponseMetadata", {}).get("HTTPStatusCode"),
        }
    return None


lambdas = client()
seen = {}
data = json.dumps({"file": go}).encode()
seen["invoked"] = answered(lambdas.invoke(FunctionName="wait", Payload=data))
arn = lambdas.get_function(FunctionName="wait")["Configuration"]["FunctionArn"]
seen["by_arn"] = answered(lambdas.invoke(FunctionName=arn, Payload=data, Qualifier="$LATEST"))
context = base64.b64encode(json.dumps({"custom": {"a": "b"}}).encode()).decode()
seen["with_context"] = answered(lambdas.invoke(FunctionName="wait", Payload=data, ClientContext=context, LogType="Tail"))
seen["failed"] = answered(lambdas.invoke(FunctionName="retry", Payload=b'{"from_attempt":9}'))
seen["event"] = answered(lambdas.invoke(FunctionName="wait", Payload=data, InvocationType="Event"))
seen["dry_run"] = answered(lambdas.invoke(FunctionName="wait", InvocationType="DryRun"))

pages = lambdas.get_paginator("list_functions").paginate(PaginationConfig={"PageSize": 2})
seen["functions"] = [[one["FunctionName"] for one in page["Functions"]] for page in pages]
one = lambdas.get_function_configuration(FunctionName="seen")
seen["configuration"] = [one["FunctionName"], one["Handler"], one["Timeout"], one["MemorySize"], one["Version"]]
seen["concurrency"] = lambdas.get_function_concurrency(FunctionName="exit").get("ReservedConcurrentExecutions")
seen["no_concurrency"] = lambdas.get_function_concurrency(FunctionName="wait").get("ReservedConcurrentExecutions")

seen["unknown"] = refused(lambdas.invoke, FunctionName="nobody")
seen["no_json"] = refused(lambdas.invoke, FunctionName="wait", Payload=b"{")
seen["too_large"] = refused(lambdas.invoke, FunctionName="wait", Payload=b" " * (6 * 1024 * 1024 + 1))
seen["version"] = refused(lambdas.invoke, FunctionName="wait", Qualifier="7")
seen["wrong_secret"] = refused(client(secret="another").list_functions)
seen["wrong_key"] = refused(client(access_key="SOMEBODY").list_functions)

# From here on the client signs as if it were an hour ago.
now = botocore.auth.get_current_datetime
botocore.auth.get_current_datetime = lambda *given: now(*given) - datetime.timedelta(hours=1)
seen["expired"] = refused(client().list_functions)
print(json.dumps(seen))
