"""The tus protocol as values: text in, frozen values out, and back again.

Nothing here does I/O, looks at a clock or knows an HTTP library. What a request says is
parsed once (``requests``), judged by rules against a snapshot of the upload (``rules``) and
answered with a value (``responses``).
"""
