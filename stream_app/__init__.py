"""The stream app: call state events in from Kafka, call detail records out to PostgreSQL.

May import `callstate`, Faust, confluent-kafka, psycopg and orjson; never `cdc`.
"""
