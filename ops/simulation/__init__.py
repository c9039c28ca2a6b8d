"""Traffic as proxies would write it, with the truth about it: pure, and a function of its seed.

`traffic.generate(spec)` makes it, `folder.write_folder` puts it on disk in the form that `cdrstream
resolve` reads, `score` compares CDRs with the truth. Nothing here looks at a clock or opens a
socket.
"""
