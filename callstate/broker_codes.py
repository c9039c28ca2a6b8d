"""What Kafka's error codes mean for whoever is given one.

Owns which of them pass by themselves, and which end a producer. Numbers, because no client is known
here: those above zero are Kafka's (its protocol guide, "Error Codes"), those below librdkafka's own
(rdkafka.h, `rd_kafka_resp_err_t`). Reader, worker and commands judge by the same.
"""

from __future__ import annotations

from typing import Final

# A partition that was just made, or moves, is not led for a moment by the broker that is asked.
NOT_LED_NOW: Final = frozenset(
    (
        5,  # leader not available
        6,  # not leader or follower
        9,  # replica not available
        74,  # fenced leader epoch
        75,  # unknown leader epoch
        78,  # offset not available
    )
)
# Nobody answers, or a cluster is not ready: nobody has to change anything.
PASSES: Final = NOT_LED_NOW | frozenset(
    (
        7,  # request timed out
        8,  # broker not available
        13,  # network exception
        15,  # coordinator not available
        41,  # not controller
        89,  # throttling quota exceeded
        -185,  # timed out
        -187,  # all brokers down
        -193,  # host resolution failed
        -195,  # transport failure
    )
)
# An idempotent producer has lost the order of its records, and sends nothing any more. These come
# before its last word, or in place of it.
ORDER_LOST: Final = frozenset(
    (
        45,  # out of order sequence number
        47,  # invalid producer epoch
        59,  # unknown producer id
        -150,  # fatal
    )
)
