"""What is started by the first test that needs it and serves all after that."""

import functools


def once(start):
    """A start that failed is not tried again: every test that needed it fails with its reason."""
    results = []

    @functools.wraps(start)
    def first():
        if not results:
            try:
                results.append((start(), None))
            except Exception as problem:
                results.append((None, str(problem)))
                raise
        result, problem = results[0]
        if problem is not None:
            raise AssertionError(f"{start.__name__} failed before: {problem}")
        return result

    return first
