"""HTTP in front of a `DeltaMem`: OpenAI's API, REST, access tokens. `deltamem serve` runs it.

Needs the extra ``serve``. Nothing here stores, folds or searches: routes check what they are given and call the same
`AgentMemory` that a Python program calls. Environment variables are read by `deltamem serve` and here, nowhere below.
May import `frameworks`, `memory` and the layers below; imports torch only where a backbone is open.
"""

from deltamem_agents.serving.app import create_app
from deltamem_agents.serving.settings import Settings

__all__ = ["Settings", "create_app"]
