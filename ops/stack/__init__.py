"""The local stack: real PostgreSQL servers and a real Apache Kafka broker on loopback.

    from ops.stack import ServerSpec, Stack

    with Stack(3, clocks={"b": "-5.5s", "c": "+0.7s x1.00005"}) as stack:
        stack["b"].dsn                   # superuser, database SIPXCDR
        stack["b"].dsn_for(user="cdr_reader")
        stack.sink.dsn                   # the server that holds the CDRs: by default the first
        stack.broker.bootstrap_servers   # 127.0.0.1:port; topics are not made by themselves

        server = stack["b"]
        server.stop(); server.start()    # same port; also restart(), kill(), pause(), resume()
        server.started_at                # wall time at which its clock began (drift counts from it)
        server.clock_offset_seconds      # how far it is ahead of this machine now
        stack.broker.kill(); stack.broker.start()

        extra = stack.add_server(ServerSpec("x", version="17", clock="+0s", steppable=True))
        extra.set_clock("-1.5s")         # a step, while it runs

Everything listens on 127.0.0.1, on ports that were free and below 32768, runs as `postgres` or
`nobody` when root starts it, and ends with the process that made the `Stack`, however that ends.
Errors are `StackError`s: a sentence and a line of advice.
"""

from __future__ import annotations

from ops.stack.errors import PortTakenError, StackError
from ops.stack.kafka import BrokerSpec, KafkaBroker
from ops.stack.postgres import DATABASE, SUPERUSER, PostgresServer, ServerSpec
from ops.stack.security import BrokerSecurity, Certificate
from ops.stack.stack import Stack

__all__ = [
    "DATABASE",
    "SUPERUSER",
    "BrokerSecurity",
    "BrokerSpec",
    "Certificate",
    "KafkaBroker",
    "PortTakenError",
    "PostgresServer",
    "ServerSpec",
    "Stack",
    "StackError",
]
