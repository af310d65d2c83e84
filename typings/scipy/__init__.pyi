# scipy carries no types; what is inferred from its source are unions that no caller can use.
from typing import Any

def __getattr__(name: str) -> Any: ...
