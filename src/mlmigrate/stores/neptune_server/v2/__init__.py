"""Neptune servers of the 2.x API, through the client ``neptune``."""
