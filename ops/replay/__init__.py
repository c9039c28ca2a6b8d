"""Replay: the CDRs of any range made again from the same records, and what is different.

Reads what the live run read, drives the same `PartitionProcessor`, writes into shadow tables of its
own, and compares. Nothing that is billed changes before `replay apply`.
"""
