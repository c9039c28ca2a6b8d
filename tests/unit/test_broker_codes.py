"""The numbers of Kafka's errors are those that the client gives."""

from __future__ import annotations

from confluent_kafka import KafkaError

from callstate.broker_codes import NOT_LED_NOW, ORDER_LOST, PASSES


def named(codes: frozenset[int]) -> set[str]:
    return {KafkaError(code).name() for code in codes}


def test_the_numbers_are_the_clients() -> None:
    assert named(NOT_LED_NOW) == {
        *("LEADER_NOT_AVAILABLE", "NOT_LEADER_FOR_PARTITION", "REPLICA_NOT_AVAILABLE"),
        *("FENCED_LEADER_EPOCH", "UNKNOWN_LEADER_EPOCH", "OFFSET_NOT_AVAILABLE"),
    }
    assert named(PASSES - NOT_LED_NOW) == {
        *("REQUEST_TIMED_OUT", "BROKER_NOT_AVAILABLE", "NETWORK_EXCEPTION", "NOT_CONTROLLER"),
        *("COORDINATOR_NOT_AVAILABLE", "THROTTLING_QUOTA_EXCEEDED"),
        *("_TIMED_OUT", "_ALL_BROKERS_DOWN", "_RESOLVE", "_TRANSPORT"),
    }
    assert named(ORDER_LOST) == {
        *("OUT_OF_ORDER_SEQUENCE_NUMBER", "INVALID_PRODUCER_EPOCH", "UNKNOWN_PRODUCER_ID"),
        "_FATAL",
    }
