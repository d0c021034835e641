"""OpenAI's API with memory, answered by the backbone or passed on to an upstream.

Chat completions and responses are journalled; completions and embeddings are not, as a raw prompt has no turns.
"""

from fastapi import APIRouter

from deltamem_agents.serving.openai import chat, completions, models, responses

router = APIRouter(prefix="/v1")
for _each in (chat, completions, responses, models):
    router.include_router(_each.router)

__all__ = ["router"]
