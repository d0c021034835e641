"""Memory and repository guidelines as an MCP server, made of the official SDK's classes: ``deltamem mcp``.

Importing this package imports no SDK and no torch. `server` builds the server, `stdio` and `http` run it; `memories`
opens what a tool needs when it is first called, so that the list of tools is there at once.
May import memory, guidelines and all below.
"""
