"""Reads a queue as consumers of AWS's extended client library do, and prints each body's `after.id` and length, a line each.

ENDPOINT bucket NAME makes a bucket; ENDPOINT queue URL COUNT reads.
"""

import json
import sys

import boto3
import sqs_extended_client  # noqa: F401 (it teaches boto3's client)

endpoint, what, name = sys.argv[1:4]
keys = {"region_name": "us-east-1", "aws_access_key_id": "test", "aws_secret_access_key": "test"}
s3 = boto3.client("s3", endpoint_url=endpoint, **keys)
if what == "bucket":
    s3.create_bucket(Bucket=name)
    sys.exit()

sqs = boto3.client("sqs", endpoint_url=endpoint, **keys)
sqs.s3_client = s3
sqs.delete_payload_from_s3 = True
left = int(sys.argv[4])
while left > 0:
    messages = sqs.receive_message(
        QueueUrl=name, MaxNumberOfMessages=10, WaitTimeSeconds=5, MessageAttributeNames=["All"]
    ).get("Messages", [])
    if not messages:
        sys.exit(f"{left} messages are missing")
    for message in messages:
        note = json.loads(message["Body"])["after"]
        print(note["id"], len(note["note"]), flush=True)
        sqs.delete_message(QueueUrl=name, ReceiptHandle=message["ReceiptHandle"])
        left -= 1
kept = s3.list_objects_v2(Bucket="large").get("KeyCount", 0)
print("objects", kept)
