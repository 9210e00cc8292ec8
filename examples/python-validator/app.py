"""Two functions on orders, as they would run on AWS Lambda: nothing here knows of Weft."""

from aws_lambda_powertools import Logger
from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType, process_partial_response
from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord
from aws_lambda_powertools.utilities.parser import BaseModel, parse
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

logger = Logger(service="orders")
processor = BatchProcessor(event_type=EventType.SQS)


class Line(BaseModel):
    article: str = Field(min_length=1)
    quantity: PositiveInt
    cents: NonNegativeInt


class Order(BaseModel):
    order_id: str = Field(pattern=r"^O-\d+$")
    lines: list[Line] = Field(min_length=1)
    total_cents: NonNegativeInt

    @model_validator(mode="after")
    def the_total_is_that_of_the_lines(self) -> "Order":
        total = sum(line.quantity * line.cents for line in self.lines)
        if total != self.total_cents:
            raise ValueError(f"the lines come to {total}, the order says {self.total_cents}")
        return self


def validate(event, context):
    """One order. A ValidationError reaches Weft as what it is; weft.toml says that it is for good."""
    order = parse(event=event, model=Order)
    logger.info("order is valid", order_id=order.order_id)
    return {"order_id": order.order_id, "articles": sum(line.quantity for line in order.lines)}


def count(record: SQSRecord):
    order = parse(event=record.json_body, model=Order)
    logger.info("order is counted", order_id=order.order_id)


def count_all(event, context):
    """Several orders in one call. Powertools names those that failed, and only they are tried again."""
    return process_partial_response(event=event, record_handler=count, processor=processor, context=context)
