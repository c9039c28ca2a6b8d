"""The replication reader: PostgreSQL logical replication in, Kafka out."""
