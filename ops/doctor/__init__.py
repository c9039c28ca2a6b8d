"""`cdrstream doctor`: is everything there that the system needs, and what to do where it is not.

Facts are gathered first, over few connections; checks judge them as pure functions. Read-only but
for one scratch record in Kafka. What may not be looked at is a warning "cannot tell", never ok.
"""
