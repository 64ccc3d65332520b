"""Neptune servers of the 3.x API, through what comes with the client ``neptune-scale``.

Not by its `Run`, which starts a process for each run, and logs what the server refused
or forgets it, but by what it is built on: each request is answered, and what became of
it is asked for.
"""
