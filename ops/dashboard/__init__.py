"""The pages: what an operator looks at to learn who is late and why a call is not billed yet.

Owns serving them, read only. What is judged and worded is `ops.monitor`'s and `ops.explain`'s.
"""
