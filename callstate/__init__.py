"""The domain: call state events in, call detail records out.

Pure by contract: no I/O, no wall clock, no logging, no randomness, no framework and no
import outside the standard library. The same records in give the same effects out, byte for
byte, which is what makes a replay a proof. import-linter holds the import rule in CI.
"""
